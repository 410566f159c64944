"""Packet protection: one suite over every backend, then what only a real cipher promises."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoPair
from aioquic.tls import CipherSuite
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.crypto import aead, keys

LENGTHS = {aead.AES_128_GCM: 16, aead.AES_256_GCM: 32, aead.CHACHA20_POLY1305: 32}
IV = bytes(range(100, 112))
HEADER = bytes.fromhex("40c1c2c3c4c5c6c7c800000007")  # short header, packet number of 1 byte


def make_key(suite: int, backend: str = "openssl", seed: int = 1) -> aead.PacketKey:
    length = LENGTHS[suite]
    return aead.PacketKey(
        suite, bytes((seed + 7 * i) % 256 for i in range(length)), IV, bytes(range(seed, seed + length)), backend
    )


@pytest.fixture(params=[(b, s) for b in aead.backends() for s in LENGTHS], ids=lambda p: f"{p[0]}-{p[1]:#06x}")
def key(request: pytest.FixtureRequest) -> aead.PacketKey:
    backend, suite = request.param
    return make_key(suite, backend)


# ---- every backend


@pytest.mark.parametrize("size", [0, 1, 3, 15, 16, 17, 64, 287, 288, 289, 1200, 1350, 1452, 9000, 65535 - 16])
def test_round_trip(key: aead.PacketKey, size: int) -> None:
    plaintext = bytes(i * 7 % 256 for i in range(size))
    sealed = key.seal(size, HEADER, plaintext)
    assert len(sealed) == size + aead.TAG_LENGTH
    assert key.open(size, HEADER, sealed) == plaintext


def test_empty_header(key: aead.PacketKey) -> None:
    assert key.open(3, b"", key.seal(3, b"", b"payload")) == b"payload"


@pytest.mark.parametrize("byte", range(-16, 0))
def test_a_changed_tag_is_refused(key: aead.PacketKey, byte: int) -> None:
    sealed = bytearray(key.seal(1, HEADER, b"payload"))
    sealed[byte] ^= 0x80
    with pytest.raises(aead.AeadError):
        key.open(1, HEADER, bytes(sealed))


@pytest.mark.parametrize("size", range(17))
def test_a_packet_shorter_than_its_tag_is_refused(key: aead.PacketKey, size: int) -> None:
    sealed = key.seal(1, HEADER, b"")
    if size == aead.TAG_LENGTH:
        assert key.open(1, HEADER, sealed) == b""
    else:
        with pytest.raises(aead.AeadError):
            key.open(1, HEADER, sealed[:size])


@pytest.mark.parametrize("count", range(1, aead.BATCH_MAX + 1))
def test_a_batch_equals_its_packets_one_by_one(key: aead.PacketKey, count: int) -> None:
    packets = [(1000 + i, HEADER[: 1 + i % 13], bytes([i]) * (i * 23)) for i in range(count)]
    batch = aead.PacketBatch(packets)
    batch.seal(key)
    for i, (pn, header, plaintext) in enumerate(packets):
        assert batch.sealed(i) == key.seal(pn, header, plaintext)
    assert batch.open(key) == 0
    for i, (_, _, plaintext) in enumerate(packets):
        assert batch.ok(i)
        assert batch.payload(i) == plaintext


@pytest.mark.parametrize("count", [1, 2, 44, 64])
def test_one_bad_packet_of_a_batch_fails_alone(key: aead.PacketKey, count: int) -> None:
    packets = [(i, HEADER, bytes([i]) * 100) for i in range(count)]
    batch = aead.PacketBatch(packets)
    batch.seal(key)
    bad = count // 2
    batch.corrupt(bad, 100 + 5)  # in the tag, which all backends check
    assert batch.open(key) == 1
    assert [batch.ok(i) for i in range(count)] == [i != bad for i in range(count)]
    for i in set(range(count)) - {bad}:
        assert batch.payload(i) == packets[i][2]


@pytest.mark.parametrize("head", [0, 1, 12, 16, 40])
@pytest.mark.parametrize("tail", [0, 1, 15, 64, 1300, 4000])
def test_a_tail_seals_as_if_it_were_in_place(key: aead.PacketKey, head: int, tail: int) -> None:
    heads = [bytes([i]) * head for i in range(5)]
    tails = [bytes((i + j) % 251 for j in range(tail)) for i in range(5)]
    apart = aead.PacketBatch([(i, HEADER, heads[i]) for i in range(5)], tails)
    joined = aead.PacketBatch([(i, HEADER, heads[i] + tails[i]) for i in range(5)])
    apart.seal(key)
    joined.seal(key)
    assert [apart.sealed(i) for i in range(5)] == [joined.sealed(i) for i in range(5)]
    assert tails == [bytes((i + j) % 251 for j in range(tail)) for i in range(5)]  # the source is only read


def test_tails_may_move_along_a_source(key: aead.PacketKey) -> None:
    source = bytes(i % 253 for i in range(10_000))
    batch = aead.PacketBatch([(i, HEADER, b"head") for i in range(4)], [bytes(1000)] * 4)
    batch.point_tails(source, 500, 1001)
    batch.seal(key)
    assert batch.open(key) == 0
    for i in range(4):
        start = 500 + i * 1001
        assert batch.payload(i) == b"head" + source[start : start + 1000]
    with pytest.raises(ValueError, match="too short"):
        batch.point_tails(source, 9_001, 0)
    for offset, stride in ((9_000, 1), (0, 3_001), ((1 << 63) - 1, 0), (0, (1 << 63) - 1), (1 << 62, 1 << 62)):
        with pytest.raises(ValueError, match="too short"):
            batch.point_tails(source, offset, stride)
    batch.point_tails(source, 0, 3_000)


def test_a_batch_takes_bytes_only() -> None:
    wrong: list[Any] = [([(1, None, b"x")], None), ([(1, b"h", None)], None), ([(1, b"h", b"x")], [None])]
    for batch, tails in wrong:
        with pytest.raises(TypeError):
            aead.PacketBatch(batch, tails)
    packets: list[Any] = []

    class Number:
        """Changes the batch's list while it is read."""

        def __index__(self) -> int:
            packets[-1] = (1, HEADER, bytes(1000))
            return 1

    packets += [(1, HEADER, b"x"), (Number(), HEADER, b"x")]
    assert aead.PacketBatch(packets).payload(1) == b"x"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 44, 64])
