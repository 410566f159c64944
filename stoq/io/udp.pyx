"""UDP over Linux sockets: segmentation offload both ways (GSO, GRO), ECN, packet info, each optional with a reason.

`open_udp` is how transports of this kind come to be.
"""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

import os
from types import MappingProxyType

from stoq.io.buffers cimport BUFFER_SIZE, buffer_drop, buffer_take
from stoq.io.sockaddr cimport address_from_sockaddr, ip6_of, set_ip6, sockaddr_from_address
from stoq.io.transport cimport ERRNO_MAX, address_equal, address_from_python, address_to_python, datagrams_of
from stoq.wire.batch cimport DATAGRAM_TRUNCATED, RECV_BATCH_MAX, SEND_SEGMENTS_MAX, RecvBatch

from stoq.io.caps import Caps
from stoq.io.sockets import open_udp_socket
from stoq.io.transport import TransportError

cdef enum:
    # Pending errors (ICMP) that one receive call steps over before it reports "nothing there".
    PENDING_ERRORS_MAX = 8

# Must exceed what peers may have in flight: with 1 MiB in flight 256 KiB lost datagrams; 1, 2, 4 and 8 MiB are equally
# fast [measured]. Only what waits is ever allocated.
RECEIVE_BUFFER = 4 << 20
SEND_BUFFER = 4 << 20
# 1 to 32 buffers of 64 KiB a call are equally fast, and the unused ones cost an empty queue nothing [measured]; with
# 8 all that one call returns stays in a 1 MiB L2 cache.
GRO_SLOTS = 8


