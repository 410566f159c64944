from collections.abc import Callable

POOL_IDS: int
FIRST_POOL_IDS: int
RESET_KEY_MIN: int
TOKEN_LABEL: bytes
UNKNOWN_DROP: str
UNKNOWN_RESET: str

class CidScheme:
    length: int
    epoch: object
    def __init__(self, length: int) -> None: ...
    def make(self) -> bytes: ...
    def reset_token(self, cid: bytes) -> bytes: ...
    def recognise(self, cid: bytes) -> object | None: ...

class RandomCids(CidScheme):
    def __init__(
        self, length: int = 8, reset_key: bytes | None = None, random: Callable[[int], bytes] = ...
    ) -> None: ...
