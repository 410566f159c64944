"""Sets of integer ranges: the bodies of rangeset.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from stoq.core.memory cimport memory_alloc, memory_free, memory_resize

cdef enum:
    FIRST_LEAF = 4           # a handful of gaps is the usual case: 72 bytes
    FIRST_SLOTS = 8
    SHARE_MAX = 48           # a neighbour with at most this many ranges takes some from a full leaf before it is split
    MERGE_MAX = 48           # two neighbours with at most this many together become one: leaves are at least 3/8 full

cdef struct Leaf:            # the ranges follow in memory
    uint32_t count
    uint32_t capacity

cdef struct Slot:
    uint64_t start           # of the leaf's first range, so that the search stays within this array
    Leaf *leaf

cdef struct Place:           # of a range below the last one; leaf == leaves: behind all of them
    uint32_t leaf
    uint32_t index


# -- leaves -----------------------------------------------------------------------------------------------------------

cdef inline Range *ranges_of(Leaf *leaf) noexcept nogil:
    return <Range *>(leaf + 1)


cdef inline size_t leaf_size(uint32_t capacity) noexcept nogil:
    return sizeof(Leaf) + capacity * sizeof(Range)


cdef inline Leaf *leaf_at(const RangeSet *s, uint32_t i) noexcept nogil:
    return (<Slot *>s.impl)[i].leaf if s.slots != 0 else <Leaf *>s.impl


cdef inline Range *range_at(const RangeSet *s, Place at) noexcept nogil:
    return ranges_of(leaf_at(s, at.leaf)) + at.index


cdef inline Range *range_or_last(const RangeSet *s, Place at) noexcept nogil:
    return <Range *>&s.last if at.leaf == s.leaves else range_at(s, at)


cdef inline Place following(const RangeSet *s, Place at) noexcept nogil:
    at.index += 1
    if at.index == leaf_at(s, at.leaf).count:
        at.leaf += 1
        at.index = 0
    return at


cdef inline void renew_key(RangeSet *s, uint32_t i) noexcept nogil:
    if s.slots != 0 and i < s.leaves:
        (<Slot *>s.impl)[i].start = ranges_of(leaf_at(s, i))[0].start


cdef Leaf *leaf_new(uint32_t capacity) noexcept nogil:
    cdef Leaf *leaf = <Leaf *>memory_alloc(leaf_size(capacity))
    if leaf != NULL:
        leaf.count = 0
        leaf.capacity = capacity
    return leaf


# Put `leaf`, not empty, at position i of the array of leaves: 0, or -1 out of memory.
cdef int slots_insert(RangeSet *s, uint32_t i, Leaf *leaf) noexcept nogil:
    cdef Slot *slots = <Slot *>s.impl
    cdef uint32_t capacity
    if s.slots == 0:
        slots = <Slot *>memory_alloc(FIRST_SLOTS * sizeof(Slot))
        if slots == NULL:
            return -1
        slots[0].leaf = <Leaf *>s.impl
        slots[0].start = ranges_of(slots[0].leaf)[0].start
        s.impl = slots
        s.slots = FIRST_SLOTS
    elif s.leaves == s.slots:
        capacity = s.slots * 2
        slots = <Slot *>memory_resize(slots, capacity * sizeof(Slot))
        if slots == NULL:
            return -1
        s.impl = slots
        s.slots = capacity
    memmove(slots + i + 1, slots + i, (s.leaves - i) * sizeof(Slot))
    slots[i].leaf = leaf
    slots[i].start = ranges_of(leaf)[0].start
    s.leaves += 1
    return 0


# Free the leaves [i, k), and the array when one leaf or none remains.
cdef void slots_remove(RangeSet *s, uint32_t i, uint32_t k) noexcept nogil:
    cdef Slot *slots = <Slot *>s.impl
    cdef Slot *smaller
    cdef uint32_t at
    for at in range(i, k):
        memory_free(leaf_at(s, at))
    if s.slots == 0:
        if i < k:
            s.impl = NULL
            s.leaves = 0
        return
    memmove(slots + i, slots + k, (s.leaves - k) * sizeof(Slot))
    s.leaves -= k - i
    if s.leaves <= 1:
        s.impl = slots[0].leaf if s.leaves == 1 else NULL
        s.slots = 0
        memory_free(slots)
    elif s.slots > FIRST_SLOTS and s.leaves <= s.slots // 4:
        smaller = <Slot *>memory_resize(slots, s.slots // 2 * sizeof(Slot))
        if smaller != NULL:
            s.impl = smaller
            s.slots //= 2


# -- search -----------------------------------------------------------------------------------------------------------

# The first range below the last one whose end is at least `value`.
cdef Place place_of(const RangeSet *s, uint64_t value) noexcept nogil:
    cdef Slot *slots = <Slot *>s.impl
    cdef Place at
    cdef Leaf *leaf
    cdef Range *ranges
    cdef uint32_t low = 0, high, middle
    at.leaf = 0
    at.index = 0
    if s.leaves == 0:
        return at
    if s.slots != 0 and value >= slots[1].start:
        # The last leaf that begins at or below value; ranges of earlier leaves end below its first one.
        low = s.leaves - 1
        if value < slots[low].start:
            high = low
            low = 1
            while high - low > 1:
                middle = (low + high) >> 1
                if slots[middle].start <= value:
                    low = middle
                else:
                    high = middle
    at.leaf = low
    leaf = leaf_at(s, low)
    ranges = ranges_of(leaf)
    low = 0
    high = leaf.count
    while low < high:
        middle = (low + high) >> 1
        if ranges[middle].end < value:
            low = middle + 1
        else:
            high = middle
    at.index = low
    if low == leaf.count:
        at.leaf += 1
        at.index = 0
    return at


# -- change -----------------------------------------------------------------------------------------------------------

# Make room for one range at *at, whose leaf is full, by sharing with a neighbour or with a new leaf: 0, or -1 out of
# memory. The range may then be inserted at *at.
cdef int make_room(RangeSet *s, Place *at) noexcept nogil:
    cdef Leaf *leaf = leaf_at(s, at.leaf)
    cdef Leaf *other
    cdef uint32_t moved
    cdef bint after = at.leaf + 1 == s.leaves and at.index == leaf.count
    if at.leaf + 1 < s.leaves:
        other = leaf_at(s, at.leaf + 1)
        if other.count <= SHARE_MAX:
            moved = (RANGESET_LEAF - other.count) // 2
            memmove(ranges_of(other) + moved, ranges_of(other), other.count * sizeof(Range))
            leaf.count -= moved
            other.count += moved
            memcpy(ranges_of(other), ranges_of(leaf) + leaf.count, moved * sizeof(Range))
            renew_key(s, at.leaf + 1)
            if at.index > leaf.count:
                at.leaf += 1
                at.index -= leaf.count
            return 0
    if at.leaf > 0 and not after:
        other = leaf_at(s, at.leaf - 1)
        if other.count <= SHARE_MAX:
            moved = (RANGESET_LEAF - other.count) // 2
            memcpy(ranges_of(other) + other.count, ranges_of(leaf), moved * sizeof(Range))
            leaf.count -= moved
            memmove(ranges_of(leaf), ranges_of(leaf) + moved, leaf.count * sizeof(Range))
            renew_key(s, at.leaf)
            if at.index <= moved:
                at.leaf -= 1
                at.index += other.count
            else:
                at.index -= moved
            other.count += moved
            return 0
    # Split. Ascending and descending insertion move one range only, so that they leave full leaves behind.
    other = leaf_new(RANGESET_LEAF)
    if other == NULL:
        return -1
    if at.leaf == 0 and at.index == 0:
        moved = leaf.count - 1
    elif after:
        moved = 1
    else:
        moved = leaf.count // 2
    memcpy(ranges_of(other), ranges_of(leaf) + leaf.count - moved, moved * sizeof(Range))
    other.count = moved
    if slots_insert(s, at.leaf + 1, other):
        memory_free(other)
        return -1
    leaf.count -= moved
    if at.index > leaf.count:
        at.leaf += 1
        at.index -= leaf.count
    return 0


# Insert a range that touches no other at its place below the last one: 0, or -1 out of memory (nothing changed).
cdef int insert(RangeSet *s, Place at, uint64_t start, uint64_t end) noexcept nogil:
    cdef Leaf *leaf
    cdef Range *ranges
    cdef uint32_t capacity
    if s.leaves == 0:
        leaf = leaf_new(FIRST_LEAF)
        if leaf == NULL:
            return -1
        s.impl = leaf
        s.leaves = 1
    elif at.leaf == s.leaves:
        at.leaf -= 1
        at.index = leaf_at(s, at.leaf).count
    leaf = leaf_at(s, at.leaf)
    if leaf.count == leaf.capacity:
        if leaf.capacity < RANGESET_LEAF:
            # Only a single leaf is smaller than a full one.
            capacity = leaf.capacity * 2
            leaf = <Leaf *>memory_resize(leaf, leaf_size(capacity))
            if leaf == NULL:
                return -1
            leaf.capacity = capacity
            s.impl = leaf
        else:
            if make_room(s, &at):
                return -1
            leaf = leaf_at(s, at.leaf)
    ranges = ranges_of(leaf)
    if at.index < leaf.count:
        memmove(ranges + at.index + 1, ranges + at.index, (leaf.count - at.index) * sizeof(Range))
    leaf.count += 1
    ranges[at.index].start = start
    ranges[at.index].end = end
    if at.index == 0:
        renew_key(s, at.leaf)
    s.count += 1
    s.covered += end - start
    return 0


cdef void discount(RangeSet *s, const Range *ranges, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        s.covered -= ranges[i].end - ranges[i].start
    s.count -= count


# Join leaf i with the next one when both are sparse.
cdef void join(RangeSet *s, uint32_t i) noexcept nogil:
    cdef Leaf *left
    cdef Leaf *right
    if i + 1 >= s.leaves:
        return
    left = leaf_at(s, i)
    right = leaf_at(s, i + 1)
    if left.count + right.count <= MERGE_MAX:
        memcpy(ranges_of(left) + left.count, ranges_of(right), right.count * sizeof(Range))
        left.count += right.count
        slots_remove(s, i + 1, i + 2)


# Erase the ranges from `at` up to, not including, `stop` (both below the last one). Never fails.
cdef void erase(RangeSet *s, Place at, Place stop) noexcept nogil:
    cdef Leaf *leaf
    cdef Range *ranges
    cdef uint32_t i, whole = at.leaf
    if at.leaf == stop.leaf:
        if at.index == stop.index:
            return
        leaf = leaf_at(s, at.leaf)
        ranges = ranges_of(leaf)
        discount(s, ranges + at.index, stop.index - at.index)
        memmove(ranges + at.index, ranges + stop.index, (leaf.count - stop.index) * sizeof(Range))
        leaf.count -= stop.index - at.index
    else:
        if at.index != 0:
            leaf = leaf_at(s, at.leaf)
            discount(s, ranges_of(leaf) + at.index, leaf.count - at.index)
            leaf.count = at.index
            whole += 1
        for i in range(whole, stop.leaf):
            leaf = leaf_at(s, i)
            discount(s, ranges_of(leaf), leaf.count)
        if stop.index != 0:
            leaf = leaf_at(s, stop.leaf)
            ranges = ranges_of(leaf)
            discount(s, ranges, stop.index)
            leaf.count -= stop.index
            memmove(ranges, ranges + stop.index, leaf.count * sizeof(Range))
        slots_remove(s, whole, stop.leaf)
    renew_key(s, at.leaf)
    renew_key(s, at.leaf + 1)
    join(s, at.leaf)
    if at.leaf > 0:
        join(s, at.leaf - 1)


cdef int rangeset_add_below(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil:
    cdef Place at, stop
    cdef Range *r
    if start >= end:
        return 0
    if s.count == 0:
        s.count = 1
        s.covered = end - start
        s.last.start = start
        s.last.end = end
        return 0
    if start > s.last.end:
        at.leaf = s.leaves
        at.index = 0
        if insert(s, at, s.last.start, s.last.end):
            return -1
        s.covered += (end - start) - (s.last.end - s.last.start)   # insert counted the old last range again
        s.last.start = start
        s.last.end = end
        return 0
    at = place_of(s, start)
    if end >= s.last.start:
        # The last range takes in everything from `at` on.
        if at.leaf < s.leaves:
            r = range_at(s, at)
            if r.start < start:
                start = r.start
            stop.leaf = s.leaves
            stop.index = 0
            erase(s, at, stop)
        if start < s.last.start:
            s.covered += s.last.start - start
            s.last.start = start
        if end > s.last.end:
            s.covered += end - s.last.end
            s.last.end = end
        return 0
    if at.leaf == s.leaves:
        return insert(s, at, start, end)
    r = range_at(s, at)
    if end < r.start:
        return insert(s, at, start, end)
    # The range at `at` grows, and takes in those that it now reaches.
    stop = following(s, at)
    if end > r.end:
        if stop.leaf < s.leaves and range_at(s, stop).start <= end:
            stop = place_of(s, end)
            if stop.leaf < s.leaves and range_at(s, stop).start <= end:
                end = range_at(s, stop).end
                stop = following(s, stop)
        s.covered += end - r.end
        r.end = end
    if start < r.start:
        s.covered += r.start - start
        r.start = start
        if at.index == 0:
            renew_key(s, at.leaf)
    erase(s, following(s, at), stop)
    return 0


cdef int rangeset_remove(RangeSet *s, uint64_t start, uint64_t end) noexcept nogil:
    cdef Place at, stop
    cdef Range *r
    cdef Range saved
    if start >= end or s.count == 0 or start >= s.last.end:
        return 0
    if start > s.last.start:
        if end < s.last.end:
            at.leaf = s.leaves
            at.index = 0
            if insert(s, at, s.last.start, start):
                return -1
            # insert counted [last.start, start) once more.
            s.covered -= end - s.last.start
            s.last.start = end
        else:
            s.covered -= s.last.end - start
            s.last.end = start
        return 0
    at = place_of(s, start + 1)
    if at.leaf < s.leaves:
        r = range_at(s, at)
        if r.start < start:
            if r.end > end:
                saved = r[0]
                r.start = end
                if insert(s, at, saved.start, start):
                    r.start = saved.start
                    return -1
                s.covered -= end - saved.start
                return 0
            s.covered -= r.end - start
            r.end = start
            at = following(s, at)
        if at.leaf < s.leaves:
            stop = place_of(s, end + 1)
            if stop.leaf < s.leaves:
                r = range_at(s, stop)
                if r.start < end:
                    s.covered -= end - r.start
                    r.start = end
                    if stop.index == 0:
                        renew_key(s, stop.leaf)
            erase(s, at, stop)
    if end >= s.last.end:
        s.covered -= s.last.end - s.last.start
        if s.leaves == 0:
            s.count = 0
        else:
            # The highest range of the leaves becomes the last one: erase uncounts one range, as it must, and the
            # integers of this one, which stay.
            at.leaf = s.leaves - 1
            at.index = leaf_at(s, at.leaf).count - 1
            stop.leaf = s.leaves
            stop.index = 0
            s.last = range_at(s, at)[0]
            erase(s, at, stop)
            s.covered += s.last.end - s.last.start
    elif end > s.last.start:
        s.covered -= end - s.last.start
        s.last.start = end
    return 0


cdef uint64_t rangeset_trim_low(RangeSet *s, uint64_t keep) noexcept nogil:
    cdef uint64_t dropped, end
    cdef Place at, stop
    cdef Leaf *leaf
    if s.count <= keep:
        return 0
    if keep == 0:
        end = s.last.end
        rangeset_clear(s)
        return end
    dropped = s.count - keep
    at.leaf = 0
    at.index = 0
    stop.leaf = 0
    while True:
        leaf = leaf_at(s, stop.leaf)
        if dropped <= leaf.count:
            break
        dropped -= leaf.count
        stop.leaf += 1
    stop.index = <uint32_t>dropped - 1
    end = range_at(s, stop).end
    erase(s, at, following(s, stop))
    return end


cdef void rangeset_init(RangeSet *s) noexcept nogil:
    s.count = 0
    s.covered = 0
    s.last.start = 0
    s.last.end = 0
    s.impl = NULL
    s.leaves = 0
    s.slots = 0


cdef void rangeset_clear(RangeSet *s) noexcept nogil:
    cdef uint32_t i
    for i in range(s.leaves):
        memory_free(leaf_at(s, i))
    if s.slots != 0:
        memory_free(s.impl)
    rangeset_init(s)


# -- queries ----------------------------------------------------------------------------------------------------------

cdef bint rangeset_covers_below(const RangeSet *s, uint64_t start, uint64_t end) noexcept nogil:
    cdef Place at = place_of(s, start + 1)
    cdef Range *r
    if at.leaf == s.leaves:
        return False
    r = range_at(s, at)
    return r.start <= start and end <= r.end


cdef Range rangeset_first(const RangeSet *s) noexcept nogil:
    return s.last if s.leaves == 0 else ranges_of(leaf_at(s, 0))[0]


cdef Range rangeset_at(const RangeSet *s, uint64_t index) noexcept nogil:
    cdef uint64_t after
    cdef uint32_t i
    cdef Leaf *leaf
    if index + 1 == s.count:
        return s.last
    if index < s.count // 2:
        i = 0
        leaf = leaf_at(s, 0)
        while index >= leaf.count:
            index -= leaf.count
            i += 1
            leaf = leaf_at(s, i)
        return ranges_of(leaf)[index]
    after = s.count - 1 - index      # ranges of the leaves from this one on
    i = s.leaves - 1
    leaf = leaf_at(s, i)
    while after > leaf.count:
        after -= leaf.count
        i -= 1
        leaf = leaf_at(s, i)
    return ranges_of(leaf)[leaf.count - after]


cdef int rangeset_seek(const RangeSet *s, uint64_t value, Range *out) noexcept nogil:
    if s.count == 0 or value >= s.last.end:
        return -1
    if s.leaves == 0 or value >= s.last.start:
        out[0] = s.last
    else:
        out[0] = range_or_last(s, place_of(s, value + 1))[0]
    return 0


cdef int rangeset_first_gap(const RangeSet *s, uint64_t start, uint64_t end, Range *out) noexcept nogil:
    cdef Place at
    cdef Range *r
    if start >= end:
        return -1
    out.start = start
    out.end = end
    if s.count == 0 or start >= s.last.end:
        return 0
    if start >= s.last.start:
        out.start = s.last.end
        return 0 if out.start < end else -1
    at = place_of(s, start + 1)
    r = range_or_last(s, at)
    if r.start <= start:
        out.start = r.end
        if out.start >= end:
            return -1
        r = range_or_last(s, following(s, at))
    if r.start < end:
        out.end = r.start
    return 0


cdef size_t rangeset_memory(const RangeSet *s) noexcept nogil:
    cdef size_t total = s.slots * sizeof(Slot)
    cdef uint32_t i
    for i in range(s.leaves):
        total += leaf_size(leaf_at(s, i).capacity)
    return total


cdef bint rangeset_valid(const RangeSet *s) noexcept nogil:
    cdef Slot *slots = <Slot *>s.impl
    cdef Leaf *leaf
    cdef Range *r
    cdef uint64_t count = 0, covered = 0, below = 0
    cdef uint32_t i, j
    if (s.impl == NULL) != (s.leaves == 0) or (s.slots != 0 and (s.leaves < 2 or s.leaves > s.slots)):
        return False
    for i in range(s.leaves):
        leaf = leaf_at(s, i)
        if leaf.count == 0 or leaf.count > leaf.capacity or leaf.capacity > RANGESET_LEAF:
            return False
        if s.leaves > 1 and (leaf.capacity != RANGESET_LEAF or slots[i].start != ranges_of(leaf)[0].start):
            return False
        for j in range(leaf.count):
            r = ranges_of(leaf) + j
            if r.end <= r.start or (count != 0 and r.start <= below):
                return False
            below = r.end
            covered += r.end - r.start
            count += 1
    if s.count != 0:
        if s.last.end <= s.last.start or (count != 0 and s.last.start <= below):
            return False
        covered += s.last.end - s.last.start
        count += 1
    return count == s.count and covered == s.covered
