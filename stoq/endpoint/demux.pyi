import logging
from collections.abc import Callable
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.endpoint.admission import Address
from stoq.endpoint.cid_scheme import CidScheme
from stoq.endpoint.session import Session
from stoq.io.transport import Transport

logger: logging.Logger
FATAL: tuple[type[BaseException], ...]

Unknown = str | Callable[[bytes, Address, object | None], object]

class Demux:
    unknown: Unknown
    @property
    def transport(self) -> Transport: ...
    @property
    def configuration(self) -> Configuration | None: ...
    @property
    def admission(self) -> Any: ...
    @property
    def scheme(self) -> CidScheme: ...
    @property
    def sessions(self) -> set[Session]: ...
    @property
    def half_open(self) -> int: ...
    @property
    def draining(self) -> bool: ...
    @property
    def closing(self) -> bool: ...