@cython.final
cdef class UdpTransport(Transport):
    """A bound UDP socket. Made by open_udp()."""

    def __cinit__(self, *args, **kwargs):
        self.fd = -1
        memset(self.slots, 0, sizeof(self.slots))
        memset(self.rx, 0, sizeof(self.rx))
        memset(&self.tx, 0, sizeof(self.tx))
        memset(&self.remote, 0, sizeof(self.remote))
        memset(&self.receive_local, 0, sizeof(self.receive_local))

    def __init__(self, opened, max_segments, buffer_size, receive_slots, send_slots):
        cdef int i
        cdef c.sockaddr_in6 name
        cdef c.socklen_t size = sizeof(name)
        self.set_up(opened.gso, max_segments, buffer_size, receive_slots, send_slots)
        self.ip6 = opened.family == 6
        self.wildcard = opened.wildcard
        self.gro = opened.gro
        self.ecn = opened.ecn
        self.pktinfo = opened.pktinfo
        self.mtu = 0
        self.reasons = opened.reasons
        for i in range(RECV_BATCH_MAX):
            self.slots[i].iov.iov_len = buffer_size
            self.rx[i].msg_hdr.msg_name = &self.slots[i].name
            self.rx[i].msg_hdr.msg_iov = &self.slots[i].iov
            self.rx[i].msg_hdr.msg_iovlen = 1
            self.rx[i].msg_hdr.msg_control = self.slots[i].control
        self.dirty = receive_slots
        self.tx.msg_iov = &self.tx_iov
        self.tx.msg_iovlen = 1
        self.fd = opened.sock.detach()
        c.getsockname(self.fd, <c.sockaddr *>&name, &size)
        address_from_sockaddr(&name, &self.local)
        if not opened.wildcard:
            self.receive_local = self.local

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        cdef int i
        self.closed = True
        if self.fd >= 0:
            c.close(self.fd)
            self.fd = -1
            for i in range(RECV_BATCH_MAX):
                if self.slots[i].buffer != NULL:
                    buffer_drop(self.slots[i].buffer)
                    self.slots[i].buffer = NULL

    cpdef int fileno(self):
        return self.fd

    cdef bint poll(self, int64_t timeout_ns, bint writable) except -1:
        cdef c.pollfd p
        cdef c.timespec timeout
        cdef c.timespec *limit = NULL
        cdef int rc
        if self.fd < 0:
            raise TransportError("the transport is closed")
        p.fd = self.fd
        p.events = c.POLLOUT if writable else c.POLLIN
        p.revents = 0
        if timeout_ns >= 0:
            timeout.tv_sec = timeout_ns // 1000000000
            timeout.tv_nsec = timeout_ns % 1000000000
            limit = &timeout
        with nogil:
            rc = c.ppoll(&p, 1, limit, NULL)
        return rc > 0

    # ---- receive

    cdef uint32_t arm(self) noexcept:
        """Put a buffer and fresh sizes into every slot that the last call used; returns how many slots are usable."""
        cdef uint32_t i
        cdef RecvSlot *slot
        for i in range(self.dirty):
            slot = &self.slots[i]
            if slot.buffer == NULL:
                slot.buffer = buffer_take(self.pool)
                if slot.buffer == NULL:
                    self.dirty = self.receive_slots
                    return i
                slot.iov.iov_base = slot.buffer.data
            self.rx[i].msg_hdr.msg_namelen = sizeof(c.sockaddr_in6)
            self.rx[i].msg_hdr.msg_controllen = sizeof(slot.control)
        self.dirty = 0
        return self.receive_slots

    cdef void read_control(self, c.msghdr *m, uint16_t *segment, uint8_t *ecn, Address *local) noexcept:
        cdef c.cmsghdr *h = c.CMSG_FIRSTHDR(m)
        cdef int value
        cdef c.in_pktinfo *info4
        cdef c.in6_pktinfo *info6
        while h != NULL:
            if h.cmsg_level == c.SOL_UDP and h.cmsg_type == c.UDP_GRO:
                memcpy(&value, c.CMSG_DATA(h), sizeof(int))
                segment[0] = <uint16_t>value
            elif h.cmsg_level == c.IPPROTO_IP and h.cmsg_type == c.IP_TOS:
                ecn[0] = c.CMSG_DATA(h)[0] & 3
            elif h.cmsg_level == c.IPPROTO_IPV6 and h.cmsg_type == c.IPV6_TCLASS:
                memcpy(&value, c.CMSG_DATA(h), sizeof(int))
                ecn[0] = <uint8_t>(value & 3)
            elif h.cmsg_level == c.IPPROTO_IP and h.cmsg_type == c.IP_PKTINFO:
                info4 = <c.in_pktinfo *>c.CMSG_DATA(h)
                memset(local, 0, sizeof(Address))
                local.family = 4
                local.port = self.local.port
                memcpy(local.addr, &info4.ipi_spec_dst, 4)
            elif h.cmsg_level == c.IPPROTO_IPV6 and h.cmsg_type == c.IPV6_PKTINFO:
                info6 = <c.in6_pktinfo *>c.CMSG_DATA(h)
                memset(local, 0, sizeof(Address))
                local.port = self.local.port
                set_ip6(local, info6.ipi6_addr.s6_addr, info6.ipi6_ifindex)
            h = c.CMSG_NXTHDR(m, h)

    cdef int receive(self, RecvBatch *batch) except -1:
        cdef uint32_t usable, i
        cdef int got, error, tries = 0
        cdef c.mmsghdr *m
        batch.count = 0
        if self.fd < 0:
            raise TransportError("the transport is closed")
        usable = self.arm()
        if usable == 0:
            self.count.starved += 1
            return 0
        while True:
            self.count.receive_calls += 1
            got = c.recvmmsg(self.fd, self.rx, usable, c.MSG_DONTWAIT, NULL)
            if got >= 0:
                break
            error = errno
            if error == c.EAGAIN:
                return 0
            # A pending error of an earlier send (ICMP); datagrams may wait behind it.
            if error != c.EINTR:
                self.count_error(error, 0)
            tries += 1
            if tries == PENDING_ERRORS_MAX:
                return 0
        self.dirty = max(self.dirty, <uint32_t>got)
        batch.queue = 0
        for i in range(<uint32_t>got):
            m = &self.rx[i]
            batch.data[i] = self.slots[i].buffer.data
            batch.owner[i] = self.slots[i].buffer
            self.slots[i].buffer = NULL
            batch.length[i] = m.msg_len
            batch.segment[i] = 0
            batch.ecn[i] = 0
            batch.flags[i] = 0
            batch.local[i] = self.receive_local
            address_from_sockaddr(&self.slots[i].name, &batch.peer[i])
            self.read_control(&m.msg_hdr, &batch.segment[i], &batch.ecn[i], &batch.local[i])
            if batch.length[i] <= batch.segment[i]:
                batch.segment[i] = 0
            if m.msg_hdr.msg_flags & c.MSG_TRUNC:
                batch.flags[i] = DATAGRAM_TRUNCATED
                self.count.truncated += 1
            self.count.datagrams_in += datagrams_of(batch.length[i], batch.segment[i])
            self.count.bytes_in += batch.length[i]
        batch.count = got
        return got

    # ---- send

    cdef int send(self, SendBatch *batch) except -1:
        cdef uint32_t i
        if self.fd < 0:
            raise TransportError("the transport is closed")
        for i in range(batch.count):
            if self.send_entry(batch, i):
                self.count.not_writable += 1
                return i
        return batch.count

    cdef bint send_entry(self, SendBatch *batch, uint32_t i) noexcept:
        """True: not writable now; the entry's data and length then say what is left of it."""
        cdef uint32_t length = batch.length[i], step
        cdef uint16_t segment = batch.segment[i]
        cdef uint32_t n = datagrams_of(length, segment)
        cdef int error, gso_error = 0
        if n == 1 or (self.gso and n <= SEND_SEGMENTS_MAX):
            error = self.transmit(batch.data[i], length, segment if n > 1 else 0, &batch.peer[i], &batch.local[i],
                                  batch.ecn[i])
            if error == 0:
                self.count.datagrams_out += n
                self.count.bytes_out += length
                return False
            if error == c.EAGAIN:
                return True
            if n == 1 or (error != c.EINVAL and error != c.EIO):
                self.count_error(error, n)
                return False
            # The route cannot segment, or a segment is larger than its MTU (EINVAL as well): one by one tells.
            gso_error = error
        while length:
            step = min(<uint32_t>segment, length)
            error = self.transmit(batch.data[i], step, 0, &batch.peer[i], &batch.local[i], batch.ecn[i])
            if error == c.EAGAIN:
                return True
            if error:
                self.count_error(error, 1)
            else:
                self.count.datagrams_out += 1
                self.count.bytes_out += step
                if gso_error:
                    self.gso = False
                    self.gso_error = gso_error
                    self.caps_ = None
                    gso_error = 0
            length -= step
            batch.data[i] += step
            batch.capacity[i] -= step
            batch.length[i] = length
        return False

    cdef int transmit(self, uint8_t *data, size_t length, uint16_t segment, const Address *peer,
                      const Address *local, uint8_t ecn) noexcept:
        """One sendmsg; 0 or the errno."""
        cdef size_t used = 0
        cdef uint8_t *control = <uint8_t *>self.tx_control
        cdef c.cmsghdr *h
        cdef c.in_pktinfo *info4
        cdef c.in6_pktinfo *info6
        cdef int value, error, tries = 0
        self.tx_iov.iov_base = data
        self.tx_iov.iov_len = length
        if self.remote.family and (peer.family == 0 or address_equal(peer, &self.remote)):
            self.tx.msg_name = NULL
            self.tx.msg_namelen = 0
        else:
            self.tx.msg_name = &self.tx_name
            self.tx.msg_namelen = sockaddr_from_address(peer, self.ip6, &self.tx_name)
        # SAFETY: tx_control is 128 bytes; segment size, class and packet info take 24 + 24 + 40.
        if segment:
            h = <c.cmsghdr *>control
            h.cmsg_level = c.SOL_UDP
            h.cmsg_type = c.UDP_SEGMENT
            h.cmsg_len = c.CMSG_LEN(sizeof(uint16_t))
            memcpy(c.CMSG_DATA(h), &segment, sizeof(uint16_t))
            used = c.CMSG_SPACE(sizeof(uint16_t))
        if self.remote.family:
            # A class per send costs a connected socket its cached route: 0.48 us of 3.7 us a send [measured].
            # One connection rarely changes its class, so the socket's own is set when it does.
            if ecn != self.tos and self.ecn:
                value = ecn & 3
                c.setsockopt(self.fd, c.IPPROTO_IP if self.remote.family == 4 else c.IPPROTO_IPV6,
                             c.IP_TOS if self.remote.family == 4 else c.IPV6_TCLASS, &value, sizeof(int))
                self.tos = ecn
        elif ecn and self.ecn:
            h = <c.cmsghdr *>(control + used)
            value = ecn & 3
            if self.ip6 and peer.family != 4:
                h.cmsg_level = c.IPPROTO_IPV6
                h.cmsg_type = c.IPV6_TCLASS
            else:
                h.cmsg_level = c.IPPROTO_IP
                h.cmsg_type = c.IP_TOS
            h.cmsg_len = c.CMSG_LEN(sizeof(int))
            memcpy(c.CMSG_DATA(h), &value, sizeof(int))
            used += c.CMSG_SPACE(sizeof(int))
        if local.family and self.pktinfo:
            h = <c.cmsghdr *>(control + used)
            if self.ip6:
                h.cmsg_level = c.IPPROTO_IPV6
                h.cmsg_type = c.IPV6_PKTINFO
                h.cmsg_len = c.CMSG_LEN(sizeof(c.in6_pktinfo))
                info6 = <c.in6_pktinfo *>c.CMSG_DATA(h)
                info6.ipi6_ifindex = local.scope_id
                ip6_of(local, info6.ipi6_addr.s6_addr)
                used += c.CMSG_SPACE(sizeof(c.in6_pktinfo))
            else:
                h.cmsg_level = c.IPPROTO_IP
                h.cmsg_type = c.IP_PKTINFO
                h.cmsg_len = c.CMSG_LEN(sizeof(c.in_pktinfo))
                info4 = <c.in_pktinfo *>c.CMSG_DATA(h)
                memset(info4, 0, sizeof(c.in_pktinfo))
                memcpy(&info4.ipi_spec_dst, local.addr, 4)
                used += c.CMSG_SPACE(sizeof(c.in_pktinfo))
        self.tx.msg_control = control if used else NULL
        self.tx.msg_controllen = used
        while True:
            self.count.send_calls += 1
            if c.sendmsg(self.fd, &self.tx, c.MSG_DONTWAIT) >= 0:
                return 0
            error = errno
            if error == c.EINTR:
                continue
            # A connected socket reports an ICMP error of an earlier datagram here, and this one was not sent.
            if tries == 0 and self.remote.family and error in (
                    c.ECONNREFUSED, c.EHOSTUNREACH, c.ENETUNREACH, c.EHOSTDOWN, c.ENOPROTOOPT, c.EPROTO, c.EACCES):
                tries = 1
                self.count_error(error, 0)
                continue
            return error

    cdef void count_error(self, int error, uint64_t datagrams) noexcept:
        self.count.errors[error if 0 < error < ERRNO_MAX else 0] += 1
        self.count.dropped += datagrams

    # ---- Python face

    def connect(self, remote):
        """Connect to another address; the port stays. Sends cost less, ICMP errors are seen. TransportError."""
        cdef Address target
        cdef c.sockaddr_in6 name
        cdef c.socklen_t size
        cdef int mtu
        if self.fd < 0:
            raise TransportError("the transport is closed")
        address_from_python(remote, &target)
        if c.connect(self.fd, <c.sockaddr *>&name, sockaddr_from_address(&target, self.ip6, &name)):
            raise TransportError(f"cannot connect UDP to {remote[0]} port {remote[1]}: {os.strerror(errno)}")
        self.remote = target
        size = sizeof(name)
        c.getsockname(self.fd, <c.sockaddr *>&name, &size)
        address_from_sockaddr(&name, &self.local)
        self.receive_local = self.local
        size = sizeof(mtu)
        if c.getsockopt(self.fd, c.IPPROTO_IPV6 if target.family == 6 else c.IPPROTO_IP,
                        c.IPV6_MTU if target.family == 6 else c.IP_MTU, &mtu, &size):
            mtu = 0
        self.mtu = mtu
        self.caps_ = None

    @property
    def remote_address(self):
        """The connected peer, None when the socket is not connected."""
        return address_to_python(&self.remote)

    def _receive_overflow(self):
        cdef unsigned int info[16]
        cdef c.socklen_t size = sizeof(info)
        if self.fd < 0 or c.getsockopt(self.fd, c.SOL_SOCKET, c.SO_MEMINFO, info, &size):
            return 0
        return info[c.SK_MEMINFO_DROPS] if size > c.SK_MEMINFO_DROPS * sizeof(unsigned int) else 0

    @property
    def caps(self):
        if self.caps_ is None:
            reasons = dict(self.reasons)
            if self.gso_error:
                reasons["gso"] = f"turned off after a send failed: {os.strerror(self.gso_error)}"
            reasons["zero_copy"] = "sockets copy"
            self.caps_ = Caps(
                mode="udp",
                max_segments=self.max_segments if self.gso else 1,
                max_datagram_size=self.entry_size(),
                mtu=self.mtu,
                gro=self.gro,
                ecn=self.ecn,
                pktinfo=self.pktinfo,
                reasons=MappingProxyType(reasons),
            )
        return self.caps_


