"""What a connection is made from. One Configuration serves any number of connections."""

from __future__ import annotations

from dataclasses import dataclass, field

from stoq.errors import ConfigurationError
from stoq.tls import TlsConfiguration

# RFC 9000 §14: what every path carries. RFC 8200 and Ethernet: 1500 - 40 - 8.
DATAGRAM_MIN = 1200
DATAGRAM_DEFAULT = 1452
STREAMS_MAX = 1 << 60


@dataclass
class Configuration:
    """Everything about a connection that is fixed before it starts.

    tls: names, trust and certificates (either role).
    idle_timeout: seconds without a packet after which the connection is over; 0: never.
    handshake_timeout: seconds the handshake may take; 0: no limit.
    max_streams_bidi, max_streams_uni: streams of the peer that may be open at once.
    max_datagram_size: bytes of UDP payload; larger than 1200 is used only once a probe of that size was acknowledged.
    congestion: name of the controller (stoq.core.cc.controller_names()).
    backend: name of the packet-protection library, None: the best one here.
    allow_null: must be set for the backend "null" of tests, which sends everything in clear and believes forgeries. No
        option of connect() and serve().
    knobs: other knobs of the core by name (stoq.core.knobs.KNOB_ROWS), for example {"stream_window": 1 << 20}.
    versions: QUIC versions, best first.
    grease: send a reserved transport parameter (RFC 9000 §18.1).
    """

    tls: TlsConfiguration
    idle_timeout: float = 30.0
    handshake_timeout: float = 10.0
    max_streams_bidi: int = 128
    max_streams_uni: int = 128
    max_datagram_size: int = DATAGRAM_DEFAULT
    active_connection_id_limit: int = 4
    congestion: str = "reno"
    backend: str | None = None
    versions: tuple[int, ...] = (1,)
    grease: bool = True
    knobs: dict[str, int] = field(default_factory=dict)
    allow_null: bool = False

    def __post_init__(self) -> None:
        if not DATAGRAM_MIN <= self.max_datagram_size <= 65527:
            raise ConfigurationError(f"max_datagram_size must be {DATAGRAM_MIN} to 65527")
        if not 2 <= self.active_connection_id_limit <= 8:
            raise ConfigurationError("active_connection_id_limit must be 2 to 8")
        if self.idle_timeout < 0 or self.handshake_timeout < 0:
            raise ConfigurationError("timeouts cannot be negative")
        for name in ("max_streams_bidi", "max_streams_uni"):
            if not 0 <= getattr(self, name) <= STREAMS_MAX:
                raise ConfigurationError(f"{name} must be 0 to 2**60")
        if self.backend == "null" and not self.allow_null:
            raise ConfigurationError("the backend null protects nothing: it is for tests, with allow_null=True")
        if not self.versions:
            raise ConfigurationError("at least one QUIC version is needed")
