"""Reassembly of byte streams: the bodies of recvbuf.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from stoq.core._bits cimport lowest_bit
from stoq.core.memory cimport memory_alloc, memory_free, memory_resize

cdef enum:
    BLOCK_PAGES = 16         # a block directs 64 KiB of stream; one byte far ahead costs a block and a cell
    FIRST_BLOCKS = 4
    FIRST_SPANS = 32         # a GRO buffer of one stream fills about two of these; 512 bytes
    SMALL_SPANS = 1024       # from here on, spans must pay for their bookkeeping ...
    SMALL_SPAN = 64          # ... with this many bytes on average, or they are copied together

cdef uint64_t UNKNOWN = 0xFFFFFFFFFFFFFFFFU
cdef uint64_t ALL = 0xFFFFFFFFFFFFFFFFU

# The bytes [low, low + size) of one page. In memory there follow one bit for each byte, set when the byte was
# received out of order (meaningless below RecvBuf.next), and the bytes.
cdef struct Page:
    uint16_t low
    uint16_t size
    uint32_t held            # bits set at or above RecvBuf.next

cdef struct Block:
    uint64_t number          # stream offset / (BLOCK_PAGES * RECV_PAGE)
    uint32_t used
    Page *pages[16]

# Blocks in ascending order; the array follows in memory. Its size depends on what is held, not on offsets.
cdef struct Pages:
    uint32_t count
    uint32_t capacity
    uint32_t recent          # block of the last lookup
    size_t bytes             # of pages and blocks


# -- bits -------------------------------------------------------------------------------------------------------------

# First bit of [at, stop) that is set (flip == 0) or clear (flip == ALL); stop when there is none.
cdef inline uint32_t bit_find(const uint64_t *words, uint32_t at, uint32_t stop, uint64_t flip) noexcept nogil:
    cdef uint32_t i = at >> 6
    cdef uint64_t word
    if at >= stop:
        return stop
    word = ((words[i] ^ flip) >> (at & 63)) << (at & 63)
    while word == 0:
        i += 1
        if i << 6 >= stop:
            return stop
        word = words[i] ^ flip
    at = (i << 6) + <uint32_t>lowest_bit(word)
    return at if at < stop else stop


# Set the bits [at, stop); at < stop.
cdef inline void bits_set(uint64_t *words, uint32_t at, uint32_t stop) noexcept nogil:
    cdef uint32_t i = at >> 6, final = (stop - 1) >> 6
    cdef uint64_t first = ALL << (at & 63), last = ALL >> (63 - ((stop - 1) & 63))
    if i == final:
        words[i] |= first & last
        return
    words[i] |= first
    i += 1
    while i < final:
        words[i] = ALL
        i += 1
    words[final] |= last


# -- pages ------------------------------------------------------------------------------------------------------------

cdef inline Block **blocks_of(Pages *pages) noexcept nogil:
    return <Block **>(pages + 1)


cdef inline uint64_t *bits_of(Page *page) noexcept nogil:
    return <uint64_t *>(page + 1)


cdef inline uint8_t *bytes_of(Page *page) noexcept nogil:
    return <uint8_t *>(page + 1) + page.size // 8


cdef inline size_t page_size(uint32_t size) noexcept nogil:
    return sizeof(Page) + size // 8 + size


cdef Page *page_new(uint32_t low, uint32_t size) noexcept nogil:
    cdef Page *page = <Page *>memory_alloc(page_size(size))
    if page != NULL:
        page.low = <uint16_t>low
        page.size = <uint16_t>size
        page.held = 0
        memset(bits_of(page), 0, size // 8)
    return page


# Position of the first block whose number is at least `number`.
cdef inline uint32_t block_position(Pages *pages, uint64_t number) noexcept nogil:
    cdef Block **blocks = blocks_of(pages)
    cdef uint32_t low = 0, high = pages.count, middle
    if pages.recent < high and blocks[pages.recent].number == number:
        return pages.recent
    while low < high:
        middle = (low + high) >> 1
        if blocks[middle].number < number:
            low = middle + 1
        else:
            high = middle
    return low


# The page that contains this offset, or NULL.
cdef Page *page_at(RecvBuf *b, uint64_t offset) noexcept nogil:
    cdef Pages *pages = <Pages *>b.pages
    cdef uint64_t number = offset // (BLOCK_PAGES * RECV_PAGE)
    cdef uint32_t at
    if pages == NULL:
        return NULL
    at = block_position(pages, number)
    if at == pages.count or blocks_of(pages)[at].number != number:
        return NULL
    pages.recent = at
    return blocks_of(pages)[at].pages[offset // RECV_PAGE % BLOCK_PAGES]


# The block of this number, made when it is missing; NULL: out of memory.
cdef Block *block_for(RecvBuf *b, uint64_t number) noexcept nogil:
    cdef Pages *pages = <Pages *>b.pages
    cdef Block **blocks
    cdef Block *block
    cdef uint32_t at, capacity
    if pages == NULL:
        pages = <Pages *>memory_alloc(sizeof(Pages) + FIRST_BLOCKS * sizeof(Block *))
        if pages == NULL:
            return NULL
        memset(pages, 0, sizeof(Pages))
        pages.capacity = FIRST_BLOCKS
        b.pages = pages
    at = block_position(pages, number)
    blocks = blocks_of(pages)
    if at < pages.count and blocks[at].number == number:
        pages.recent = at
        return blocks[at]
    if pages.count == pages.capacity:
        capacity = pages.capacity * 2
        pages = <Pages *>memory_resize(pages, sizeof(Pages) + capacity * sizeof(Block *))
        if pages == NULL:
            return NULL
        pages.capacity = capacity
        b.pages = pages
        blocks = blocks_of(pages)
    block = <Block *>memory_alloc(sizeof(Block))
    if block == NULL:
        return NULL
    memset(block, 0, sizeof(Block))
    block.number = number
    memmove(blocks + at + 1, blocks + at, (pages.count - at) * sizeof(Block *))
    blocks[at] = block
    pages.count += 1
    pages.recent = at
    pages.bytes += sizeof(Block)
    return block


# The page for [offset, offset + length), which ends within it, made or made whole as needed; NULL: out of memory.
cdef Page *page_for(RecvBuf *b, uint64_t offset, uint32_t length) noexcept nogil:
    cdef uint32_t low = offset % RECV_PAGE, size
    cdef Block *block = block_for(b, offset // (BLOCK_PAGES * RECV_PAGE))
    cdef Page **slot
    cdef Page *page
    cdef Page *whole
    if block == NULL:
        return NULL
    slot = &block.pages[offset // RECV_PAGE % BLOCK_PAGES]
    page = slot[0]
    if page == NULL:
        size = RECV_CELL if low % RECV_CELL + length <= RECV_CELL else RECV_PAGE
        page = page_new(low - low % size, size)
        if page == NULL:
            return NULL
        slot[0] = page
        block.used += 1
        (<Pages *>b.pages).bytes += page_size(size)
    elif low < page.low or low + length > <uint32_t>page.low + page.size:
        whole = page_new(0, RECV_PAGE)
        if whole == NULL:
            return NULL
        whole.held = page.held
        memcpy(bits_of(whole) + page.low // 64, bits_of(page), page.size // 8)
        memcpy(bytes_of(whole) + page.low, bytes_of(page), page.size)
        (<Pages *>b.pages).bytes += page_size(RECV_PAGE) - page_size(page.size)
        memory_free(page)
        slot[0] = whole
        page = whole
    return page


# The part of `length` bytes from `offset` that lies in the first page.
cdef inline uint32_t within_page(uint64_t offset, uint64_t length) noexcept nogil:
    cdef uint32_t room = RECV_PAGE - offset % RECV_PAGE
    return room if length > room else <uint32_t>length


# Make the pages for [offset, offset + length): 0, or -1 out of memory.
cdef int pages_reserve(RecvBuf *b, uint64_t offset, uint64_t length) noexcept nogil:
    cdef uint32_t n
    while length != 0:
        n = within_page(offset, length)
        if page_for(b, offset, n) == NULL:
            return -1
        offset += n
        length -= n
    return 0


# Copy out-of-order bytes into their pages, except those that are held already: 0, or -1 out of memory (nothing
# changed, though some pages may have been made).
cdef int pages_store(RecvBuf *b, uint64_t offset, const uint8_t *p, uint64_t length) noexcept nogil:
    cdef Page *page
    cdef uint32_t n, base, at, clear, stop
    if length > within_page(offset, length) and pages_reserve(b, offset, length):
        return -1
    while length != 0:
        n = within_page(offset, length)
        page = page_for(b, offset, n)
        if page == NULL:
            return -1
        base = offset % RECV_PAGE - page.low
        at = base
        while True:
            clear = bit_find(bits_of(page), at, base + n, ALL)
            if clear == base + n:
                break
            stop = bit_find(bits_of(page), clear, base + n, 0)
            memcpy(bytes_of(page) + clear, p + (clear - base), stop - clear)
            bits_set(bits_of(page), clear, stop)
            page.held += stop - clear
            b.ahead += stop - clear
            at = stop
        offset += n
        p += n
        length -= n
    return 0


# Copy in-order bytes into pages: 0, or -1 out of memory (nothing changed, though some pages may have been made).
cdef int pages_write(RecvBuf *b, uint64_t offset, const uint8_t *p, uint64_t length) noexcept nogil:
    cdef Page *page
    cdef uint32_t n
    while length != 0:
        n = within_page(offset, length)
        page = page_for(b, offset, n)
        if page == NULL:
            return -1
        memcpy(bytes_of(page) + (offset % RECV_PAGE - page.low), p, n)
        offset += n
        p += n
        length -= n
    return 0


# Copy bytes that are known to be in the pages to dst.
cdef void pages_read(RecvBuf *b, uint64_t offset, uint8_t *dst, uint64_t length) noexcept nogil:
    cdef Page *page
    cdef uint32_t n
    while length != 0:
        n = within_page(offset, length)
        page = page_at(b, offset)
        memcpy(dst, bytes_of(page) + (offset % RECV_PAGE - page.low), n)
        offset += n
        dst += n
        length -= n


# The first byte of [offset, end) that is held out of order, or end.
cdef uint64_t pages_find(RecvBuf *b, uint64_t offset, uint64_t end) noexcept nogil:
    cdef Page *page
    cdef uint32_t n, low, high, found
    while offset < end:
        n = within_page(offset, end - offset)
        page = page_at(b, offset)
        if page != NULL and page.held != 0:
            low = offset % RECV_PAGE
            high = low + n
            if low < page.low:
                low = page.low
            if high > <uint32_t>page.low + page.size:
                high = <uint32_t>page.low + page.size
            if low < high:
                found = bit_find(bits_of(page), low - page.low, high - page.low, 0) + page.low
                if found < high:
                    return offset - offset % RECV_PAGE + found
        offset += n
    return end


# Count the held bytes from `offset` on as in order, up to the next gap; returns how many.
cdef uint64_t pages_join(RecvBuf *b, uint64_t offset) noexcept nogil:
    cdef uint64_t start = offset
    cdef Page *page
    cdef uint32_t low, stop
    while b.ahead != 0:
        page = page_at(b, offset)
        low = offset % RECV_PAGE
        if page == NULL or low < page.low or low >= <uint32_t>page.low + page.size:
            break
        low -= page.low
        stop = bit_find(bits_of(page), low, page.size, ALL)
        page.held -= stop - low
        b.ahead -= stop - low
        offset += stop - low
        if stop != page.size:
            break
    return offset - start


# Free the pages of [.., stop), where stop counts pages, and the directory with the last one.
cdef void pages_free(RecvBuf *b, uint64_t stop) noexcept nogil:
    cdef Pages *pages = <Pages *>b.pages
    cdef Block **blocks
    cdef Block *block
    cdef uint32_t i, gone = 0, upto
    if pages == NULL:
        return
    blocks = blocks_of(pages)
    while gone < pages.count:
        block = blocks[gone]
        if block.number * BLOCK_PAGES >= stop:
            break
        upto = BLOCK_PAGES
        if stop - block.number * BLOCK_PAGES < BLOCK_PAGES:
            upto = <uint32_t>(stop - block.number * BLOCK_PAGES)
        for i in range(upto):
            if block.pages[i] != NULL:
                pages.bytes -= page_size(block.pages[i].size)
                memory_free(block.pages[i])
                block.pages[i] = NULL
                block.used -= 1
        if block.used != 0:
            break
        pages.bytes -= sizeof(Block)
        memory_free(block)
        gone += 1
    if gone != 0:
        pages.count -= gone
        pages.recent = 0
        memmove(blocks, blocks + gone, pages.count * sizeof(Block *))
    if pages.count == 0:
        memory_free(pages)
        b.pages = NULL


# Free what no held byte needs any more.
cdef void pages_release(RecvBuf *b) noexcept nogil:
    cdef uint64_t taken = b.next - b.pending
    cdef uint64_t stop = taken // RECV_PAGE
    cdef Page *page
    if b.pending == 0:
        if b.ahead == 0:
            pages_free(b, UNKNOWN)
            return
        page = page_at(b, taken)
        if page != NULL and page.held == 0:
            stop += 1
    pages_free(b, stop)


# -- spans ------------------------------------------------------------------------------------------------------------

cdef inline Span *spans_of(RecvBuf *b) noexcept nogil:
    return b.spans if b.spans != NULL else b.first_spans


cdef void spans_free(RecvBuf *b) noexcept nogil:
    if b.spans != NULL:
        memory_free(b.spans)
        b.spans = NULL
    b.span_head = 0
    b.span_count = 0
    b.span_capacity = RECV_INLINE_SPANS


# Room for `more` spans: 0, or -1 out of memory. May detach, so call it before anything is noted.
cdef int spans_reserve(RecvBuf *b, uint32_t more) noexcept nogil:
    cdef Span *spans
    cdef uint32_t capacity, live
    if b.span_count + more <= b.span_capacity:
        return 0
    live = b.span_count - b.span_head
    if live >= SMALL_SPANS and b.pending < <uint64_t>live * SMALL_SPAN:
        return -1 if recvbuf_detach(b) else spans_reserve(b, more)
    if b.span_head >= live and b.span_head >= more:
        spans = spans_of(b)
        memcpy(spans, spans + b.span_head, live * sizeof(Span))
        b.span_head = 0
        b.span_count = live
        return 0
    capacity = FIRST_SPANS if b.spans == NULL else b.span_capacity * 2
    spans = <Span *>memory_resize(b.spans, capacity * sizeof(Span))
    if spans == NULL:
        return -1
    if b.spans == NULL:
        memcpy(spans, b.first_spans, b.span_count * sizeof(Span))
    b.spans = spans
    b.span_capacity = capacity
    return 0


# Note the next `length` bytes in order. The caller has reserved a span.
cdef inline void note(RecvBuf *b, const uint8_t *p, uint64_t length) noexcept nogil:
    cdef Span *span = spans_of(b) + b.span_count
    b.next += length
    b.pending += length
    if b.span_count > b.span_head:
        span -= 1
        if span.p + span.length == p if p != NULL else span.p == NULL:
            span.length += length
            return
        span += 1
    span.p = p
    span.length = length
    b.span_count += 1


# -- the contract -----------------------------------------------------------------------------------------------------

cdef void recvbuf_init(RecvBuf *b) noexcept nogil:
    memset(b, 0, sizeof(RecvBuf))
    b.final_size = UNKNOWN
    b.span_capacity = RECV_INLINE_SPANS


cdef void recvbuf_clear(RecvBuf *b) noexcept nogil:
    spans_free(b)
    pages_free(b, UNKNOWN)
    recvbuf_init(b)


# In-order bytes [b.next, end) at p, with out-of-order bytes held: note them and what they make contiguous.
cdef int join(RecvBuf *b, const uint8_t *p, uint64_t end) noexcept nogil:
    cdef uint64_t start = b.next
    cdef uint64_t held = pages_find(b, start, end)
    # Behind the first held byte, what is new joins it in the pages: at most two spans, however many gaps it fills.
    if held < end and pages_store(b, held, p + (held - start), end - held):
        return -1
    if held != start:
        note(b, p, held - start)
    end = pages_join(b, held)
    if end != 0:
        note(b, NULL, end)
    return 0


cdef int recvbuf_push(RecvBuf *b, uint64_t offset, const uint8_t *p, uint32_t length, bint fin) noexcept nogil:
    cdef uint64_t end = offset + length
    if end > b.final_size:
        return RECVBUF_FINAL_SIZE
    if fin and end != b.final_size and (b.final_size != UNKNOWN or end < b.highest):
        return RECVBUF_FINAL_SIZE
    if end > b.next and length != 0:
        if offset <= b.next:
            if spans_reserve(b, 2 if b.ahead != 0 else 1):
                return RECVBUF_NO_MEMORY
            p += b.next - offset
            if b.ahead == 0:
                note(b, p, end - b.next)
            elif join(b, p, end):
                return RECVBUF_NO_MEMORY
        elif pages_store(b, offset, p, length):
            return RECVBUF_NO_MEMORY
    if end > b.highest:
        b.highest = end
    if fin:
        b.final_size = end
    return RECVBUF_OK


cdef uint64_t recvbuf_take_some(RecvBuf *b, uint8_t *dst, uint64_t room) noexcept nogil:
    cdef uint64_t taken = room if room < b.pending else b.pending
    cdef uint64_t left = taken, at = b.next - b.pending, n
    cdef Span *span = spans_of(b) + b.span_head
    while left != 0:
        n = left if left < span.length else span.length
        if span.p != NULL:
            memcpy(dst, span.p, n)
            span.p += n
        else:
            pages_read(b, at, dst, n)
        span.length -= n
        if span.length == 0:
            span += 1
            b.span_head += 1
        dst += n
        at += n
        left -= n
    b.pending -= taken
    if b.pending == 0:
        spans_free(b)
    if b.pages != NULL:
        pages_release(b)
    return taken


cdef uint64_t recvbuf_take(RecvBuf *b, uint8_t *dst) noexcept nogil:
    return recvbuf_take_some(b, dst, b.pending)


cdef int recvbuf_detach(RecvBuf *b) noexcept nogil:
    cdef uint64_t at = b.next - b.pending
    cdef Span *spans = spans_of(b)
    cdef uint32_t i
    for i in range(b.span_head, b.span_count):
        if spans[i].p != NULL and pages_write(b, at, spans[i].p, spans[i].length):
            return -1
        at += spans[i].length
    spans_free(b)
    if b.pending != 0:
        b.first_spans[0].p = NULL
        b.first_spans[0].length = b.pending
        b.span_count = 1
    return 0


cdef bint recvbuf_complete(const RecvBuf *b) noexcept nogil:
    return b.next == b.final_size


cdef size_t recvbuf_memory(const RecvBuf *b) noexcept nogil:
    cdef Pages *pages = <Pages *>b.pages
    cdef size_t total = 0
    if b.spans != NULL:
        total += b.span_capacity * sizeof(Span)
    if pages != NULL:
        total += sizeof(Pages) + pages.capacity * sizeof(Block *) + pages.bytes
    return total


# A page counts what it holds, and adds it to *ahead.
cdef bint page_valid(const RecvBuf *b, Page *page, uint64_t base, uint64_t *ahead) noexcept nogil:
    cdef uint32_t i, held = 0
    if page.low % RECV_CELL or page.low + page.size > RECV_PAGE:
        return False
    for i in range(page.size):
        if base + page.low + i >= b.next:
            held += (bits_of(page)[i >> 6] >> (i & 63)) & 1
    ahead[0] += held
    return held == page.held


cdef bint recvbuf_valid(const RecvBuf *b) noexcept nogil:
    cdef const Span *spans = spans_of(<RecvBuf *>b)
    cdef Pages *pages = <Pages *>b.pages
    cdef Block *block
    cdef uint64_t ahead = 0, pending = 0, base
    cdef size_t total = 0
    cdef uint32_t i, j, used
    for i in range(b.span_head, b.span_count):
        if spans[i].length == 0:
            return False
        pending += spans[i].length
    if pending != b.pending or b.pending > b.next or b.span_count > b.span_capacity:
        return False
    if pages != NULL:
        if pages.count > pages.capacity:
            return False
        for i in range(pages.count):
            block = blocks_of(pages)[i]
            if i > 0 and block.number <= blocks_of(pages)[i - 1].number:
                return False
            total += sizeof(Block)
            used = 0
            for j in range(<uint32_t>BLOCK_PAGES):
                if block.pages[j] == NULL:
                    continue
                used += 1
                total += page_size(block.pages[j].size)
                base = (block.number * BLOCK_PAGES + j) * RECV_PAGE
                if not page_valid(b, block.pages[j], base, &ahead):
                    return False
            if used != block.used:
                return False
        if total != pages.bytes:
            return False
    return ahead == b.ahead and b.next + ahead <= b.highest and b.highest <= b.final_size
