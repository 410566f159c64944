"""Congestion controllers by name."""
from libc.string cimport strcmp

cdef enum:
    CONTROLLERS_MAX = 8

cdef const CcOps *controllers[8]
cdef int controller_count = 0


cdef const CcOps *cc_find(const char *name) noexcept nogil:
    cdef int i
    for i in range(controller_count):
        if strcmp(controllers[i].name, name) == 0:
            return controllers[i]
    return NULL


cdef int cc_register(const CcOps *ops) except -1:
    global controller_count
    if cc_find(ops.name) != NULL:
        return 0
    if controller_count == CONTROLLERS_MAX:
        raise RuntimeError("too many congestion controllers")
    controllers[controller_count] = ops
    controller_count += 1
    return 0


def controller_names() -> list[str]:
    """Names that Configuration.congestion accepts."""
    return [controllers[i].name.decode() for i in range(controller_count)]
