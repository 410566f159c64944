"""Packet protection (RFC 9001 §5): the registry of backends, keys, and a Python face for both.

The engine works through the C side (aead.pxd). `PacketKey` and `PacketBatch`
serve tests, measurements and callers that hold packets as bytes.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strlen

from stoq.crypto._libcrypto cimport OPENSSL_cleanse
from stoq.wire.packet_number cimport pn_decode

from stoq.errors import StoqError

AES_128_GCM = <int>SUITE_AES_128_GCM
AES_256_GCM = <int>SUITE_AES_256_GCM
CHACHA20_POLY1305 = <int>SUITE_CHACHA20_POLY1305
TAG_LENGTH = <int>AEAD_TAG
BATCH_MAX = <int>AEAD_BATCH_MAX

cdef enum:
    BACKENDS_MAX = 8

# Written under the GIL while modules load, only read afterwards.
cdef const AeadBackend *BACKENDS[8]
cdef uint32_t BACKENDS_COUNT = 0


class AeadError(StoqError):
    """A packet that does not authenticate, or a cipher library that failed."""


# ---------------------------------------------------------------- registry

cdef const AeadBackend *aead_backend(const char *name) noexcept nogil:
    cdef uint32_t i
    for i in range(BACKENDS_COUNT):
        if strcmp(BACKENDS[i].name, name) == 0:
            return BACKENDS[i]
    return NULL


cdef const AeadBackend *aead_default() noexcept nogil:
    cdef uint32_t i
    for i in range(BACKENDS_COUNT):
        if BACKENDS[i].protects:
            return BACKENDS[i]
    return NULL


cdef int aead_register(const AeadBackend *backend) except -1:
    global BACKENDS_COUNT
    if aead_backend(backend.name) != NULL:
        raise ValueError(f"AEAD backend {backend.name.decode()} is registered already")
    if BACKENDS_COUNT == BACKENDS_MAX:
        raise ValueError("too many AEAD backends")
    BACKENDS[BACKENDS_COUNT] = backend
    BACKENDS_COUNT += 1
    return 0


def backends() -> list[str]:
    """Names of the registered backends, best first."""
    return [BACKENDS[i].name.decode() for i in range(BACKENDS_COUNT)]


def default_backend() -> str | None:
    """Name of the backend that connections get unless told otherwise; None when none of them protects."""
    cdef const AeadBackend *backend = aead_default()
    return None if backend == NULL else backend.name.decode()


# -------------------------------------------------------------------- keys

cdef uint8_t aead_key_length(uint16_t suite) noexcept nogil:
    if suite == SUITE_AES_128_GCM:
        return 16
    if suite == SUITE_AES_256_GCM or suite == SUITE_CHACHA20_POLY1305:
        return 32
    return 0


cdef int aead_key_init(
    AeadKey *key, const AeadBackend *backend, uint16_t suite,
    const uint8_t *secret_key, const uint8_t *iv, const uint8_t *hp,
) noexcept nogil:
    cdef uint8_t length = aead_key_length(suite)
    cdef bint same = key.backend == backend and key.suite == suite
    if hp != NULL or not same or length == 0:
        aead_key_clear(key)
    if backend == NULL or length == 0:
        return -1
    key.backend = backend
    key.suite = suite
    key.key_length = length
    memcpy(key.iv, iv, AEAD_IV)
    if backend.init(key, secret_key, hp) == 0:
        return 0
    aead_key_clear(key)
    return -1


cdef void aead_key_clear(AeadKey *key) noexcept nogil:
    if key.backend == NULL:
        return
    key.backend.clear(key)
    OPENSSL_cleanse(key.iv, AEAD_IV)
    # The backend stays: calls through a cleared key fail in it instead of jumping through NULL.
    key.state = NULL


# ------------------------------------------------------------- Python face

cdef uint32_t packet_length(bytes data) except? 0xFFFFFFFFU:
    if PyBytes_GET_SIZE(data) > AEAD_LENGTH_MAX:
        raise ValueError("longer than a datagram")
    return <uint32_t>PyBytes_GET_SIZE(data)


@cython.final
cdef class PacketKey:
    """The keys of one direction at one encryption level.

    `suite` is the TLS code point (0x1301, 0x1302, 0x1303); `key` and `hp` have
    16 or 32 bytes as the suite says, `iv` has 12. ValueError for anything else
    and for a backend that is unknown or lacks the suite. Packet numbers are
    0 to 2**62 - 1.
    """

    def __cinit__(self, suite: int, bytes key not None, bytes iv not None, bytes hp not None, str backend="openssl"):
        # Taken as a Python integer: an absurd code point is a ValueError like any other.
        cdef uint16_t number = <uint16_t>suite if 0 <= suite <= 0xFFFF else 0
        cdef uint8_t length = aead_key_length(number)
        cdef bytes name = backend.encode()
        cdef const AeadBackend *chosen = aead_backend(PyBytes_AS_STRING(name))
        if chosen == NULL or len(name) != <Py_ssize_t>strlen(chosen.name):
            raise ValueError(f"no AEAD backend is named {backend!r}")
        if length == 0:
            raise ValueError(f"unknown cipher suite {suite:#06x}")
        if len(key) != length or len(hp) != length or len(iv) != AEAD_IV:
            raise ValueError(f"key and hp must have {length} bytes, iv {<int>AEAD_IV}")
        if aead_key_init(
            &self.key, chosen, number,
            <const uint8_t *>PyBytes_AS_STRING(key),
            <const uint8_t *>PyBytes_AS_STRING(iv),
            <const uint8_t *>PyBytes_AS_STRING(hp),
        ) != 0:
            raise ValueError(f"backend {backend} cannot do suite {suite:#06x}")

    def __dealloc__(self):
        aead_key_clear(&self.key)

    @property
    def suite(self) -> int:
        """TLS code point of the cipher suite."""
        return self.key.suite

    @property
    def backend(self) -> str:
        """Name of the backend that does the work."""
        return self.key.backend.name.decode()

    def clear(self) -> None:
        """Wipe the secrets now. AeadError from every use after that (except of `null`, which has none)."""
        aead_key_clear(&self.key)

    def rekey(self, bytes key not None, bytes iv not None) -> None:
        """Exchange key and IV and keep the header-protection key (RFC 9001 §6.1)."""
        if len(key) != self.key.key_length or len(iv) != AEAD_IV:
            raise ValueError(f"key must have {self.key.key_length} bytes, iv {<int>AEAD_IV}")
        if aead_key_init(
            &self.key, self.key.backend, self.key.suite,
            <const uint8_t *>PyBytes_AS_STRING(key),
            <const uint8_t *>PyBytes_AS_STRING(iv),
            NULL,
        ) != 0:
            raise AeadError("the cipher library failed")

    def seal(self, pn: int, bytes header not None, bytes plaintext not None) -> bytes:
        """Ciphertext and tag of one payload; `header` is authenticated with it."""
        cdef AeadJob job
        cdef uint32_t length = packet_length(plaintext)
        memset(&job, 0, sizeof(job))
        job.pn = packet_number(pn)
        job.header = <uint8_t *>PyBytes_AS_STRING(header)
        job.header_length = packet_length(header)
        job.length = length
        cdef bytes out = PyBytes_FromStringAndSize(NULL, length + AEAD_TAG)
        job.payload = <uint8_t *>PyBytes_AS_STRING(out)
        memcpy(job.payload, PyBytes_AS_STRING(plaintext), length)
        if self.key.backend.seal(&self.key, &job, 1) != 0:
            raise AeadError("the cipher library failed")
        return out

    def open(self, pn: int, bytes header not None, bytes ciphertext not None) -> bytes:
        """The payload behind `ciphertext` (tag included); AeadError when it does not authenticate."""
        cdef AeadJob job
        memset(&job, 0, sizeof(job))
        job.pn = packet_number(pn)
        job.header = <uint8_t *>PyBytes_AS_STRING(header)
        job.header_length = packet_length(header)
        job.length = packet_length(ciphertext)
        cdef bytes out = PyBytes_FromStringAndSize(PyBytes_AS_STRING(ciphertext), job.length)
        # A bytes object of one byte or none is shared by the interpreter: not to be written to.
        if job.length < AEAD_TAG:
            raise AeadError("the packet is shorter than its tag")
        job.payload = <uint8_t *>PyBytes_AS_STRING(out)
        if self.key.backend.open(&self.key, &job, 1) != 0:
            raise AeadError("the packet does not authenticate")
        return out[:job.length - AEAD_TAG]

    def header_masks(self, bytes samples not None) -> bytes:
        """Header-protection masks (RFC 9001 §5.4.1) of up to 64 samples of 16 bytes: 5 bytes each."""
        cdef uint8_t blocks[64 * 16]
        cdef size_t n = <size_t>len(samples) // HP_SAMPLE
        cdef size_t i
        if len(samples) % HP_SAMPLE or n > AEAD_BATCH_MAX:
            raise ValueError("samples have 16 bytes each, and a batch has at most 64")
        memcpy(blocks, PyBytes_AS_STRING(samples), n * HP_SAMPLE)
        if self.key.backend.hp_mask(&self.key, blocks, <uint32_t>n) != 0:
            raise AeadError("the cipher library failed")
        cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(n * HP_MASK))
        for i in range(n):
            memcpy(PyBytes_AS_STRING(out) + i * HP_MASK, blocks + i * HP_SAMPLE, HP_MASK)
        return out

    def header_mask(self, bytes sample not None) -> bytes:
        """The 5-byte mask of one 16-byte sample."""
        if len(sample) != HP_SAMPLE:
            raise ValueError("a sample has 16 bytes")
        return self.header_masks(sample)

    def encrypt_packet(self, bytes header not None, bytes plaintext not None, pn: int) -> bytes:
        """The protected packet (RFC 9001 §5.3, §5.4).

        `header` is in the clear and ends with the packet number, whose length
        its first byte tells. ValueError when the payload is too short to be
        sampled: packet number and plaintext must have 4 bytes together.
        """
        cdef Py_ssize_t header_length = len(header)
        cdef Py_ssize_t pn_length
        if header_length < 2:
            raise ValueError("the header is too short")
        pn_length = (header[0] & 3) + 1
        if header_length < 1 + pn_length or pn_length + len(plaintext) < 4:
            raise ValueError("the packet is too short for header protection")
        cdef bytes payload = self.seal(pn, header, plaintext)
        # RFC 9001 §5.4.2: the sample starts 4 bytes after the packet number does.
        return protect(header, self.header_mask(payload[4 - pn_length:20 - pn_length]), pn_length) + payload

    def decrypt_packet(self, bytes packet not None, pn_offset: int, expected_pn: int) -> tuple[bytes, bytes, int]:
        """(clear header, plaintext, packet number) of a protected packet.

        `pn_offset` is where the packet number starts, `expected_pn` the largest
        received so far plus one. AeadError when the packet is too short or does
        not authenticate.
        """
        cdef Py_ssize_t offset
        cdef Py_ssize_t pn_length
        if not 1 <= pn_offset <= AEAD_LENGTH_MAX:
            raise ValueError("the packet number does not start there")
        offset = pn_offset
        if len(packet) < offset + 4 + HP_SAMPLE:
            raise AeadError("the packet is too short for header protection")
        cdef bytes mask = self.header_mask(packet[offset + 4:offset + 4 + HP_SAMPLE])
        pn_length = ((packet[0] ^ mask[0]) & 3) + 1
        cdef bytes header = protect(packet[:offset + pn_length], mask, pn_length)
        cdef uint64_t pn = pn_decode(
            int.from_bytes(header[offset:], "big"), <size_t>pn_length, packet_number(expected_pn)
        )
        return header, self.open(pn, header, packet[offset + pn_length:]), pn


cdef uint64_t packet_number(pn) except? 0xFFFFFFFFFFFFFFFFU:
    if not 0 <= pn < (1 << 62):
        raise ValueError("a packet number is 0 to 2**62 - 1")
    return pn


cdef bytes protect(bytes header, bytes mask, Py_ssize_t pn_length):
    """Apply a mask to a header that ends with the packet number, or take it off."""
    cdef bytearray out = bytearray(header)
    cdef Py_ssize_t start = len(out) - pn_length
    cdef Py_ssize_t i
    # RFC 9001 §5.4.1: four bits of a long header's first byte, five of a short one's.
    out[0] ^= mask[0] & (0x0F if header[0] & 0x80 else 0x1F)
    for i in range(pn_length):
        out[start + i] ^= mask[1 + i]
    return bytes(out)


@cython.final
cdef class PacketBatch:
    """Up to 64 packets sealed or opened by one call, as the engine does it.

    `packets` are (packet number, header, plaintext); with `tails`, packet i's
    plaintext goes on in tails[i], which the backend reads from there. The
    batch has its own memory; seal and open may be repeated.
    """

    def __cinit__(self, packets: list[tuple[int, bytes, bytes]], tails: list[bytes] | None = None):
        cdef size_t size = 0
        cdef uint8_t *at
        cdef AeadJob *job
        cdef bytes header
        cdef bytes payload
        if not 1 <= len(packets) <= AEAD_BATCH_MAX or (tails is not None and len(tails) != len(packets)):
            raise ValueError("a batch has 1 to 64 packets, and as many tails")
        # Copies: a pn that is no int runs code of the caller's, which could change the lists between the two passes.
        self.count = <uint32_t>len(packets)
        self.tails = [] if tails is None else list(tails)
        packets = [(packet_number(pn), header, payload) for pn, header, payload in packets]
        if len(packets) != self.count or any([None in packet for packet in packets]) or None in self.tails:
            raise TypeError("headers, payloads and tails are bytes")
        for i, (pn, header, payload) in enumerate(packets):
            job = &self.jobs[i]
            job.pn = packet_number(pn)
            job.header_length = packet_length(header)
            job.length = packet_length(payload)
            if tails is not None:
                job.tail_length = packet_length(self.tails[i])
                job.tail = <const uint8_t *>PyBytes_AS_STRING(<bytes>self.tails[i])
                job.length += job.tail_length
            if job.length > AEAD_LENGTH_MAX:
                raise ValueError("longer than a datagram")
            size += job.header_length + job.length + AEAD_TAG
        self.memory = <uint8_t *>calloc(1, size)
        if self.memory == NULL:
            raise MemoryError
        self.memory_size = size
        at = self.memory
        for i, (_, header, payload) in enumerate(packets):
            job = &self.jobs[i]
            job.header = at
            job.payload = at + job.header_length
            memcpy(job.header, PyBytes_AS_STRING(header), job.header_length)
            memcpy(job.payload, PyBytes_AS_STRING(payload), job.length - job.tail_length)
            at = job.payload + job.length + AEAD_TAG

    def __dealloc__(self):
        if self.memory != NULL:
            OPENSSL_cleanse(self.memory, self.memory_size)
            free(self.memory)

    def point_tails(self, bytes source not None, Py_ssize_t offset, Py_ssize_t stride) -> None:
        """Let packet i's tail be read from source[offset + i * stride:]; lengths stay."""
        cdef uint32_t i
        cdef Py_ssize_t left
        if offset < 0 or stride < 0:
            raise ValueError("offset and stride are not negative")
        for i in range(self.count):
            # By subtraction: sums and products of what the caller gives could overflow.
            left = len(source) - offset - <Py_ssize_t>self.jobs[i].tail_length
            if left < 0 or (i and stride > left // <Py_ssize_t>i):
                raise ValueError("the source is too short")
        for i in range(self.count):
            self.jobs[i].tail = <const uint8_t *>PyBytes_AS_STRING(source) + offset + i * stride
        self.tails = [source]

    def seal(self, PacketKey key not None) -> None:
        """Seal in place; AeadError when the cipher library fails."""
        if key.key.backend.seal(&key.key, self.jobs, self.count) != 0:
            raise AeadError("the cipher library failed")

    def open(self, PacketKey key not None) -> int:
        """Open in place what `seal` made; how many failed."""
        cdef uint32_t i
        for i in range(self.count):
            self.jobs[i].length += AEAD_TAG
        cdef int failed = key.key.backend.open(&key.key, self.jobs, self.count)
        for i in range(self.count):
            self.jobs[i].length -= AEAD_TAG
        return failed

    def ok(self, index: int) -> bool:
        """Whether the packet authenticated when it was opened."""
        return bool(self.job(index).ok)

    def payload(self, index: int) -> bytes:
        """The packet's plaintext after `open`, its ciphertext without tag after `seal`."""
        cdef AeadJob *job = self.job(index)
        return PyBytes_FromStringAndSize(<char *>job.payload, job.length)

    def sealed(self, index: int) -> bytes:
        """The packet's ciphertext and tag after `seal`."""
        cdef AeadJob *job = self.job(index)
        return PyBytes_FromStringAndSize(<char *>job.payload, job.length + AEAD_TAG)

    def corrupt(self, index: int, Py_ssize_t at) -> None:
        """Flip one bit of the sealed packet's byte `at`; negative: of its header."""
        cdef AeadJob *job = self.job(index)
        if not -<Py_ssize_t>job.header_length <= at < <Py_ssize_t>job.length + AEAD_TAG:
            raise IndexError("no such byte")
        job.payload[at] ^= 1

    cdef AeadJob *job(self, index) except NULL:
        if not 0 <= index < self.count:
            raise IndexError("no such packet")
        return &self.jobs[<uint32_t>index]


# The backends register themselves when they are loaded; this is the order of preference.
from stoq.crypto import aead_openssl, aead_null  # no-cython-lint
