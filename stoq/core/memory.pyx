"""Allocation of the core's containers, with faults on demand for tests."""
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from stoq.core._malloc cimport stoq_keep_heap

cdef enum:
    HEAP_KEPT = 4 << 20      # twice this may stay at the top of the heap

# Allocations that still succeed before all fail; negative: never fail. Written by tests only, so reading it
# without a lock is safe in a program.
cdef int64_t _allowed = -1


cdef bint _refused() noexcept nogil:
    global _allowed
    if _allowed > 0:
        _allowed -= 1
        return False
    return True


cdef void *memory_alloc(size_t size) noexcept nogil:
    if _allowed >= 0 and _refused():
        return NULL
    return malloc(size)


cdef void *memory_resize(void *block, size_t size) noexcept nogil:
    if _allowed >= 0 and _refused():
        return NULL
    return realloc(block, size)


cdef void memory_free(void *block) noexcept nogil:
    free(block)


def refuse_after(allowed: int | None) -> None:
    """For tests: let `allowed` more allocations succeed and fail every later one; None ends it."""
    global _allowed
    _allowed = -1 if allowed is None else allowed


cdef bint _kept = False


cdef void memory_keep_heap() noexcept nogil:
    """Stop glibc from giving the heap's top back after every batch.

    In-order data of a batch becomes one bytes object of 60 to 130 kB. At glibc's first thresholds (128 kB) each of
    them is mapped, or grown and trimmed, anew: page faults took 18 % of a receiver's time, and a bulk transfer gained
    1.2x (median of 3, interleaved) without them. glibc itself raises both thresholds so in any program that once
    frees a block of this size (M_MMAP_THRESHOLD in mallopt(3)).
    """
    global _kept
    if not _kept:
        _kept = True
        stoq_keep_heap(HEAP_KEPT)
