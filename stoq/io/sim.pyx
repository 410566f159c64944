"""A network in memory and in virtual time: transports, links with impairments, and a seed that replays exactly.

Nothing happens by itself: time moves when `SimNetwork.advance()` is called, or a transport's `wait()`.
"""
cimport cython
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from types import MappingProxyType

from stoq.io.buffers cimport BUFFER_SIZE, RecvBuffer, buffer_take
from stoq.io.simlink cimport LINK_PASS, Passage, link_corrupt, link_offer, link_queued, link_room_at, prng_next
from stoq.io.transport cimport address_equal, address_from_python, address_to_python, datagrams_of
from stoq.wire.batch cimport DATAGRAM_TRUNCATED, SEND_SEGMENTS_MAX, RecvBatch, SendBatch

from stoq.errors import ConfigurationError
from stoq.io.caps import Caps
from stoq.io.links import LinkConfig, LinkCounters
from stoq.io.transport import TransportError

__all__ = ["LinkConfig", "LinkCounters", "SimNetwork", "SimTransport"]

cdef enum:
    SPARE_CAPACITY = 2048    # packets up to this size are recycled
    TRANSPORTS_MAX = 65536
    INBOX_BYTES = 4 << 20    # as udp's receive buffer

cdef int64_t NEVER = 0x7FFFFFFFFFFFFFFF


cdef inline uint8_t *bytes_of(SimPacket *p) noexcept nogil:
    # SAFETY: packet() allocated p.capacity bytes behind the struct.
    return <uint8_t *>p + sizeof(SimPacket)


cdef inline bint before(const SimPacket *a, const SimPacket *b) noexcept nogil:
    return a.due < b.due or (a.due == b.due and a.order < b.order)


cdef inline bytes key_of(const Address *address):
    return (<const char *>address)[:sizeof(Address)]