def test_masks_of_a_batch_equal_single_ones(key: aead.PacketKey, count: int) -> None:
    samples = [bytes((i * 31 + j) % 256 for j in range(16)) for i in range(count)]
    assert key.header_masks(b"".join(samples)) == b"".join(key.header_mask(s) for s in samples)


@pytest.mark.parametrize("pn_length", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [0x40, 0xC0], ids=["short", "long"])
def test_packets_round_trip(key: aead.PacketKey, first: int, pn_length: int) -> None:
    pn = 0x12345678 & ((1 << (8 * pn_length)) - 1)
    header = bytes([first | (pn_length - 1)]) + b"\xc1" * 8 + pn.to_bytes(pn_length, "big")
    packet = key.encrypt_packet(header, b"plaintext", pn)
    assert key.decrypt_packet(packet, 9, pn) == (header, b"plaintext", pn)


def test_the_smallest_packet(key: aead.PacketKey) -> None:
    """Packet number and payload together have 4 bytes, or there is nothing to sample (RFC 9001 §5.4.2)."""
    header = b"\x41\x00\x01"
    assert key.decrypt_packet(key.encrypt_packet(header, b"ab", 1), 1, 0) == (header, b"ab", 1)
    with pytest.raises(ValueError, match="too short"):
        key.encrypt_packet(header, b"a", 1)
    with pytest.raises(aead.AeadError, match="too short"):
        key.decrypt_packet(bytes(20), 1, 0)
    with pytest.raises(aead.AeadError, match="too short"):
        key.decrypt_packet(b"", 1, 0)


