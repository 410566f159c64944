"""The memory ledger of a connection: every block of the core by name, in bytes.

Not counted: what the application's own objects hold (bytes kept by reference in send buffers), TLS, and the Python
objects of the shell.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strcmp
from stoq.crypto.aead cimport AeadKey
from stoq.core.rangeset cimport rangeset_memory
from stoq.core.recvbuf cimport recvbuf_memory
from stoq.core.sendbuf cimport sendbuf_memory
from stoq.core.sentlog cimport FrameRec, SentPacket
from stoq.core.state cimport Conn, EXT_QUEUE_MAX, Event, ExtFrame, ExtNotice, ExtOut, Path, Space, Stream

cdef enum:
    # What aead_openssl keeps for a key in use: its struct, a GCM context, and one for header protection.
    OPENSSL_KEY = 64 + 1168
    OPENSSL_HP = 656


cdef uint64_t key_memory(const AeadKey *key, bint installed, bint header_protection) noexcept nogil:
    if not installed or key.state == NULL or strcmp(key.backend.name, b"openssl"):
        return 0
    return OPENSSL_KEY + (OPENSSL_HP if header_protection else 0)


cdef dict core_ledger(const Conn *c):
    """Bytes by struct; the sum is under "total"."""
    cdef const Space *sp
    cdef const Stream *s
    cdef uint64_t sent = 0, received = 0, crypto = 0, keys = 0, streams = 0, buffers = 0, ext = 0
    cdef uint32_t k
    cdef int i
    for i in range(3):
        sp = &c.spaces[i]
        sent += sp.sent.capacity * sizeof(SentPacket)
        received += rangeset_memory(&sp.received)
        crypto += recvbuf_memory(&sp.crypto.recv) + sendbuf_memory(&sp.crypto.send)
        keys += key_memory(&sp.rx, sp.has_rx, 1) + key_memory(&sp.tx, sp.has_tx, 1)
    keys += key_memory(&c.keys.previous, c.keys.has_previous, 0) + key_memory(&c.keys.next, c.keys.has_next, 0)
    s = c.all_head
    while s != NULL:
        streams += sizeof(Stream)
        buffers += recvbuf_memory(&s.recv) + sendbuf_memory(&s.send)
        s = s.all_next
    for i in range(4):
        received += rangeset_memory(&c.kinds[i].opened)
    if c.ext_in != NULL:
        ext += EXT_QUEUE_MAX * sizeof(ExtFrame)
    ext += c.ext_notice_capacity * sizeof(ExtNotice) + c.ext_out_capacity * sizeof(ExtOut)
    for k in range(c.ext_out_count):
        ext += c.ext_out[k].length
    ledger = {
        "connection": sizeof(Conn),
        "paths": c.path_count * sizeof(Path),
        "sent_log": sent,
        "frame_records": c.slab.capacity * sizeof(FrameRec),
        "range_sets": received,
        "crypto_buffers": crypto,
        "keys": keys,
        "streams": streams,
        "streams_kept": c.free_count * sizeof(Stream),
        "stream_table": c.table.capacity * sizeof(Stream *),
        "stream_buffers": buffers,
        "events": c.events.capacity * sizeof(Event),
        "extensions": ext,
        "drop_list": c.drops.capacity * sizeof(void *),
        "tokens": c.token_length + c.new_token_length,
    }
    ledger["total"] = sum(ledger.values())
    return ledger
