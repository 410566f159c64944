# The containers' door to malloc, so that tests can make any allocation fail.
cdef void *memory_alloc(size_t size) noexcept nogil              # NULL when out of memory
cdef void *memory_resize(void *block, size_t size) noexcept nogil  # NULL: block is untouched
cdef void memory_free(void *block) noexcept nogil                # NULL is allowed
# Once per process, before the first transfer: bytes objects of a batch's size come from memory that is already there.
cdef void memory_keep_heap() noexcept nogil