def test_the_truncated_number_is_decoded_near_the_expected_one(key: aead.PacketKey) -> None:
    packet = key.encrypt_packet(b"\x41\x9b\x32", b"payload", 0xA82F9B32)  # RFC 9000 A.3
    assert key.decrypt_packet(packet, 1, 0xA82F30EB)[2] == 0xA82F9B32


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(aead.backends()), st.sampled_from(sorted(LENGTHS)), st.binary(max_size=80), st.integers(1, 90))
def test_random_bytes_never_open_and_never_crash(backend: str, suite: int, packet: bytes, pn_offset: int) -> None:
    key = make_key(suite, backend)
    if backend == "null":
        packet += b"\1"  # never a tag of zeros
    with pytest.raises(aead.AeadError):
        key.decrypt_packet(packet, pn_offset, 0)


BAD_CALLS: dict[str, Callable[[aead.PacketKey], object]] = {
    "negative number": lambda key: key.seal(-1, HEADER, b""),
    "number too large": lambda key: key.seal(1 << 62, HEADER, b""),
    "huge number": lambda key: key.open(1 << 80, HEADER, bytes(16)),
    "long plaintext": lambda key: key.seal(0, HEADER, bytes(65536)),
    "long header": lambda key: key.seal(0, bytes(65536), b""),
    "long ciphertext": lambda key: key.open(0, HEADER, bytes(65536)),
    "short sample": lambda key: key.header_mask(bytes(15)),
    "two samples": lambda key: key.header_mask(bytes(32)),
    "uneven samples": lambda key: key.header_masks(bytes(17)),
    "too many samples": lambda key: key.header_masks(bytes(16 * 65)),
    "no header": lambda key: key.encrypt_packet(b"", b"payload", 0),
    "header without number": lambda key: key.encrypt_packet(b"\x43\x00\x00", b"payload", 0),
    "number before the packet": lambda key: key.decrypt_packet(bytes(50), 0, 0),
    "negative offset": lambda key: key.decrypt_packet(bytes(50), -5, 0),
    "huge offset": lambda key: key.decrypt_packet(bytes(50), 1 << 70, 0),
    "negative expected": lambda key: key.decrypt_packet(bytes(50), 1, -1),
    "empty batch": lambda key: aead.PacketBatch([]),
    "long batch": lambda key: aead.PacketBatch([(0, b"", b"")] * 65),
    "tails missing": lambda key: aead.PacketBatch([(0, b"", b"")] * 2, [b""]),
    "long in sum": lambda key: aead.PacketBatch([(0, b"", bytes(65000))], [bytes(600)]),
    "rekey size": lambda key: key.rekey(bytes(17), IV),
    "rekey iv": lambda key: key.rekey(bytes(LENGTHS[key.suite]), b""),
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments_are_value_errors(key: aead.PacketKey, call: Callable[[aead.PacketKey], object]) -> None:
    with pytest.raises(ValueError):
        call(key)


def test_batches_check_their_index(key: aead.PacketKey) -> None:
    batch = aead.PacketBatch([(0, HEADER, b"x")])
    for call in (batch.ok, batch.payload, batch.sealed):
        for index in (-1, 1, 1 << 40):
            with pytest.raises(IndexError):
                call(index)
    for at in (-len(HEADER) - 1, 17, 1 << 40):
        with pytest.raises(IndexError):
            batch.corrupt(0, at)


# ---- registry


def test_null_is_there_by_name_only() -> None:
    assert set(aead.backends()) >= {"openssl", "null"}
    assert aead.default_backend() == "openssl"
    assert aead.backends()[-1] == "null"
    assert make_key(aead.AES_128_GCM, "null").backend == "null"


@pytest.mark.parametrize("module", ["aead", "aead_openssl", "aead_null", "keys"])
def test_the_registry_is_complete_whichever_module_comes_first(module: str) -> None:
    program = (
        f"import stoq.crypto.{module}; from stoq.crypto import aead; "
        "print(sorted(aead.backends()), aead.default_backend())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['null', 'openssl'] openssl"


@pytest.mark.parametrize("suite", [-1, 0, 0x1300, 0x1304, 0x1305, 0xFFFF, 0x11301, 1 << 70])
@pytest.mark.parametrize("backend", aead.backends())
def test_unknown_suites_are_refused(backend: str, suite: int) -> None:
    with pytest.raises(ValueError, match="unknown cipher suite"):
        aead.PacketKey(suite, bytes(16), IV, bytes(16), backend)


@pytest.mark.parametrize("backend", ["", "OPENSSL", "openssl\0", "xyz", "null "])
def test_unknown_backends_are_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="no AEAD backend"):
        aead.PacketKey(aead.AES_128_GCM, bytes(16), IV, bytes(16), backend)


@pytest.mark.parametrize(("key_size", "iv_size", "hp_size"), [(15, 12, 16), (16, 11, 16), (16, 12, 32), (32, 12, 16)])
def test_wrong_sizes_are_refused(key_size: int, iv_size: int, hp_size: int) -> None:
    with pytest.raises(ValueError, match="must have"):
        aead.PacketKey(aead.AES_128_GCM, bytes(key_size), bytes(iv_size), bytes(hp_size))


# ---- null


def test_null_protects_nothing() -> None:
    key = make_key(aead.AES_128_GCM, "null")
    assert key.seal(9, HEADER, b"payload") == b"payload" + bytes(16)
    assert key.header_mask(b"\xff" * 16) == bytes(5)


# ---- openssl


class Change(NamedTuple):
    pn: int = 5
    header: bytes = HEADER
    at: int | None = None
    seed: int = 1


CHANGES = {
    "number": Change(pn=6),
    "high bits of the number": Change(pn=5 + (1 << 61)),
    "header": Change(header=b"\x41" + HEADER[1:]),
    "shorter header": Change(header=HEADER[:-1]),
    "no header": Change(header=b""),
    "first byte": Change(at=0),
    "last byte": Change(at=299),
    "first byte of the tag": Change(at=300),
    "last byte of the tag": Change(at=315),
    "key": Change(seed=2),
}


@pytest.mark.parametrize("suite", LENGTHS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_is_refused(suite: int, change: Change) -> None:
    sealed = bytearray(make_key(suite).seal(5, HEADER, bytes(300)))
    if change.at is not None:
        sealed[change.at] ^= 1
    other = make_key(suite, seed=change.seed)
    with pytest.raises(aead.AeadError):
        other.open(change.pn, change.header, bytes(sealed))
    # A refusal leaves nothing behind: the next packet opens.
    assert other.open(7, HEADER, other.seal(7, HEADER, bytes(300))) == bytes(300)


@pytest.mark.parametrize("suite", LENGTHS)
def test_every_bit_of_a_small_packet_counts(suite: int) -> None:
    key = make_key(suite)
    sealed = key.seal(5, HEADER, b"ab")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(aead.AeadError):
            key.open(5, HEADER, bytes(changed))
    assert key.open(5, HEADER, sealed) == b"ab"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(LENGTHS)), st.data())
