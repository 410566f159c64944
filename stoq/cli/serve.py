"""`stoq serve`: the files of a directory over hq-interop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

import stoq
from stoq.cli import hq

# After a signal, for closing packets to be answered (RFC 9000 §10.2 lingers three PTO: that is 3 s for a handshake that
# stalled, which is long for somebody who pressed Ctrl-C).
LINGER_SECONDS = 1.0


def loop_factory(uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop; ClickException when uvloop is wanted and missing."""
    if not uvloop:
        return asyncio.new_event_loop
    try:
        import uvloop as package  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise click.ClickException("--uvloop needs uvloop: pip install uvloop") from None
    return package.new_event_loop


def shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def run(
    directory: Path, host: str, port: int, certificate: Path, private_key: Path, alpn: tuple[str, ...], log: bool
) -> None:
    """Serve until SIGINT or SIGTERM."""
    root = directory.resolve()
    report = partial(print, file=sys.stderr, flush=True) if log else (lambda _: None)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await stoq.serve(
        partial(hq.serve_connection, root=root, log=report),
        host,
        port,
        alpn=list(alpn),
        certificate=str(certificate),
        private_key=str(private_key),
    )
    address = server.sockname
    print(f"serving {directory} on https://{shown(address[0], address[1])} ({', '.join(alpn)})", flush=True)
    await stopped.wait()
    server.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), LINGER_SECONDS)


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; :: for all.")
@click.option("--port", default=4433, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option(
    "--certificate",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM chain, leaf first.",
)
@click.option(
    "--private-key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM key."
)
@click.option("--alpn", multiple=True, default=[hq.ALPN], show_default=True, help="May be repeated.")
@click.option("--uvloop", is_flag=True, help="Run on uvloop.")
@click.option("--log", is_flag=True, help="One line a request on stderr.")
def serve(
    directory: Path,
    host: str,
    port: int,
    certificate: Path,
    private_key: Path,
    alpn: tuple[str, ...],
    uvloop: bool,
    log: bool,
) -> None:
    """Serve the files of DIRECTORY. Links that lead out of it, and listings, are refused."""
    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner:
        runner.run(run(directory, host, port, certificate, private_key, alpn, log))
