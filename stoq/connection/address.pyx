"""Socket-style addresses to the batch's struct and back."""
import ipaddress

from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memcpy, memset
from stoq.wire.batch cimport Address


cdef int fill_address(Address *out, object peer) except -1:
    """(host, port, …) to an Address; host is a literal IPv4 or IPv6 address, or None."""
    memset(out, 0, sizeof(Address))
    if peer is None:
        return 0
    literal, _, scope = peer[0].partition("%")
    address = ipaddress.ip_address(literal)
    packed = address.packed
    memcpy(out.addr, PyBytes_AS_STRING(packed), <size_t>len(packed))
    out.family = 4 if len(packed) == 4 else 6
    out.port = peer[1]
    if len(peer) > 3:
        out.scope_id = peer[3]
    elif scope.isdecimal():
        out.scope_id = int(scope)
    return 0


cdef object show_address(const Address *a):
    if a.family == 0:
        return None
    packed = (<const char *>a.addr)[:4 if a.family == 4 else 16]
    host = str(ipaddress.ip_address(packed))
    return f"{host}%{a.scope_id}" if a.scope_id else host, a.port
