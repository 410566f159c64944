"""The memory ledger tells the truth: what malloc gave out, and under the right names."""

from __future__ import annotations

import gc

import pytest
from connection_pair import Forge, Pair

from stoq.testing.seams import core_memory, heap_in_use


def test_the_total_is_the_sum() -> None:
    memory = core_memory(Pair().handshake().server)
    assert memory.pop("total") == sum(memory.values())
    assert memory["connection"] > 1000
    assert memory["paths"] > 100
    assert memory["keys"] == 2 * (64 + 1168 + 656)
    for name in ("crypto_buffers", "streams", "stream_buffers", "extensions", "tokens"):
        assert memory[name] == 0, name


def test_each_thing_is_booked_under_its_name() -> None:
    pair = Pair(both={"max_datagram_size": 1200}).handshake()
    pair.settle()
    before = core_memory(pair.server)

    def grown() -> set[str]:
        now = core_memory(pair.server)
        return {name for name, size in now.items() if size > before[name]} - {"total"}

    forge = Forge(pair, client=True)
    pair.give(pair.server, forge.frames((0x08, {"stream_id": 0, "offset": 5000, "data": b"x", "fin": False})))
    assert grown() == {"streams", "stream_table", "stream_buffers"}
    pair.give(pair.server, forge.frames((0x06, {"offset": 5000, "data": b"x"})))
    assert grown() == {"streams", "stream_table", "stream_buffers", "crypto_buffers"}
    first = core_memory(pair.server)["stream_buffers"]
    pair.sinks[0].stream.write(b"y" * 100)  # copied: below the size from which objects are kept
    assert core_memory(pair.server)["stream_buffers"] > first
    number = 40
    for number in range(40, 140, 2):
        pair.give(pair.server, forge.seal(b"\x01", number=number))
    assert "range_sets" in grown()


@pytest.mark.plain_build  # the sanitizer brings its own malloc
def test_the_ledger_follows_the_heap() -> None:
    """300 streams with a gap each: the heap grows by what the ledger says, within a fifth."""
    pair = Pair(server={"max_streams_uni": 400}, both={"max_datagram_size": 1200}).handshake()
    pair.settle()
    pair.server.listener = None
    forge = Forge(pair, client=True)
    datagrams = [
        forge.frames((0x08, {"stream_id": 4 * n + 2, "offset": 3000, "data": b"x" * 600, "fin": False}))
        for n in range(300)
    ]
    gc.collect()
    heap, ledger = heap_in_use(), core_memory(pair.server)["total"]
    for datagram in datagrams:
        pair.server.receive_datagram(datagram, ("192.0.2.1", 50000), pair.now)
    heap, ledger = heap_in_use() - heap, core_memory(pair.server)["total"] - ledger
    assert ledger > 300 * 1000
    # Python's own objects (a handle and its deque for each stream) come from malloc in part.
    python = 300 * 800
    assert 0.8 * ledger < heap < 1.2 * ledger + python
