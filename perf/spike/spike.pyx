# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The data plane's shape, reduced to its costs (docs/adr/0001): fixed keys, GSO send, GRO receive, AES-128-GCM.

No handshake, loss recovery, congestion control or stream logic. An experiment: nothing of stoq imports it, and it
declares what it needs of libc and libcrypto itself.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <netinet/udp.h>
    #include <openssl/evp.h>
    #include <stdlib.h>
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    struct spike_cmsg { char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))); };
    static void spike_gso(struct msghdr *m, struct spike_cmsg *room, uint16_t size) {
        m->msg_control = room->space; m->msg_controllen = CMSG_SPACE(2);
        struct cmsghdr *c = CMSG_FIRSTHDR(m);
        c->cmsg_level = SOL_UDP; c->cmsg_type = UDP_SEGMENT; c->cmsg_len = CMSG_LEN(2);
        __builtin_memcpy(CMSG_DATA(c), &size, 2);
    }
    static int spike_gro(struct msghdr *m, int otherwise) {
        struct cmsghdr *c = CMSG_FIRSTHDR(m);
        if (c && c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) __builtin_memcpy(&otherwise, CMSG_DATA(c), 4);
        return otherwise;
    }
    """
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    const EVP_CIPHER *EVP_aes_128_gcm()
    const EVP_CIPHER *EVP_aes_128_ecb()
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const uint8_t *, const uint8_t *)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const uint8_t *, const uint8_t *)
    int EVP_EncryptUpdate(EVP_CIPHER_CTX *, uint8_t *, int *, const uint8_t *, int)
    int EVP_DecryptUpdate(EVP_CIPHER_CTX *, uint8_t *, int *, const uint8_t *, int)
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *, uint8_t *, int *)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *, uint8_t *, int *)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *, int, int, void *)
    int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *, int)
    int EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct spike_cmsg:
        char space[24]
    int MSG_DONTWAIT
    void spike_gso(msghdr *, spike_cmsg *, uint16_t)
    int spike_gro(msghdr *, int)
    ssize_t sendmsg(int, msghdr *, int)
    ssize_t send(int, void *, size_t, int)
    ssize_t recv(int, void *, size_t, int)
    int recvmmsg(int, mmsghdr *, unsigned int, int, void *)
    int posix_memalign(void **, size_t, size_t)
    uint64_t __builtin_bswap64(uint64_t)
    uint32_t __builtin_bswap32(uint32_t)

cdef enum:
    SEGMENT = 1452          # UDP payload: IPv4 and IPv6 packets stay at or below 1500
    SEGMENTS = 44           # datagrams a GSO send: 63,888 bytes, below the 65,507 of one UDP datagram
    CID = 8
    HEADER = 13             # 1 + CID + 4-byte packet number = the AAD
    FRAME = 12              # STREAM, one-byte id, 8-byte offset, 2-byte length
    TAG = 16
    DATA = 1411             # SEGMENT - HEADER - FRAME - TAG
    ACK = 12
    SLOT = 65536
    GRO_MAX = 16
    SEGS_MAX = 64

SEGMENT_BYTES = SEGMENT
DATA_BYTES = DATA

cdef enum SealMode:
    SEAL_COPY = 0           # payload copied into the packet, sealed in place
    SEAL_SPLIT = 1          # frame header, then payload straight from the application's buffer: two EVP updates
    SEAL_SPLIT16 = 2        # as SPLIT, but the first update ends on an AES block (4 payload bytes copied)

cdef struct Keys:
    uint8_t iv[12]
    EVP_CIPHER_CTX *seal
    EVP_CIPHER_CTX *open
    EVP_CIPHER_CTX *ecb


cdef void keys_init(Keys *k, uint8_t seed) noexcept:
    cdef uint8_t key[16]
    cdef uint8_t hp[16]
    cdef int i
    for i in range(16):
        key[i] = <uint8_t>(seed + 7 * i)
        hp[i] = <uint8_t>(seed ^ (0xA5 + 3 * i))
    for i in range(12):
        k.iv[i] = <uint8_t>(seed + 31 * i)
    k.seal = EVP_CIPHER_CTX_new()
    k.open = EVP_CIPHER_CTX_new()
    k.ecb = EVP_CIPHER_CTX_new()
    EVP_EncryptInit_ex(k.seal, EVP_aes_128_gcm(), NULL, key, NULL)
    EVP_DecryptInit_ex(k.open, EVP_aes_128_gcm(), NULL, key, NULL)
    EVP_EncryptInit_ex(k.ecb, EVP_aes_128_ecb(), NULL, hp, NULL)
    EVP_CIPHER_CTX_set_padding(k.ecb, 0)


cdef inline void put64(uint8_t *p, uint64_t v) noexcept nogil:
    v = __builtin_bswap64(v)
    memcpy(p, &v, 8)


cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return __builtin_bswap64(v)


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    v = __builtin_bswap32(v)
    memcpy(p, &v, 4)


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return __builtin_bswap32(v)


cdef inline void nonce(const Keys *k, uint64_t pn, uint8_t *iv) noexcept nogil:
    memcpy(iv, k.iv, 12)
    put64(iv + 4, get64(iv + 4) ^ pn)


# The first `first` plaintext bytes lie at dst (sealed in place), the `rest` bytes after them at src.
cdef void seal(Keys *k, uint64_t pn, const uint8_t *aad, uint8_t *dst, int first, const uint8_t *src,
               int rest) noexcept nogil:
    cdef uint8_t iv[12]
    cdef int n
    nonce(k, pn, iv)
    EVP_EncryptInit_ex(k.seal, NULL, NULL, NULL, iv)
    EVP_EncryptUpdate(k.seal, NULL, &n, aad, HEADER)
    EVP_EncryptUpdate(k.seal, dst, &n, dst, first)
    if rest:
        EVP_EncryptUpdate(k.seal, dst + first, &n, src, rest)
    EVP_EncryptFinal_ex(k.seal, dst + first + rest, &n)
    EVP_CIPHER_CTX_ctrl(k.seal, EVP_CTRL_AEAD_GET_TAG, TAG, dst + first + rest)


cdef bint open_packet(Keys *k, uint64_t pn, const uint8_t *aad, uint8_t *p, int length) noexcept nogil:
    cdef uint8_t iv[12]
    cdef int n
    nonce(k, pn, iv)
    EVP_DecryptInit_ex(k.open, NULL, NULL, NULL, iv)
    EVP_DecryptUpdate(k.open, NULL, &n, aad, HEADER)
    EVP_DecryptUpdate(k.open, p, &n, p, length)
    EVP_CIPHER_CTX_ctrl(k.open, EVP_CTRL_AEAD_SET_TAG, TAG, p + length)
    return EVP_DecryptFinal_ex(k.open, p + length, &n) == 1


# Puts on or takes off header protection of n packets: one ECB call (RFC 9001 section 5.4).
cdef void protect(Keys *k, uint8_t **pkt, int n) noexcept nogil:
    cdef uint8_t s[SEGS_MAX][16]
    cdef int i, length
    cdef uint32_t a, b
    memset(s, 0, 16)
    for i in range(n):
        memcpy(s[i], pkt[i] + HEADER, 16)
    EVP_EncryptUpdate(k.ecb, s[0], &length, s[0], 16 * n)
    for i in range(n):
        pkt[i][0] ^= s[i][0] & 0x1F
        memcpy(&a, pkt[i] + 1 + CID, 4)
        memcpy(&b, &s[i][1], 4)
        a ^= b
        memcpy(pkt[i] + 1 + CID, &a, 4)


cdef inline void put_header(uint8_t *p, uint64_t pn) noexcept nogil:
    p[0] = 0x43
    memset(p + 1, 0xC1, CID)
    put32(p + 1 + CID, <uint32_t>pn)


cdef inline uint64_t full_pn(uint32_t wire, uint64_t expected) noexcept nogil:
    return expected + <uint64_t><int64_t><int>(wire - <uint32_t>expected)


cdef class Sender:
    """Seals from an application buffer into GSO sends until the window is full."""

    cdef Keys tx, rx
    cdef int fd, mode
    cdef bint nogil_
    cdef object app_object
    cdef const uint8_t *app
    cdef uint64_t app_size
    cdef uint8_t *slot
    cdef msghdr msg
    cdef iovec iov
    cdef spike_cmsg control
    cdef uint64_t pn, acked, ack_pn
    cdef readonly uint64_t offset, calls, acks, failed, stalls
    cdef uint64_t window

    def __init__(self, int fd, bytes app, uint64_t window, int mode, bint release):
        self.fd = fd
        self.app_object = app
        self.app = <const uint8_t *>PyBytes_AS_STRING(app)
        self.app_size = len(app) - SLOT
        self.window = window
        self.mode = mode
        self.nogil_ = release
        keys_init(&self.tx, 0x11)
        keys_init(&self.rx, 0x77)
        posix_memalign(<void **>&self.slot, 4096, SLOT)
        memset(self.slot, 0, SLOT)
        self.iov.iov_base = self.slot
        self.iov.iov_len = SEGMENT * SEGMENTS
        self.msg.msg_iov = &self.iov
        self.msg.msg_iovlen = 1
        spike_gso(&self.msg, &self.control, SEGMENT)

    def __dealloc__(self):
        free(self.slot)

    @property
    def packets(self):
        return self.pn

    def on_readable(self):
        """Reads the waiting ACKs, then sends. True: the window is full; False: more could be sent at once."""
        if self.nogil_:
            with nogil:
                self.read_acks()
                full = self.fill(8)
        else:
            self.read_acks()
            full = self.fill(8)
        return full

    def forget(self, uint64_t since):
        """No ACK since `since` of them: a whole tail was lost. Lets go of it."""
        if self.acks == since:
            self.acked = self.pn
            self.stalls += 1
            self.on_readable()
        return self.acks

    cdef void read_acks(self) noexcept nogil:
        cdef uint8_t ack[256]
        cdef uint8_t *p = ack
        cdef uint64_t pn, largest
        cdef ssize_t n
        while True:
            n = recv(self.fd, ack, sizeof(ack), MSG_DONTWAIT)
            if n < 0:
                return
            protect(&self.rx, &p, 1)
            pn = full_pn(get32(ack + 1 + CID), self.ack_pn)
            if n != HEADER + ACK + TAG or not open_packet(&self.rx, pn, ack, ack + HEADER, ACK):
                self.failed += 1
                continue
            self.ack_pn = pn + 1
            self.acks += 1
            largest = get64(ack + HEADER + 1) & 0x3FFFFFFFFFFFFFFFU
            if largest + 1 > self.acked:
                self.acked = largest + 1

    cdef bint fill(self, int most) noexcept nogil:
        cdef uint8_t *pkt[SEGMENTS]
        cdef uint8_t *p
        cdef uint8_t *f
        cdef const uint8_t *src
        cdef int i
        while (self.pn - self.acked + SEGMENTS) * SEGMENT <= self.window:
            if most == 0:
                return False
            most -= 1
            p = self.slot
            for i in range(SEGMENTS):
                pkt[i] = p
                put_header(p, self.pn)
                f = p + HEADER
                f[0] = 0x0E
                f[1] = 0
                put64(f + 2, self.offset | 0xC000000000000000U)
                f[10] = 0x40 | DATA >> 8
                f[11] = DATA & 0xFF
                src = self.app + self.offset % self.app_size
                if self.mode == SEAL_COPY:
                    memcpy(f + FRAME, src, DATA)
                    seal(&self.tx, self.pn, p, f, FRAME + DATA, NULL, 0)
                elif self.mode == SEAL_SPLIT:
                    seal(&self.tx, self.pn, p, f, FRAME, src, DATA)
                else:
                    memcpy(f + FRAME, src, 4)
                    seal(&self.tx, self.pn, p, f, 16, src + 4, DATA - 4)
                self.pn += 1
                self.offset += DATA
                p += SEGMENT
            protect(&self.tx, pkt, SEGMENTS)
            if sendmsg(self.fd, &self.msg, 0) < 0:
                self.failed += 1
            self.calls += 1
        return True


cdef class Receiver:
    """Opens GRO batches in place, hands each over as one bytes object, and acknowledges."""

    cdef Keys tx, rx
    cdef int fd
    cdef unsigned int buffers
    cdef int ack_every, owed
    cdef bint nogil_
    cdef object deliver
    cdef uint8_t *memory
    cdef mmsghdr mm[GRO_MAX]
    cdef iovec iov[GRO_MAX]
    cdef spike_cmsg control[GRO_MAX]
    cdef const uint8_t *piece[GRO_MAX * SEGS_MAX]
    cdef uint16_t piece_len[GRO_MAX * SEGS_MAX]
    cdef int pieces
    cdef uint64_t expected, ack_pn
    cdef readonly uint64_t packets, bytes, calls, failed, misordered, batches

    def __init__(self, int fd, unsigned int buffers, int ack_every, bint release, deliver):
        cdef unsigned int i
        self.fd = fd
        self.buffers = buffers
        self.ack_every = ack_every
        self.nogil_ = release
        self.deliver = deliver
        keys_init(&self.rx, 0x11)
        keys_init(&self.tx, 0x77)
        posix_memalign(<void **>&self.memory, 4096, SLOT * GRO_MAX)
        memset(self.memory, 0, SLOT * buffers)
        for i in range(buffers):
            self.iov[i].iov_base = self.memory + SLOT * i
            self.iov[i].iov_len = SLOT
            self.mm[i].msg_hdr.msg_iov = &self.iov[i]
            self.mm[i].msg_hdr.msg_iovlen = 1
            self.mm[i].msg_hdr.msg_control = self.control[i].space

    def __dealloc__(self):
        free(self.memory)

    def on_readable(self):
        """One recvmmsg, one event, one ACK."""
        cdef int64_t total
        cdef uint8_t *to
        cdef int i
        if self.nogil_:
            with nogil:
                total = self.open_batch()
        else:
            total = self.open_batch()
        if total <= 0:
            return
        data = PyBytes_FromStringAndSize(NULL, total)
        to = <uint8_t *>PyBytes_AS_STRING(data)
        for i in range(self.pieces):
            memcpy(to, self.piece[i], self.piece_len[i])
            to += self.piece_len[i]
        self.bytes += total
        self.owed += 1
        if self.owed >= self.ack_every:
            self.owed = 0
            self.acknowledge()
        self.deliver(data)

    cdef int64_t open_batch(self) noexcept nogil:
        cdef uint8_t *pkt[SEGS_MAX]
        cdef uint8_t *p
        cdef uint8_t *f
        cdef int64_t total = 0
        cdef uint64_t pn
        cdef int got, i, j, n, at, length, segment, size
        self.pieces = 0
        for i in range(<int>self.buffers):
            self.mm[i].msg_hdr.msg_controllen = 24
        got = recvmmsg(self.fd, self.mm, self.buffers, MSG_DONTWAIT, NULL)
        if got <= 0:
            return -1
        self.batches += 1
        for i in range(got):
            length = <int>self.mm[i].msg_len
            segment = spike_gro(&self.mm[i].msg_hdr, length)
            self.calls += 1
            n = 0
            at = 0
            while at + HEADER + FRAME + TAG <= length and n < SEGS_MAX:
                pkt[n] = self.memory + SLOT * i + at
                n += 1
                at += segment
            if n == 0:
                continue
            protect(&self.rx, pkt, n)
            for j in range(n):
                p = pkt[j]
                f = p + HEADER
                size = min(segment, length - j * segment) - HEADER - TAG
                pn = full_pn(get32(p + 1 + CID), self.expected)
                if not open_packet(&self.rx, pn, p, f, size) or (<int>f[10] & 0x3F) << 8 | f[11] != size - FRAME:
                    self.failed += 1
                    continue
                if pn != self.expected:
                    self.misordered += 1
                self.expected = pn + 1
                self.packets += 1
                self.piece[self.pieces] = f + FRAME
                self.piece_len[self.pieces] = <uint16_t>(size - FRAME)
                self.pieces += 1
                total += size - FRAME
        return total

    cdef void acknowledge(self) noexcept nogil:
        cdef uint8_t ack[64]
        cdef uint8_t *p = ack
        put_header(ack, self.ack_pn)
        memset(ack + HEADER, 0, ACK)
        ack[HEADER] = 2
        put64(ack + HEADER + 1, (self.expected - 1) | 0xC000000000000000U)
        seal(&self.tx, self.ack_pn, ack, ack + HEADER, ACK, NULL, 0)
        protect(&self.tx, &p, 1)
        self.ack_pn += 1
        send(self.fd, ack, HEADER + ACK + TAG, 0)
