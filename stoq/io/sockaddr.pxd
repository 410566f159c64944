# Address <-> struct sockaddr, inline.
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from stoq.io cimport _socket as c
from stoq.wire.batch cimport Address


cdef inline bint is_mapped(const uint8_t *addr) noexcept nogil:
    """::ffff:a.b.c.d, which is IPv4 on a dual-stack socket."""
    cdef int i
    for i in range(10):
        if addr[i]:
            return False
    return addr[10] == 0xFF and addr[11] == 0xFF


cdef inline void set_ip6(Address *a, const uint8_t *addr, unsigned int scope_id) noexcept nogil:
    """The IP part of `a` from 16 bytes; a mapped address becomes IPv4."""
    if is_mapped(addr):
        a.family = 4
        memcpy(a.addr, addr + 12, 4)
    else:
        a.family = 6
        memcpy(a.addr, addr, 16)
        # Only link-local addresses (fe80::/10) need one; elsewhere it would make equal addresses differ.
        if addr[0] == 0xFE and (addr[1] & 0xC0) == 0x80:
            a.scope_id = scope_id


cdef inline void address_from_sockaddr(const c.sockaddr_in6 *name, Address *a) noexcept nogil:
    """Read what the kernel wrote; family 0 for anything but IP."""
    cdef const c.sockaddr_in *v4 = <const c.sockaddr_in *>name
    memset(a, 0, sizeof(Address))
    if name.sin6_family == c.AF_INET:
        a.family = 4
        memcpy(a.addr, &v4.sin_addr, 4)
        a.port = c.ntohs(v4.sin_port)
    elif name.sin6_family == c.AF_INET6:
        set_ip6(a, name.sin6_addr.s6_addr, name.sin6_scope_id)
        a.port = c.ntohs(name.sin6_port)


cdef inline void ip6_of(const Address *a, uint8_t *addr) noexcept nogil:
    """The 16 bytes of an IPv6 socket's view of `a` (IPv4 mapped)."""
    if a.family == 4:
        memset(addr, 0, 10)
        addr[10] = 0xFF
        addr[11] = 0xFF
        memcpy(addr + 12, a.addr, 4)
    else:
        memcpy(addr, a.addr, 16)


cdef inline c.socklen_t sockaddr_from_address(const Address *a, bint ip6_socket, c.sockaddr_in6 *name) noexcept nogil:
    """Fill `name` for a socket of either family and return its size. What the socket cannot reach, sendmsg refuses."""
    cdef c.sockaddr_in *v4 = <c.sockaddr_in *>name
    if a.family == 4 and not ip6_socket:
        memset(v4, 0, sizeof(c.sockaddr_in))
        v4.sin_family = <c.sa_family_t>c.AF_INET
        v4.sin_port = c.htons(a.port)
        memcpy(&v4.sin_addr, a.addr, 4)
        return sizeof(c.sockaddr_in)
    name.sin6_family = <c.sa_family_t>c.AF_INET6
    name.sin6_port = c.htons(a.port)
    name.sin6_flowinfo = 0
    name.sin6_scope_id = a.scope_id
    ip6_of(a, name.sin6_addr.s6_addr)
    return sizeof(c.sockaddr_in6)
