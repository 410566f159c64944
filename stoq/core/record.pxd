# Frame records of a packet under construction. Header-only.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stoq.core.sentlog cimport FrameRec, slab_take
from stoq.core.state cimport Conn, PacketBuild


cdef inline FrameRec *record_frame(Conn *c, PacketBuild *b, uint8_t source, uint8_t kind,
        uint64_t cookie) noexcept nogil:
    """Note a frame that was just written into b; NULL: out of memory. Valid until the next call."""
    cdef uint32_t index = slab_take(&c.slab)
    cdef FrameRec *r
    if index == 0:
        c.error = 1
        return NULL
    r = &c.slab.items[index]
    r.next = 0
    r.source = source
    r.kind = kind
    r.fin = 0
    r.cookie = cookie
    r.offset = 0
    r.length = 0
    if b.frames_tail:
        c.slab.items[b.frames_tail].next = index
    else:
        b.frames = index
    b.frames_tail = index
    return r
