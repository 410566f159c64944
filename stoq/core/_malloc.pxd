# glibc's malloc tunables (mallopt(3)).
cdef extern from *:
    """
    #include <malloc.h>
    #if defined(__GLIBC__)
    static void stoq_keep_heap(int bytes) {
        mallopt(M_MMAP_THRESHOLD, bytes);
        mallopt(M_TRIM_THRESHOLD, 2 * bytes);
    }
    #else
    static void stoq_keep_heap(int bytes) { (void)bytes; }
    #endif
    """
    void stoq_keep_heap(int bytes) noexcept nogil
