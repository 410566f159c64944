"""The endpoint's table of connection IDs."""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset


cdef inline void key_of(CidEntry *out, const uint8_t *cid, size_t length) noexcept nogil:
    memset(out, 0, sizeof(CidEntry))
    if length:
        memcpy(out.cid, cid, length)
    out.length = <uint32_t>length


cdef class CidMap:
    """Maps connection IDs of up to 20 bytes to borrowed pointers.

    key: 56 random bytes. A peer chooses some of the IDs, so the table hashes with secret coefficients: the multilinear
    family over 32-bit words, where any two IDs collide with probability 2^-32 whatever a peer picks.
    """

    def __cinit__(self, bytes key not None):
        if len(key) != sizeof(self.keys):
            raise ValueError(f"the key has {sizeof(self.keys)} bytes")
        memcpy(self.keys, <const char *>key, sizeof(self.keys))
        self.entries = NULL

    def __dealloc__(self):
        free(self.entries)

    def __len__(self):
        return self.count

    cdef size_t place(self, const CidEntry *wanted) noexcept nogil:
        cdef uint32_t words[5]
        cdef uint64_t h = self.keys[0] + self.keys[6] * wanted.length
        cdef int i
        memcpy(words, wanted.cid, sizeof(words))
        for i in range(5):
            h += self.keys[i + 1] * words[i]
        return <size_t>(h >> 32) & (self.capacity - 1)

    cdef CidEntry *find(self, const uint8_t *cid, size_t length) noexcept nogil:
        cdef CidEntry wanted
        cdef CidEntry *e
        cdef size_t i
        if self.count == 0 or length > CIDMAP_ID_MAX:
            return NULL
        key_of(&wanted, cid, length)
        i = self.place(&wanted)
        # Ends: at least a third of the table is empty.
        while True:
            e = &self.entries[i]
            if e.value == NULL:
                return NULL
            if memcmp(e.cid, wanted.cid, sizeof(wanted.cid)) == 0 and e.length == wanted.length:
                return e
            i = (i + 1) & (self.capacity - 1)

    cdef void *get(self, const uint8_t *cid, size_t length) noexcept nogil:
        cdef CidEntry *e = self.find(cid, length)
        return e.value if e != NULL else NULL

    cdef int put(self, const uint8_t *cid, size_t length, void *value) except -1:
        cdef CidEntry wanted
        cdef CidEntry *e
        cdef size_t i
        if length > CIDMAP_ID_MAX:
            raise ValueError("a connection ID has at most 20 bytes")
        e = self.find(cid, length)
        if e != NULL:
            if e.value != value:
                raise ValueError("the connection ID is in use")
            return 0
        if 3 * (self.count + 1) > 2 * self.capacity:
            self.grow()
        key_of(&wanted, cid, length)
        wanted.value = value
        i = self.place(&wanted)
        while self.entries[i].value != NULL:
            i = (i + 1) & (self.capacity - 1)
        self.entries[i] = wanted
        self.count += 1
        return 0

    cdef void *pop(self, const uint8_t *cid, size_t length) noexcept nogil:
        cdef CidEntry *e = self.find(cid, length)
        cdef void *value
        cdef size_t hole, i, home, mask = self.capacity - 1
        if e == NULL:
            return NULL
        value = e.value
        hole = <size_t>(e - self.entries)
        i = hole
        # Close the gap: whatever could have stood in the hole moves there, so that no search stops too early.
        while True:
            i = (i + 1) & mask
            if self.entries[i].value == NULL:
                break
            home = self.place(&self.entries[i])
            if ((i - home) & mask) >= ((i - hole) & mask):
                self.entries[hole] = self.entries[i]
                hole = i
        self.entries[hole].value = NULL
        self.count -= 1
        return value

    cdef int grow(self) except -1:
        cdef CidEntry *old = self.entries
        cdef size_t before = self.capacity, i, j
        cdef size_t wanted = 2 * before if before else CIDMAP_FIRST
        if self.count >= CIDMAP_COUNT_MAX:
            raise MemoryError("too many connection IDs")
        self.entries = <CidEntry *>calloc(wanted, sizeof(CidEntry))
        if self.entries == NULL:
            self.entries = old
            raise MemoryError
        self.capacity = wanted
        for i in range(before):
            if old[i].value != NULL:
                j = self.place(&old[i])
                while self.entries[j].value != NULL:
                    j = (j + 1) & (wanted - 1)
                self.entries[j] = old[i]
        free(old)
        return 0

    # ---- Python face, for tests: values are small positive integers

    def insert(self, bytes cid not None, size_t value):
        """Map an ID to a number above 0. ValueError when it is mapped to another one."""
        if value == 0:
            raise ValueError("0 stands for no value")
        self.put(<const uint8_t *><const char *>cid, len(cid), <void *>value)

    def lookup(self, bytes cid not None):
        """The number, None when the ID is not there."""
        cdef void *value = self.get(<const uint8_t *><const char *>cid, len(cid))
        return <size_t>value if value != NULL else None

    def remove(self, bytes cid not None):
        """Forget an ID; its number, None when it was not there."""
        cdef void *value = self.pop(<const uint8_t *><const char *>cid, len(cid))
        return <size_t>value if value != NULL else None

    @property
    def memory(self):
        """Bytes of the table."""
        return self.capacity * sizeof(CidEntry)

    def longest_probe(self):
        """Entries that the slowest successful search looks at."""
        cdef size_t i, worst = 0, steps
        for i in range(self.capacity):
            if self.entries[i].value != NULL:
                steps = ((i - self.place(&self.entries[i])) & (self.capacity - 1)) + 1
                worst = max(worst, steps)
        return worst
