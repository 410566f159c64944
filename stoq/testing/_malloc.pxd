# What glibc's allocator says about itself.
cdef extern from "malloc.h" nogil:
    cdef struct mallinfo2_s "mallinfo2":
        size_t uordblks          # bytes in use in the arenas
        size_t hblkhd            # bytes in blocks of their own mapping
    mallinfo2_s mallinfo2()