@cython.final
cdef class SimNetwork:
    """Transports that reach each other over links. `seed` fixes every random choice; `now` is virtual time in ns.

    `default` configures links that link() did not.
    """

    def __cinit__(self):
        self.heap = NULL
        self.spare = NULL

    def __init__(self, seed=0, *, start_ns=0, default=LinkConfig()):
        if not isinstance(default, LinkConfig):
            raise ConfigurationError("default is a LinkConfig")
        self.seed = seed & 0xFFFFFFFFFFFFFFFF
        self.now = start_ns
        self.transports = []
        self.nodes = {}
        self.links = {}
        self.default_config = default
        self.next_port = 49152

    def __dealloc__(self):
        cdef SimPacket *p
        cdef uint32_t i
        for i in range(self.heap_count):
            free(self.heap[i])
        free(self.heap)
        while self.spare != NULL:
            p = self.spare
            self.spare = p.next
            free(p)

    # ---- packets and the heap of what is due

    cdef SimPacket *packet(self, uint32_t length) except NULL:
        cdef SimPacket *p = self.spare
        cdef uint32_t capacity = SPARE_CAPACITY
        if length <= SPARE_CAPACITY and p != NULL:
            self.spare = p.next
        else:
            if length > capacity:
                capacity = length
            p = <SimPacket *>malloc(sizeof(SimPacket) + capacity)
            if p == NULL:
                raise MemoryError
            p.capacity = capacity
        p.length = length
        p.kind = SIM_DATAGRAM
        p.link = NULL
        p.next = NULL
        return p

    cdef void recycle(self, SimPacket *p) noexcept:
        if p.capacity == SPARE_CAPACITY:
            p.next = self.spare
            self.spare = p
        else:
            free(p)

    cdef int schedule(self, SimPacket *p, int64_t due) except -1:
        cdef SimPacket **bigger
        cdef uint32_t i, up, capacity
        p.due = due
        p.order = self.order
        self.order += 1
        if self.heap_count == self.heap_capacity:
            capacity = self.heap_capacity * 2 if self.heap_capacity else 256
            bigger = <SimPacket **>realloc(self.heap, capacity * sizeof(SimPacket *))
            if bigger == NULL:
                self.recycle(p)
                raise MemoryError
            self.heap = bigger
            self.heap_capacity = capacity
        i = self.heap_count
        self.heap_count += 1
        while i:
            up = (i - 1) >> 1
            if not before(p, self.heap[up]):
                break
            self.heap[i] = self.heap[up]
            i = up
        self.heap[i] = p
        return 0

    cdef SimPacket *pop(self) noexcept:
        cdef SimPacket *top = self.heap[0]
        cdef SimPacket *last
        cdef uint32_t i = 0, child, n
        self.heap_count -= 1
        n = self.heap_count
        if n:
            last = self.heap[n]
            while True:
                child = 2 * i + 1
                if child >= n:
                    break
                if child + 1 < n and before(self.heap[child + 1], self.heap[child]):
                    child += 1
                if not before(self.heap[child], last):
                    break
                self.heap[i] = self.heap[child]
                i = child
            self.heap[i] = last
        return top

    # ---- carrying

    cdef SimLink link_between(self, uint32_t a, uint32_t b):
        cdef SimLink link
        cdef SimTransport end
        cdef uint32_t node
        cdef int i
        found = self.links.get((a, b))
        if found is not None:
            return found
        link = SimLink.__new__(SimLink)
        # The sequence depends on the seed and the two addresses alone, not on the order of making.
        link.state.prng = self.seed
        for node in (a, b):
            end = self.transports[node]
            for i in range(<int>sizeof(Address)):
                link.state.prng = prng_next(&link.state.prng) ^ (<const uint8_t *>&end.local)[i]
        link.config = self.default_config
        self.links[a, b] = link
        return link

    cdef int carry(self, SimTransport sender, uint32_t target, SimLink link, const uint8_t *data, uint32_t length,
                   uint8_t ecn, const Address *destination) except -1:
        """One datagram onto the link."""
        cdef Passage passage
        cdef SimPacket *p
        cdef int rc, copies
        cdef bint drop = False
        if link.drop_if is not None:
            drop = bool(link.drop_if((<const char *>data)[:length], link.state.offered, self.now))
        rc = link_offer(&link.state, self.now, length + (28 if destination.family == 4 else 48), ecn, drop, &passage)
        if rc < 0:
            raise MemoryError
        if rc != LINK_PASS:
            return 0
        copies = 2 if passage.duplicate else 1
        while copies:
            p = self.packet(length)
            memcpy(bytes_of(p), data, length)
            if passage.corrupt:
                passage.corrupt = False
                link_corrupt(&link.state, bytes_of(p), length)
            p.link = &link.state
            p.target = target
            p.ecn = passage.ecn
            p.source = sender.visible
            p.destination = destination[0]
            self.schedule(p, passage.due)
            copies -= 1
        return 0

    cdef int deliver(self, SimPacket *p) except -1:
        """What is due happens; 1 when it was a datagram that reached its receiver."""
        cdef SimTransport to = <SimTransport>self.transports[p.target]
        if p.kind == SIM_WRITABLE:
            to.blocked = False
        elif p.kind == SIM_REBIND:
            self.rebind_now(p.target, &p.destination, p.keep_old)
        else:
            # The address is looked at on arrival too: a mapping that is gone takes what was under way with it.
            if to.closed or not (address_equal(&p.destination, &to.visible)
                                 or self.nodes.get(key_of(&p.destination)) == p.target):
                p.link.dropped_receiver += 1
            elif to.inbox_bytes + p.length > to.inbox_limit:
                p.link.dropped_receiver += 1
                to.overflow += 1
            else:
                p.link.delivered += 1
                p.link.bytes_delivered += p.length
                to.inbox_bytes += p.length
                p.next = NULL
                if to.inbox_head == NULL:
                    to.inbox_head = p
                else:
                    to.inbox_tail.next = p
                to.inbox_tail = p
                return 1
        self.recycle(p)
        return 0

    cdef int rebind_now(self, uint32_t index, const Address *address, bint keep_old) except -1:
        cdef SimTransport node = <SimTransport>self.transports[index]
        if node.closed:
            return 0
        owner = self.nodes.get(key_of(address), index)
        if owner != index:
            raise TransportError(f"another transport has {address_to_python(address)}")
        if not keep_old:
            self.nodes.pop(key_of(&node.visible), None)
        self.version += 1
        node.visible = address[0]
        self.nodes[key_of(address)] = index
        return 0

    # ---- Python face

    def transport(self, address, **options):
        """A SimTransport at `address` (port 0: any free one). See SimTransport for the options. TransportError."""
        return SimTransport(self, address, **options)

    def _index(self, end):
        cdef Address address
        if isinstance(end, SimTransport):
            if (<SimTransport>end).network is not self:
                raise ConfigurationError("the transport belongs to another network")
            return (<SimTransport>end).index
        address_from_python(end, &address)
        index = self.nodes.get(key_of(&address))
        if index is None:
            raise ConfigurationError(f"no transport has the address {end!r}")
        return index

    def link(self, a, b, config=None):
        """The SimLink from `a` to `b` (transports or their addresses), configured anew when `config` is given."""
        link = self.link_between(self._index(a), self._index(b))
        if config is not None:
            link.config = config
        return link

    def rebind(self, transport, address, at_ns=None, *, keep_old=False):
        """From `at_ns` on (None: now) others see `transport` at another source address, as behind a NAT that rebinds.

        The transport itself does not notice. What is sent to the old address is lost unless `keep_old`.
        """
        cdef Address new
        cdef SimPacket *p
        cdef uint32_t index = self._index(transport)
        address_from_python(address, &new)
        if at_ns is None or at_ns <= self.now:
            self.rebind_now(index, &new, keep_old)
            return
        p = self.packet(0)
        p.kind = SIM_REBIND
        p.target = index
        p.destination = new
        p.keep_old = keep_old
        self.schedule(p, at_ns)

    def next_event_time(self):
        """When something happens next, in ns; None when nothing is under way."""
        return self.heap[0].due if self.heap_count else None

    def advance(self, int64_t to_ns):
        """Move time to `to_ns` and let everything due until then happen. Returns how many datagrams arrived."""
        cdef int arrived = 0
        cdef SimPacket *p
        if to_ns < self.now:
            raise ConfigurationError(f"time does not run backwards: {to_ns} is before {self.now}")
        while self.heap_count and self.heap[0].due <= to_ns:
            p = self.pop()
            if p.due > self.now:
                self.now = p.due
            arrived += self.deliver(p)
        self.now = to_ns
        return arrived