def open_udp(
    host=None,
    port=0,
    *,
    remote=None,
    reuse_port=False,
    receive_buffer=RECEIVE_BUFFER,
    send_buffer=SEND_BUFFER,
    gso=True,
    gro=True,
    ecn=True,
    pktinfo=True,
    max_segments=SEND_SEGMENTS_MAX,
    buffer_size=BUFFER_SIZE,
    receive_slots=None,
    send_slots=4,
):
    """Open a UDP transport bound to `host` (an IP literal) and `port` (0: any).

    host None or "::" is every address of both families where the host has IPv6. With `remote` the socket is connected.
    Each of gso, gro, ecn and pktinfo may be forced off; what is off or missing stands in `caps.reasons`.
    receive_buffer, send_buffer: bytes of the kernel's queues. buffer_size: bytes of each receive buffer; below 65,536
    there is no GRO. receive_slots: buffers one receive call fills. send_slots: segmented sends one batch holds.
    ConfigurationError for arguments that cannot work, TransportError when the kernel refuses (port in use).
    """
    small = buffer_size < BUFFER_SIZE
    opened = open_udp_socket(
        host, port, remote=remote, reuse_port=reuse_port, receive_buffer=receive_buffer, send_buffer=send_buffer,
        gso=gso, gro=gro and not small, ecn=ecn, pktinfo=pktinfo,
    )
    if gro and small:
        opened.reasons["gro"] = "receive buffers are smaller than a train"
    if receive_slots is None:
        receive_slots = GRO_SLOTS if opened.gro else RECV_BATCH_MAX
    try:
        transport = UdpTransport(opened, max_segments, buffer_size, receive_slots, send_slots)
        if remote is not None:
            transport.connect(remote)
    except BaseException:
        opened.sock.close()
        raise
    return transport
