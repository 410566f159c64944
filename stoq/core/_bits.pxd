# Bit operations that C has only as compiler builtins.
cdef extern from *:
    int lowest_bit "__builtin_ctzll" (unsigned long long word) noexcept nogil   # word != 0
