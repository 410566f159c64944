"""The command's entry point: one line on stderr and an exit code for whatever goes wrong."""

from __future__ import annotations

import os
import sys

try:
    import click
    import rich  # noqa: F401 - asked here so that the hint below covers it
except ModuleNotFoundError as missing:
    raise SystemExit(f"stoq: the command needs {missing.name}: pip install 'stoq[cli]'") from None

import stoq
from stoq.cli.cert import cert
from stoq.cli.doctor import doctor
from stoq.cli.get import get
from stoq.cli.serve import serve
from stoq.errors import StoqError, one_line

EXIT_FAILURE = 1
EXIT_USAGE = 2  # click's own
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(stoq.__version__, prog_name="stoq")
def command() -> None:
    """Move files over QUIC, make test certificates, look at what this machine can do."""


for each in (serve, get, cert, doctor):
    command.add_command(each)


def complain(text: str) -> None:
    print(f"stoq: {one_line(text)}", file=sys.stderr)


def describe(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def run(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code. Errors of the user, the network or the peer never show a traceback."""
    try:
        result = command.main(args=arguments, prog_name="stoq", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "stoq"
        complain(f"{error.format_message()} See `{where} --help`.")
        return EXIT_USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return EXIT_FAILURE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except StoqError as error:
        complain(str(error))
        return EXIT_FAILURE
    except BrokenPipeError:
        # The reader of our output went away; nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:
        complain(describe(error))
        return EXIT_FAILURE
    return result if isinstance(result, int) else 0


def main() -> None:
    sys.exit(run())
