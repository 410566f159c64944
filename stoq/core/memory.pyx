"""Allocation of the core's containers, with faults on demand for tests."""
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc

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
