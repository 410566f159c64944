# Sets of disjoint half-open integer ranges [start, end), kept sorted and
# merged. O(log n) search; insertion moves at most one leaf (bounded).
from libc.stdint cimport uint32_t, uint64_t

cdef struct Range:
    uint64_t start
    uint64_t end

cdef struct RangeLeaf:
    uint32_t count
    Range items[64]

# An empty set owns no memory at all; small sets (<= 64 ranges) own one leaf
# that grows in steps (1 range costs little); larger ones an array of leaves.
cdef struct RangeSet:
    uint64_t count             # ranges in the set
    uint64_t covered           # integers in the set
    void *impl

cdef void rangeset_init(RangeSet *s) noexcept nogil
cdef void rangeset_clear(RangeSet *s) noexcept nogil                 # frees all memory; usable again
# 0 on success, -1 out of memory. Overlaps and neighbours are merged. start == end is a no-op.
cdef int rangeset_add(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil
cdef int rangeset_remove(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil
cdef bint rangeset_contains(const RangeSet *s, uint64_t value) noexcept nogil
# 1 when every integer of [start, end) is in the set.
cdef bint rangeset_covers(const RangeSet *s, uint64_t start, uint64_t end) noexcept nogil
# The index-th range from below / from above. The caller has checked index < count.
cdef Range rangeset_at(const RangeSet *s, uint64_t index) noexcept nogil
cdef Range rangeset_first(const RangeSet *s) noexcept nogil
cdef Range rangeset_last(const RangeSet *s) noexcept nogil
# Range that contains or first follows `value`: 0 and *out, or -1 when none. O(log n).
cdef int rangeset_seek(const RangeSet *s, uint64_t value, Range *out) noexcept nogil
# Drop the lowest ranges until at most `keep` remain; returns the end of the last dropped one (0: none dropped).
cdef uint64_t rangeset_trim_low(RangeSet *s, uint64_t keep) noexcept nogil
# The part of [start, end) that is not yet in the set, first gap first: 0 and *out, or -1 when covered.
cdef int rangeset_first_gap(const RangeSet *s, uint64_t start, uint64_t end, Range *out) noexcept nogil
# Bytes of heap held.
cdef size_t rangeset_memory(const RangeSet *s) noexcept nogil
