"""The program whose instructions are counted; the module `exchange` must be importable.

Everything in it is a function of its constants: simulated key exchange and signatures, seeded randomness, virtual
time, the `null` packet protection. Each phase runs with N and with 2N of its unit; the difference is N units.
"""

from __future__ import annotations

import gc
import json
import random
from importlib import import_module
from typing import Any

import stoq.crypto.aead_null
from stoq.connection.configuration import Configuration
from stoq.connection.factory import client_connection, server_connection
from stoq.crypto.simulated import (
    SIMULATED_GROUP,
    SIMULATED_SCHEME,
    register_simulated,
    simulated_authority,
    simulated_leaf,
)
from stoq.crypto.trust import TrustStore
from stoq.tls import TlsConfiguration

DELAY_NS = 50_000
UNITS = {"packet": 2000, "request": 200, "handshake": 5}  # N of each phase
PAYLOAD = 1400  # about what a packet of 1,452 bytes carries
CHUNK = bytes(1 << 20)
ECHO = bytes(64)

assert stoq.crypto.aead_null is not None  # imported to be registered
exchange: Any = import_module("exchange")


def configurations() -> tuple[Configuration, Configuration]:
    register_simulated()
    common: dict[str, Any] = {
        "groups": [SIMULATED_GROUP],
        "signature_schemes": [SIMULATED_SCHEME],
        "alpn_protocols": ["perf"],
    }
    trust = TrustStore([simulated_authority().certificate])
    client = TlsConfiguration(is_client=True, server_name="localhost", trust=trust, **common)
    server = TlsConfiguration(is_client=False, credentials=simulated_leaf().credentials(), **common)
    null: dict[str, Any] = {"backend": "null", "allow_null": True}
    return Configuration(tls=client, **null), Configuration(tls=server, **null)


class Pair:
    """Two connections of one seed, connected on construction."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        bits = rng.randbytes
        now = 1_000_000_000
        client_address, server_address = ("127.0.0.1", 4433), ("127.0.0.2", 4433)
        self.client = client_connection(
            CLIENT, server_address, now_ns=now, random=bits, cid=bits(8), original_dcid=bits(8)
        )
        self.server = server_connection(
            SERVER, client_address, None, now_ns=now, random=bits, cid=bits(8),
            original_dcid=self.client.first_dcid, reset_token=bits(16),
        )  # fmt: skip
        self.exchange = exchange.Exchange(self.client, self.server, now, DELAY_NS)
        self.until(lambda: self.client.handshake_confirmed and self.server.handshake_confirmed)
        self.client.events()
        self.server.events()

    def until(self, done: Any) -> None:
        for _ in range(100_000):
            if done():
                return
            self.exchange.step()
        raise RuntimeError(f"no end: {self.client.close_reason}, {self.server.close_reason}")

    def accepted(self) -> Any:
        """The stream that the client has just opened, at the server."""
        while True:
            self.exchange.step()
            for name, value in self.server.events():
                if name == "stream_opened":
                    return value

    def download(self, size: int) -> int:
        """One stream, server to client; returns the packets that the server sent."""
        before = self.server.stats()["packets_sent"]
        stream = self.client.open_stream()
        stream.write(b"?")
        stream.finish()
        source = self.accepted()
        left, got = size, 0
        while got < size:
            while left and source.buffered() <= len(CHUNK):
                source.write(CHUNK if left >= len(CHUNK) else CHUNK[:left])
                left = max(0, left - len(CHUNK))
                if not left:
                    source.finish()
            self.exchange.step()
            self.client.events()
            while data := stream.take(1 << 30):
                got += len(data)
        self.until(lambda: stream.ended)
        packets: int = self.server.stats()["packets_sent"] - before
        return packets

    def requests(self, count: int) -> int:
        """64-byte echoes, each on a new stream."""
        for _ in range(count):
            stream = self.client.open_stream()
            stream.write(ECHO)
            stream.finish()
            other = self.accepted()
            other.write(other.take(1 << 20))
            other.finish()
            self.until(lambda stream=stream: stream.unread == len(ECHO))
            stream.take(1 << 20)
            self.client.events()
        return count


def packets(n: int) -> int:
    return Pair(1).download(n * PAYLOAD)


def requests(n: int) -> int:
    return Pair(2).requests(n)


def handshakes(n: int) -> int:
    for seed in range(n):
        Pair(100 + seed)
    return n


def main() -> None:
    phases = {"packet": packets, "request": requests, "handshake": handshakes}
    for run in phases.values():
        run(20)  # caches, lazy imports, the allocator
    gc.collect()
    gc.disable()
    units = {}
    for name, run in phases.items():
        for factor in (1, 2):
            exchange.begin()
            units[f"{name}{factor}"] = run(UNITS[name] * factor)
            exchange.end(f"{name}{factor}".encode())
    print(json.dumps({"units": units, "counted": exchange.valgrind()}))


if __name__ == "__main__":
    CLIENT, SERVER = configurations()
    main()
