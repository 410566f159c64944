# Deadlines of connections and extensions: a binary heap, lazy about deadlines that move later.
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef struct TimerSlot:
    int64_t deadline         # ns; 0: none
    int64_t key              # what the heap is ordered by: <= deadline when that is set
    void *owner              # borrowed; NULL: a Python callback (or a free slot)
    int32_t position         # in the heap, -1: not there
    int32_t next_free


cdef class TimerHeap:
    cdef TimerSlot *slots
    cdef int32_t *heap
    cdef int32_t capacity
    cdef int32_t used        # slots ever handed out
    cdef int32_t free_head   # -1: none
    cdef int32_t size        # entries in the heap
    cdef dict callbacks      # slot -> callable(now)

    cdef int32_t add(self, void *owner) except -1
    cdef void remove(self, int32_t slot) noexcept nogil
    cdef void set(self, int32_t slot, int64_t deadline) noexcept nogil
    cdef int64_t next(self) noexcept nogil               # earliest deadline, 0: none
    cdef int32_t pop(self, int64_t now) noexcept nogil   # a slot whose deadline has come (it is cleared), or -1
    cdef void up(self, int32_t at) noexcept nogil
    cdef void down(self, int32_t at) noexcept nogil
    cdef void take_out(self, int32_t at) noexcept nogil
    cdef void settle(self) noexcept nogil