def test_equals_cryptography(suite: int, data: st.DataObject) -> None:
    length = LENGTHS[suite]
    secret = data.draw(st.binary(min_size=length, max_size=length))
    iv = data.draw(st.binary(min_size=12, max_size=12))
    pn = data.draw(st.integers(0, (1 << 62) - 1))
    header = data.draw(st.binary(max_size=60))
    plaintext = data.draw(st.binary(max_size=64) | st.integers(0, 1500).map(lambda n: bytes(range(256)) * 6 + bytes(n)))
    nonce = (int.from_bytes(iv, "big") ^ pn).to_bytes(12, "big")
    reference = ChaCha20Poly1305(secret) if suite == aead.CHACHA20_POLY1305 else AESGCM(secret)
    key = aead.PacketKey(suite, secret, iv, bytes(length))
    sealed = reference.encrypt(nonce, plaintext, header)
    assert key.seal(pn, header, plaintext) == sealed
    assert key.open(pn, header, sealed) == plaintext


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(LENGTHS)), st.sampled_from([0x00000001, 0x6B3343CF]), st.data())
def test_packets_equal_upstream_aioquic(suite: int, version: int, data: st.DataObject) -> None:
    size = 48 if suite == aead.AES_256_GCM else 32
    secret = data.draw(st.binary(min_size=size, max_size=size))
    pn_length = data.draw(st.integers(1, 4))
    pn = data.draw(st.integers(0, (1 << 8 * pn_length) - 1))
    first = data.draw(st.sampled_from([0x40, 0x50, 0xC0, 0xE0])) | (pn_length - 1)
    header = bytes([first]) + data.draw(st.binary(max_size=30)) + pn.to_bytes(pn_length, "big")
    plaintext = data.draw(st.binary(min_size=4, max_size=1200))
    pair = CryptoPair()
    for context in (pair.send, pair.recv):
        context.setup(cipher_suite=CipherSuite(suite), secret=secret, version=version)
    key = keys.packet_key(version, suite, secret)
    packet = pair.encrypt_packet(header, plaintext, pn)
    assert key.encrypt_packet(header, plaintext, pn) == packet
    offset = len(header) - pn_length
    assert pair.decrypt_packet(packet, offset, pn) == key.decrypt_packet(packet, offset, pn) == (header, plaintext, pn)
    broken = packet[:-1] + bytes([packet[-1] ^ 1])
    with pytest.raises(CryptoError):
        pair.decrypt_packet(broken, offset, pn)
    with pytest.raises(aead.AeadError):
        key.decrypt_packet(broken, offset, pn)


