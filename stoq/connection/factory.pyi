from collections.abc import Callable
from datetime import datetime

from stoq.connection.configuration import Configuration
from stoq.connection.connection import Connection

def utc_now() -> datetime: ...
def client_connection(
    configuration: Configuration,
    peer: tuple[str, int],
    *,
    now_ns: int,
    random: Callable[[int], bytes],
    cid: bytes,
    original_dcid: bytes,
    token: bytes = b"",
    now: Callable[[], datetime] = ...,
    version: int | None = None,
) -> Connection: ...
def server_connection(
    configuration: Configuration,
    peer: tuple[str, int],
    local: tuple[str, int] | None,
    *,
    now_ns: int,
    random: Callable[[int], bytes],
    cid: bytes,
    original_dcid: bytes,
    retry_scid: bytes | None = None,
    initial_dcid: bytes | None = None,
    validated: bool = False,
    version: int = 1,
    reset_token: bytes | None = None,
    now: Callable[[], datetime] = ...,
) -> Connection: ...