@cython.final
cdef class SimTransport(Transport):
    """A transport of a SimNetwork, made by SimNetwork.transport(address, ...).

    remote: where datagrams without an address go. gso, gro, ecn, max_segments, buffer_size, receive_slots, send_slots:
    as stoq.io.udp.open_udp. send_buffer: bytes that may wait for a rate-limited link before a send is put off
    (0: none is). receive_queue: bytes that may wait to be received.
    """

    def __cinit__(self, *args, **kwargs):
        self.inbox_head = NULL
        memset(&self.remote, 0, sizeof(Address))
        memset(&self.last_peer, 0, sizeof(Address))

    def __init__(self, SimNetwork network, address, *, remote=None, gso=True, gro=True, ecn=True,
                 max_segments=SEND_SEGMENTS_MAX, buffer_size=BUFFER_SIZE, receive_slots=8, send_slots=4,
                 send_buffer=0, receive_queue=INBOX_BYTES):
        cdef Address wanted
        self.set_up(gso, max_segments, buffer_size, receive_slots, send_slots)
        if send_buffer < 0 or receive_queue < 0:
            raise ConfigurationError("send_buffer and receive_queue are numbers of bytes")
        address_from_python(address, &wanted)
        if wanted.port == 0:
            while True:
                wanted.port = network.next_port
                network.next_port = network.next_port + 1 if network.next_port < 65535 else 49152
                if key_of(&wanted) not in network.nodes:
                    break
        if key_of(&wanted) in network.nodes:
            raise TransportError(f"cannot open a simulated transport at {address!r}: the address is in use")
        if len(network.transports) >= TRANSPORTS_MAX:
            raise TransportError(f"a simulated network has at most {TRANSPORTS_MAX} transports")
        if remote is not None:
            address_from_python(remote, &self.remote)
        self.gro = gro and buffer_size == BUFFER_SIZE
        self.ecn = ecn
        self.send_limit = send_buffer
        self.inbox_limit = receive_queue
        self.network = network
        self.local = wanted
        self.visible = wanted
        self.index = len(network.transports)
        network.transports.append(self)
        network.nodes[key_of(&wanted)] = self.index
        network.version += 1

    def __dealloc__(self):
        cdef SimPacket *p
        while self.inbox_head != NULL:
            p = self.inbox_head
            self.inbox_head = p.next
            free(p)

    cpdef close(self):
        cdef SimPacket *p
        if self.closed:
            return
        self.closed = True
        self.network.version += 1
        for key in [key for key, index in self.network.nodes.items() if index == self.index]:
            del self.network.nodes[key]
        while self.inbox_head != NULL:
            p = self.inbox_head
            self.inbox_head = p.next
            self.network.recycle(p)

    cdef bint poll(self, int64_t timeout_ns, bint writable) except -1:
        cdef SimNetwork network = self.network
        cdef int64_t deadline = NEVER
        if self.closed:
            raise TransportError("the transport is closed")
        if 0 <= timeout_ns < NEVER - network.now:
            deadline = network.now + timeout_ns
        while self.blocked if writable else self.inbox_head == NULL:
            if network.heap_count and network.heap[0].due <= deadline:
                network.advance(network.heap[0].due)
            else:
                if deadline != NEVER:
                    network.advance(deadline)
                return False
        return True

    # ---- receive

    cdef int receive(self, RecvBatch *batch) except -1:
        cdef RecvBuffer *buffer
        cdef SimPacket *p
        cdef uint32_t i = 0, length, train
        cdef uint32_t room = self.pool.size
        cdef Address source
        cdef uint8_t ecn
        batch.count = 0
        if self.closed:
            raise TransportError("the transport is closed")
        self.count.receive_calls += 1
        batch.queue = 0
        while self.inbox_head != NULL and i < self.receive_slots:
            buffer = buffer_take(self.pool)
            if buffer == NULL:
                self.count.starved += 1 if i == 0 else 0
                break
            p = self.inbox_head
            length = p.length
            source = p.source
            ecn = p.ecn
            batch.flags[i] = 0
            if length > room:
                batch.flags[i] = DATAGRAM_TRUNCATED
                self.count.truncated += 1
            batch.length[i] = min(length, room)
            memcpy(buffer.data, bytes_of(p), batch.length[i])
            self.take_inbox()
            train = 1
            p = self.inbox_head
            # As the kernel's GRO: equal sizes from one source, and one shorter datagram ends the train.
            while (self.gro and p != NULL and 0 < p.length <= length and batch.length[i] == train * length
                   and train < SEND_SEGMENTS_MAX and batch.length[i] + p.length <= room and p.ecn == ecn
                   and address_equal(&p.source, &source)):
                memcpy(buffer.data + batch.length[i], bytes_of(p), p.length)
                batch.length[i] += p.length
                train += 1
                self.take_inbox()
                p = self.inbox_head
            batch.data[i] = buffer.data
            batch.owner[i] = buffer
            batch.segment[i] = <uint16_t>length if train > 1 else 0
            batch.ecn[i] = ecn
            batch.peer[i] = source
            batch.local[i] = self.local
            self.count.datagrams_in += train
            self.count.bytes_in += batch.length[i]
            i += 1
        batch.count = i
        return i

    cdef void take_inbox(self) noexcept:
        cdef SimPacket *p = self.inbox_head
        self.inbox_head = p.next
        self.inbox_bytes -= p.length
        self.network.recycle(p)

    # ---- send

    cdef int send(self, SendBatch *batch) except -1:
        cdef uint32_t i, at, step, length, n
        cdef uint8_t ecn
        cdef const Address *peer
        if self.closed:
            raise TransportError("the transport is closed")
        for i in range(batch.count):
            peer = &batch.peer[i] if batch.peer[i].family else &self.remote
            length = batch.length[i]
            n = datagrams_of(length, batch.segment[i])
            self.count.send_calls += 1
            if not self.resolve(peer):
                # As on a real network: sent, and gone.
                self.network.unreachable += n
                self.count.datagrams_out += n
                self.count.bytes_out += length
                continue
            if self.send_limit and self.last_link.state.rate and self.put_off(&self.last_link.state):
                return i
            self.count.datagrams_out += n
            self.count.bytes_out += length
            step = batch.segment[i] if n > 1 else length
            ecn = batch.ecn[i] & 3 if self.ecn else 0
            at = 0
            while n:
                self.network.carry(self, self.last_target, self.last_link, batch.data[i] + at, min(step, length - at),
                                   ecn, peer)
                at += step
                n -= 1
        return batch.count

    cdef bint resolve(self, const Address *peer) except -1:
        """Find the receiver and the link to it; False when nobody has the address."""
        if self.last_version == self.network.version and address_equal(peer, &self.last_peer):
            return True
        index = self.network.nodes.get(key_of(peer))
        if index is None:
            return False
        self.last_link = self.network.link_between(self.index, index)
        self.last_target = index
        self.last_peer = peer[0]
        self.last_version = self.network.version
        return True

    cdef bint put_off(self, LinkState *link) except -1:
        """Whether the link's queue is full; if so, an event is due when it no longer is."""
        cdef SimPacket *p
        if self.blocked or link_queued(link, self.network.now) >= self.send_limit:
            self.count.not_writable += 1
            if not self.blocked:
                p = self.network.packet(0)
                p.kind = SIM_WRITABLE
                p.target = self.index
                self.network.schedule(p, link_room_at(link, self.network.now, self.send_limit))
                self.blocked = True
            return True
        return False

    # ---- Python face

    @property
    def readable(self):
        """Whether a datagram waits to be received."""
        return self.inbox_head != NULL

    @property
    def writable(self):
        """False from a send that was put off until there is room again (which is an event of the network)."""
        return not self.blocked

    @property
    def visible_address(self):
        """The source address that others see; differs from `local_address` after a rebinding."""
        return address_to_python(&self.visible)

    @property
    def remote_address(self):
        return address_to_python(&self.remote)

    def connect(self, remote):
        """Where datagrams without an address go."""
        address_from_python(remote, &self.remote)

    def _receive_overflow(self):
        return self.overflow

    @property
    def caps(self):
        reasons = {"zero_copy": "the simulator copies"}
        for name, on in (("gso", self.gso), ("gro", self.gro), ("ecn", self.ecn)):
            if not on:
                reasons[name] = "turned off by an argument"
        return Caps(
            mode="sim",
            max_segments=self.max_segments if self.gso else 1,
            max_datagram_size=self.entry_size(),
            gro=self.gro,
            ecn=self.ecn,
            pktinfo=True,
            reasons=MappingProxyType(reasons),
        )
