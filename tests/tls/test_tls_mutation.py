"""Whatever happens to valid flights, a handshake ends in success or in TlsAlert."""

from __future__ import annotations

import random
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from tls_pair import (
    ServerFlight,
    cheap_client,
    cheap_server,
    client_configuration,
    client_hello,
    make,
    server_configuration,
)

from stoq.tls import Epoch, Handshake, TlsAlert, TlsConfiguration

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "delete", "insert", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 8),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, edits: list[tuple[str, float, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, where, value, count in edits:
        if not out:
            break
        at = int(where * len(out))
        if kind == "flip":
            out[at] ^= 1 << (value & 7)
        elif kind == "set":
            out[at] = value
        elif kind == "delete":
            del out[at : at + count]
        elif kind == "insert":
            out[at:at] = bytes([value]) * count
        elif kind == "repeat":
            out[at:at] = out[at : at + count * 16]
        else:
            del out[at:]
    return bytes(out)


def repair_heads(data: bytes, original: bytes) -> bytes:
    """Make the outer length fit again, so that the parser inside is reached."""
    return original[:1] + (len(data) - 4).to_bytes(3, "big") + data[4:] if len(data) >= 4 else data


@cache
def configurations(real: bool) -> tuple[TlsConfiguration, TlsConfiguration]:
    if real:
        return client_configuration(), server_configuration()
    return cheap_client(), cheap_server()


def feed(side: Handshake, epoch: Epoch, data: bytes) -> bool:
    """True when the data was accepted. Anything but TlsAlert propagates and fails the test."""
    try:
        side.receive(epoch, data)
    except TlsAlert:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(edits=EDITS, repair=st.booleans(), real=st.booleans())
def test_client_hello(edits: list[tuple[str, float, int, int]], repair: bool, real: bool) -> None:
    client, server = configurations(real)
    original = client_hello(client)
    data = mutate(original, edits)
    feed(make(server), Epoch.INITIAL, repair_heads(data, original) if repair else data)


@settings(max_examples=200, deadline=None)
@given(edits=EDITS, which=st.integers(0, 4), repair=st.booleans(), real=st.booleans(), size=st.integers(1, 700))
def test_server_flight(
    edits: list[tuple[str, float, int, int]], which: int, repair: bool, real: bool, size: int
) -> None:
    flight = ServerFlight(*configurations(real))
    sent = [flight.hello, flight.encrypted_extensions, flight.certificate, flight.verify, flight.finished]
    changed = mutate(sent[which], edits)
    if repair:
        changed = repair_heads(changed, sent[which])
    # Bytes behind the last message are refused, but a client that got everything before them is complete by then.
    same = changed.startswith(sent[which]) if which == 4 else changed == sent[which]
    sent[which] = changed
    if not feed(flight.client, Epoch.INITIAL, sent[0]):
        assert not flight.client.complete
        return
    rest = b"".join(sent[1:])
    for at in range(0, len(rest), size):
        if not feed(flight.client, Epoch.HANDSHAKE, rest[at : at + size]):
            break
    # The transcript authenticates every byte: nothing changed can complete.
    assert same or not flight.client.complete
    assert flight.client.complete or not same or len(changed) > len(flight.finished)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200), epoch=st.sampled_from(Epoch), seed=st.integers(0, 99))
def test_noise(data: bytes, epoch: Epoch, seed: int) -> None:
    source = random.Random(seed)
    client, server = make(cheap_client(), source.randbytes), make(cheap_server(), source.randbytes)
    client.start()
    feed(client, epoch, data)
    feed(server, epoch, data)
    feed(client, Epoch.INITIAL, b"\x02" + data)
    feed(server, Epoch.INITIAL, b"\x01" + data)