@pytest.mark.parametrize("suite", LENGTHS)
def test_masks_depend_on_their_sample_alone(suite: int) -> None:
    masks = make_key(suite).header_masks(bytes(range(256)) * 4)  # 16 different samples, 4 times
    assert len({masks[i : i + 5] for i in range(0, 80, 5)}) == 16
    assert masks == masks[:80] * 4


@pytest.mark.parametrize("suite", LENGTHS)
def test_a_cleared_key_refuses_and_can_be_filled_again(suite: int) -> None:
    key = make_key(suite)
    key.seal(1, HEADER, b"payload")
    key.clear()
    key.clear()
    batch = aead.PacketBatch([(i, HEADER, bytes(20)) for i in range(3)])
    for call in (lambda: key.seal(1, HEADER, b""), lambda: key.header_mask(bytes(16)), lambda: batch.seal(key)):
        with pytest.raises(aead.AeadError):
            call()
    with pytest.raises(aead.AeadError):
        key.open(1, HEADER, bytes(16))
    assert batch.open(key) == 3
    # Filled without a header-protection key: seals and opens, gives no masks.
    key.rekey(bytes(LENGTHS[suite]), IV)
    assert key.open(1, HEADER, key.seal(1, HEADER, b"payload")) == b"payload"
    with pytest.raises(aead.AeadError):
        key.header_mask(bytes(16))


class Mallinfo(ctypes.Structure):
    # Ten numbers (malloc.h); the eighth is the bytes in use.
    _fields_ = [(name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "e", "f", "g", "in_use", "h", "i")]


