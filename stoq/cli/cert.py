"""`stoq cert`: a throw-away certificate authority and a server certificate."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from stoq.testing.certificates import make_leaf, make_test_ca


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


@click.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--name", "names", multiple=True, default=["localhost", "127.0.0.1", "::1"], show_default=True)
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 3650))
@click.option("--force", is_flag=True, help="Replace what stands there.")
def cert(out: Path, names: tuple[str, ...], days: int, force: bool) -> None:
    """Make a test CA (ca.pem) and a certificate for host names and addresses (cert.pem, key.pem).

    For tests and development: the authority's own key is thrown away.
    """
    paths = [out / name for name in ("ca.pem", "cert.pem", "key.pem")]
    standing = [path.name for path in paths if path.exists()]
    if standing and not force:
        raise click.ClickException(f"{out} already has {', '.join(standing)}; --force replaces them")
    now = datetime.now(UTC)
    authority = make_test_ca(now, days=days)
    leaf = make_leaf(authority, names, now, days=days)
    out.mkdir(parents=True, exist_ok=True)
    paths[0].write_bytes(authority.certificate_pem)
    paths[1].write_bytes(leaf.chain_pem)
    write_private(paths[2], leaf.key_pem)
    print(f"{paths[0]}: give it to clients (stoq get --ca-file)")
    print(f"{paths[1]}, {paths[2]}: for the server, valid {days} days for {', '.join(names)}")
