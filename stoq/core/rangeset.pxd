# Sets of disjoint half-open integer ranges [start, end), kept sorted and
# merged. O(log n) search; insertion moves at most one leaf (bounded).
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    RANGESET_LEAF = 64       # ranges in a full leaf: 1 KiB, the most that one insertion moves

cdef struct Range:
    uint64_t start
    uint64_t end

# The highest range lives in the struct, so that in-order arrival touches no
# heap; the ranges below it live in leaves. A set of at most one range owns no
# memory, one of few ranges owns a single leaf that grows in steps of two, a
# larger one an array of leaves. The struct may be moved in memory.
cdef struct RangeSet:
    uint64_t count             # ranges in the set
    uint64_t covered           # integers in the set
    Range last                 # the highest range; meaningful when count > 0
    void *impl                 # the leaf (slots == 0) or the array of leaves; private to rangeset.pyx
    uint32_t leaves
    uint32_t slots

cdef void rangeset_init(RangeSet *s) noexcept nogil
cdef void rangeset_clear(RangeSet *s) noexcept nogil                 # frees all memory; usable again
cdef int rangeset_add_below(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil   # rangeset_add's general case
cdef bint rangeset_covers_below(const RangeSet *s, uint64_t start, uint64_t end) noexcept nogil


# 0 on success, -1 out of memory (the set is unchanged). Overlaps and neighbours are merged. start == end is a no-op.
cdef inline int rangeset_add(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil:
    # Begins inside the last range or right behind it.
    if s.count != 0 and start - s.last.start <= s.last.end - s.last.start:
        if end > s.last.end:
            s.covered += end - s.last.end
            s.last.end = end
        return 0
    return rangeset_add_below(s, start, end)


# 0 on success, -1 out of memory (the set is unchanged). Only a removal from the middle of one range allocates.
cdef int rangeset_remove(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil


# 1 when every integer of [start, end) is in the set.
cdef inline bint rangeset_covers(const RangeSet *s, uint64_t start, uint64_t end) noexcept nogil:
    if s.count == 0 or start >= end:
        return start >= end
    if start >= s.last.start:
        return end <= s.last.end
    return s.leaves != 0 and rangeset_covers_below(s, start, end)


cdef inline bint rangeset_contains(const RangeSet *s, uint64_t value) noexcept nogil:
    return rangeset_covers(s, value, value + 1)


# The index-th range from below. The caller has checked index < count. O(leaves), from the nearer end.
cdef Range rangeset_at(const RangeSet *s, uint64_t index) noexcept nogil
# The lowest and the highest range. The caller has checked count > 0.
cdef Range rangeset_first(const RangeSet *s) noexcept nogil


cdef inline Range rangeset_last(const RangeSet *s) noexcept nogil:
    return s.last


# Range that contains or first follows `value`: 0 and *out, or -1 when none. O(log n).
cdef int rangeset_seek(const RangeSet *s, uint64_t value, Range *out) noexcept nogil
# Drop the lowest ranges until at most `keep` remain; returns the end of the last dropped one (0: none dropped).
cdef uint64_t rangeset_trim_low(RangeSet *s, uint64_t keep) noexcept nogil
# The part of [start, end) that is not yet in the set, first gap first: 0 and *out, or -1 when covered.
cdef int rangeset_first_gap(const RangeSet *s, uint64_t start, uint64_t end, Range *out) noexcept nogil
# Bytes of heap held.
cdef size_t rangeset_memory(const RangeSet *s) noexcept nogil
# Every inner invariant holds (for tests). O(n).
cdef bint rangeset_valid(const RangeSet *s) noexcept nogil
