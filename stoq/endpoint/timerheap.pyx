"""Endpoint-level timers: integer nanoseconds of the clock that the endpoint was given."""
from libc.stdlib cimport free, realloc


cdef class TimerHeap:
    """One slot for each connection, and slots for extensions.

    Most deadlines move later before they come (each packet pushes the idle timeout on), so a later deadline is only
    noted; the heap is put in order when the old one reaches its top.
    """

    def __cinit__(self):
        self.slots = NULL
        self.heap = NULL
        self.free_head = -1
        self.callbacks = {}

    def __dealloc__(self):
        free(self.slots)
        free(self.heap)

    cdef int32_t add(self, void *owner) except -1:
        cdef int32_t slot, wanted
        cdef void *memory
        if self.free_head >= 0:
            slot = self.free_head
            self.free_head = self.slots[slot].next_free
        else:
            if self.used == self.capacity:
                if self.capacity >= 1 << 28:
                    raise MemoryError("too many timers")
                wanted = 2 * self.capacity if self.capacity else 16
                memory = realloc(self.slots, wanted * sizeof(TimerSlot))
                if memory == NULL:
                    raise MemoryError
                self.slots = <TimerSlot *>memory
                memory = realloc(self.heap, wanted * sizeof(int32_t))
                if memory == NULL:
                    raise MemoryError
                self.heap = <int32_t *>memory
                self.capacity = wanted
            slot = self.used
            self.used += 1
        self.slots[slot].deadline = 0
        self.slots[slot].key = 0
        self.slots[slot].owner = owner
        self.slots[slot].position = -1
        self.slots[slot].next_free = -2
        return slot

    cdef void remove(self, int32_t slot) noexcept nogil:
        cdef TimerSlot *s = &self.slots[slot]
        if s.position >= 0:
            self.take_out(s.position)
        s.deadline = 0
        s.owner = NULL
        s.next_free = self.free_head
        self.free_head = slot

    cdef void set(self, int32_t slot, int64_t deadline) noexcept nogil:
        cdef TimerSlot *s = &self.slots[slot]
        s.deadline = deadline
        if deadline == 0:
            return
        if s.position < 0:
            s.key = deadline
            s.position = self.size
            self.heap[self.size] = slot
            self.size += 1
            self.up(s.position)
        elif deadline < s.key:
            s.key = deadline
            self.up(s.position)

    cdef void up(self, int32_t at) noexcept nogil:
        cdef int32_t slot = self.heap[at], parent
        cdef int64_t key = self.slots[slot].key
        while at > 0:
            parent = (at - 1) >> 1
            if self.slots[self.heap[parent]].key <= key:
                break
            self.heap[at] = self.heap[parent]
            self.slots[self.heap[at]].position = at
            at = parent
        self.heap[at] = slot
        self.slots[slot].position = at

    cdef void down(self, int32_t at) noexcept nogil:
        cdef int32_t slot = self.heap[at], child
        cdef int64_t key = self.slots[slot].key
        while True:
            child = 2 * at + 1
            if child >= self.size:
                break
            if child + 1 < self.size and self.slots[self.heap[child + 1]].key < self.slots[self.heap[child]].key:
                child += 1
            if key <= self.slots[self.heap[child]].key:
                break
            self.heap[at] = self.heap[child]
            self.slots[self.heap[at]].position = at
            at = child
        self.heap[at] = slot
        self.slots[slot].position = at

    cdef void take_out(self, int32_t at) noexcept nogil:
        cdef int32_t last
        self.slots[self.heap[at]].position = -1
        self.size -= 1
        if at == self.size:
            return
        last = self.heap[self.size]
        self.heap[at] = last
        self.slots[last].position = at
        self.up(at)
        self.down(self.slots[last].position)

    cdef void settle(self) noexcept nogil:
        """Bring a slot with its true deadline to the top."""
        cdef TimerSlot *s
        while self.size:
            s = &self.slots[self.heap[0]]
            if s.deadline == s.key:
                return
            if s.deadline == 0:
                self.take_out(0)
            else:
                s.key = s.deadline
                self.down(0)

    cdef int64_t next(self) noexcept nogil:
        self.settle()
        return self.slots[self.heap[0]].key if self.size else 0

    cdef int32_t pop(self, int64_t now) noexcept nogil:
        cdef int32_t slot
        self.settle()
        if self.size == 0 or self.slots[self.heap[0]].key > now:
            return -1
        slot = self.heap[0]
        self.take_out(0)
        self.slots[slot].deadline = 0
        return slot

    # ---- slots for extensions and adaptation

    def register(self, callback):
        """A slot whose deadline calls callback(now_ns); cancel(slot) gives it back."""
        cdef int32_t slot = self.add(NULL)
        self.callbacks[slot] = callback
        return slot

    def schedule(self, int32_t slot, int64_t deadline):
        """Set the one deadline of a registered slot, in ns; 0 clears it. KeyError when the slot is not registered."""
        if slot not in self.callbacks:
            raise KeyError(slot)
        self.set(slot, deadline)

    def cancel(self, int32_t slot):
        """Give a registered slot back. KeyError when it is not registered."""
        del self.callbacks[slot]
        self.remove(slot)

    def next_deadline(self):
        """Earliest deadline in ns, None when there is none."""
        cdef int64_t deadline = self.next()
        return deadline if deadline else None

    def run(self, int64_t now):
        """Call what has come due among the registered slots; returns how many were called."""
        cdef int32_t slot
        called = 0
        while True:
            slot = self.pop(now)
            if slot < 0:
                return called
            callback = self.callbacks.get(slot)
            if callback is not None:
                callback(now)
                called += 1

    def __len__(self):
        """Slots in the heap (one whose deadline was cleared may still be counted)."""
        return self.size