def malloc_bytes() -> int:
    """Bytes that malloc has given out (glibc); Python's own small objects are not among them."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    return int(mallinfo2().in_use)


@pytest.mark.plain_build
@pytest.mark.parametrize("suite", LENGTHS)
def test_a_key_used_in_one_direction_stays_small(suite: int) -> None:
    make_key(suite).seal(0, b"", b"")
    before = malloc_bytes()
    made = [make_key(suite) for _ in range(128)]
    for key in made:
        key.seal(0, b"", b"")
    assert (malloc_bytes() - before) / len(made) < 2048  # one GCM context 1,168, ECB 656, our own 64


@pytest.mark.plain_build
@pytest.mark.parametrize("suite", LENGTHS)
def test_keys_leave_no_memory_behind(suite: int) -> None:
    secret = bytes(48 if suite == aead.AES_256_GCM else 32)

    def cycle() -> None:
        key = keys.packet_key(0x00000001, suite, secret)
        key.open(1, HEADER, key.seal(1, HEADER, b"payload"))
        with pytest.raises(aead.AeadError):
            key.open(2, HEADER, bytes(40))
        keys.update_packet_key(0x00000001, key, keys.next_secret(0x00000001, suite, secret))
        key.open(1, HEADER, key.seal(1, HEADER, b"payload"))
        key.rekey(bytes(LENGTHS[suite]), IV)
        key.clear()
        keys.initial_secrets(0x00000001, b"12345678")
        keys.retry_integrity_tag(0x00000001, b"12345678", b"packet")

    for _ in range(20):
        cycle()
    before = malloc_bytes()
    for _ in range(300):
        cycle()
    assert malloc_bytes() - before < 300 * 16  # the smallest leak is one allocation a cycle


# Runs in a process of its own, because libcrypto takes another allocator only before its first allocation. Every
# allocation of a call fails once, then all from there on; each time there must be an error or a right answer.
FAILING_MALLOC = """
import ctypes
import os
lib = ctypes.CDLL("libcrypto.so.3")
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
state = {"left": -1, "forever": False, "seen": 0}

def fails():
    state["seen"] += 1
    if state["left"] < 0:
        return False
    if state["left"] == 0:
        if not state["forever"]:
            state["left"] = -1
        return True
    state["left"] -= 1
    return False

M = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int)
R = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int)
F = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
m = M(lambda n, f, l: None if fails() else libc.malloc(n))
r = R(lambda p, n, f, l: None if fails() else libc.realloc(p, n))
f = F(lambda p, f, l: libc.free(p))
assert lib.CRYPTO_set_mem_functions(m, r, f) == 1

from stoq.crypto import aead, keys
from stoq.crypto.aead import AeadError

def whole(suite):
    key = aead.PacketKey(suite, bytes(length[suite]), bytes(12), bytes(length[suite]))
    sealed = key.seal(1, b"header", b"payload")
    return sealed, key.open(1, b"header", sealed), key.header_mask(bytes(16))

def updated(suite):
    secret = bytes(48 if suite == aead.AES_256_GCM else 32)
    key = keys.packet_key(1, suite, secret)
    key.seal(1, b"", b"")
    keys.update_packet_key(1, key, keys.next_secret(1, suite, secret))
    return key.seal(1, b"", b""), key.header_mask(bytes(16))

length = {aead.AES_128_GCM: 16, aead.AES_256_GCM: 32, aead.CHACHA20_POLY1305: 32}
calls = [(whole, s) for s in length] + [(updated, s) for s in length] + [
    (lambda _: keys.initial_secrets(1, bytes(8)), 0),
    (lambda _: keys.retry_integrity_tag(1, bytes(8), bytes(30)), 0),
    (lambda _: keys.hkdf_expand_label("sha384", bytes(48), b"label", b"", 100), 0),
]
errors = 0
for call, argument in calls:
    expected = call(argument)
    state["seen"] = 0
    assert call(argument) == expected
    allocations = state["seen"]
    assert allocations > 0
    for forever in (False, True):
        for n in range(allocations):
            state.update(left=n, forever=forever)
            try:
                assert call(argument) == expected, (argument, n)
            except (AeadError, ValueError):
                errors += 1
            state["left"] = -1
    assert call(argument) == expected
print("errors", errors > 20, flush=True)
os._exit(0)  # libcrypto's own clean-up would call back into an interpreter that is gone
"""


@pytest.mark.plain_build
def test_a_failing_allocator_gives_errors_and_no_crash() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING_MALLOC], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "errors True"
