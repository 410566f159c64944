from collections.abc import Callable
from typing import Any

KEY_MIN: int
SECOND: int
RETRY_LIFETIME: int
NEW_TOKEN_LIFETIME: int
HALF_OPEN_RETRY: int
HALF_OPEN_MAX: int
MAX_CONNECTIONS: int

Address = tuple[str, int]

class Admission:
    def decide(
        self, token: bytes, dcid: bytes, scid: bytes, address: Address, now: int, half_open: int, connections: int
    ) -> dict[str, Any]: ...
    def mint_retry(
        self, address: Address, original_dcid: bytes, retry_scid: bytes, version: int, now: int
    ) -> bytes: ...

class DefaultAdmission(Admission):
    half_open_retry: int
    half_open_max: int
    max_connections: int
    always_retry: bool
    clock: Callable[[], int] | None
    def __init__(
        self,
        key: bytes | None = None,
        *,
        half_open_retry: int = ...,
        half_open_max: int = ...,
        max_connections: int = ...,
        always_retry: bool = False,
        token_lifetime: float = ...,
        clock: Callable[[], int] | None = None,
    ) -> None: ...
    @property
    def retry_lifetime(self) -> int: ...
    @property
    def token_lifetime(self) -> int: ...
    def token_time(self, now: int) -> int: ...
    def mac(self, body: bytes, version: int, address: bytes) -> bytes: ...
    def mint_new_token(self, address: Address, version: int, now: int) -> bytes: ...
    def decide(
        self,
        token: bytes,
        dcid: bytes,
        scid: bytes,
        address: Address,
        now: int,
        half_open: int,
        connections: int,
        *,
        version: int = 1,
        vouched: bool = False,
    ) -> dict[str, Any]: ...
