import logging
from collections.abc import Callable
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.connection.connection import Connection
from stoq.endpoint.admission import Address, Admission
from stoq.endpoint.cid_scheme import CidScheme
from stoq.endpoint.demux import Demux, Unknown
from stoq.endpoint.session import Driver, Session
from stoq.endpoint.timerheap import TimerHeap
from stoq.io.transport import Transport

logger: logging.Logger

StreamFactory = Callable[[Connection, int], Any]

class Endpoint(Demux):
    session_factory: Callable[[], Session]
    stream_factory: StreamFactory | None
    receive_batches: int
    end_early: bool
    when_empty: Callable[[], object] | None
    def __init__(
        self,
        transport: Transport,
        *,
        configuration: Configuration | None = None,
        admission: Admission | None = None,
        scheme: CidScheme | None = None,
        session_factory: Callable[[], Session] = ...,
        stream_factory: StreamFactory | None = None,
        unknown: Unknown | None = None,
        driver: Driver | None = None,
        clock: Callable[[], int] | None = None,
        random: Callable[[int], bytes] = ...,
    ) -> None: ...
    @property
    def timers(self) -> TimerHeap: ...
    @property
    def sessions(self) -> set[Session]: ...
    @property
    def driver(self) -> Driver: ...
    @property
    def is_blocked(self) -> bool: ...
    def connect(
        self,
        configuration: Configuration,
        peer: Address,
        session: Session,
        *,
        token: bytes = b"",
        original_dcid: bytes | None = None,
    ) -> Session: ...
    def forget_id(self, session: Session, cid: bytes) -> None: ...
    def handshake_ended(self) -> None: ...
    def _wake(self, connection: Connection) -> None: ...
    def on_readable(self) -> bool: ...
    def on_writable(self) -> None: ...
    def on_timer(self) -> None: ...
    def flush(self) -> None: ...
    def next_deadline(self) -> int | None: ...
    def schedule_timer(self, slot: int, deadline: int) -> None: ...
    def drain(self) -> None: ...
    def close(self, error_code: int = 0, reason: str = "", application: bool = True) -> None: ...
    def counters(self) -> dict[str, int]: ...
