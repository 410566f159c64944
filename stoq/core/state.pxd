# All structs of one connection. Bodies live beside, by concern: receive.pyx,
# dispatch.pyx, packer.pyx, recovery.pyx, streams.pyx, cids.pyx, closing.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from stoq.wire.batch cimport Address, SendBatch
from stoq.wire.varint cimport Cursor
from stoq.wire.frames cimport Frame
from stoq.crypto.aead cimport AeadBackend, AeadJob, AeadKey
from stoq.core.rangeset cimport RangeSet
from stoq.core.recvbuf cimport RecvBuf
from stoq.core.sendbuf cimport DropList, SendBuf
from stoq.core.sentlog cimport FrameRec, FrameSlab, SentLog
from stoq.core.sidestream cimport SideStream
from stoq.core.cc cimport Cc
from stoq.core.pacer cimport Pacer
from stoq.core.knobs cimport Knobs, Stats

cdef enum:
    EPOCH_INITIAL = 0
    EPOCH_ZERO_RTT = 1       # TLS numbers epochs so; it shares the space of ONE_RTT
    EPOCH_HANDSHAKE = 2
    EPOCH_ONE_RTT = 3

cdef enum:
    SPACE_INITIAL = 0
    SPACE_HANDSHAKE = 1
    SPACE_APP = 2

cdef enum:
    ACK_RANGES_KEPT = 64     # SECURITY row 1
    ACK_RANGES_SENT = 32
    SKIPPED_REMEMBERED = 4
    CIDS_MAX = 8             # SECURITY row 4: active connection IDs, ours and the peer's
    CID_RETIRE_PENDING_MAX = 24      # 3 x CIDS_MAX
    EXT_QUEUE_MAX = 256      # extension frames held for one batch
    EVENTS_MAX = 1048576              # streams bound it: a few events each; beyond this we give up
    CRYPTO_CAP_HANDSHAKE = 65536     # SECURITY row 5
    CRYPTO_CAP_AFTER = 16384
    REASON_MAX = 256         # bytes of a close reason we keep or send
    SOURCES_MAX = 12
    LOCAL_CID_MAX = 20
    MAX_PACKET = 65527       # UDP payload, RFC 9000 §18.2
    MIN_DATAGRAM = 1200      # RFC 9000 §14

# ---------------------------------------------------------------- packet-number spaces
cdef struct Space:
    SentLog sent
    RangeSet received                # packet numbers, at most ACK_RANGES_KEPT ranges
    uint64_t forgotten               # every number below is treated as a duplicate
    uint64_t largest_received        # all ones: none
    int64_t largest_received_time
    uint64_t largest_acked           # all ones: none
    int64_t ack_deadline             # 0: no ACK owed by time
    int64_t loss_time                # earliest time threshold, 0: none
    int64_t last_eliciting_time      # send time of the newest ack-eliciting packet
    uint64_t eliciting_in_flight     # packets
    uint64_t ect0
    uint64_t ect1
    uint64_t ce
    uint64_t skip_in                 # packets until a number is skipped
    uint64_t skipped[4]              # all ones: unused slot
    uint32_t skipped_at
    uint32_t eliciting_unacked       # ack-eliciting packets received since our last ACK
    uint32_t acks_without_eliciting  # ACK-only packets since something ack-eliciting left
    uint32_t probes                  # PTO probes still to send
    bint ack_now
    bint ack_any                     # something was received since our last ACK (not only ack-eliciting)
    bint discarded
    bint has_rx
    bint has_tx
    AeadKey rx
    AeadKey tx
    SideStream crypto

# ---------------------------------------------------------------- streams
cdef enum StreamFlag:
    STREAM_CAN_SEND = 0x001
    STREAM_CAN_RECV = 0x002
    STREAM_LOCAL = 0x004             # opened by us
    STREAM_RESET_SENT = 0x008        # we gave up sending
    STREAM_RESET_DUE = 0x010         # RESET_STREAM must (again) be sent
    STREAM_RESET_ACKED = 0x020
    STREAM_STOP_DUE = 0x040          # STOP_SENDING must (again) be sent
    STREAM_STOP_SENT = 0x080         # we no longer want to receive
    STREAM_MAX_DUE = 0x100           # MAX_STREAM_DATA must (again) be sent
    STREAM_RESET_GOT = 0x200         # the peer reset its side
    STREAM_FIN_READ = 0x400          # everything incl. the end was handed to the application
    STREAM_IN_SEND = 0x800           # linked in the send queue
    STREAM_IN_READ = 0x1000          # linked in the readable queue
    STREAM_IN_CONTROL = 0x2000       # linked in the control queue
    STREAM_ANNOUNCED = 0x4000        # the application was told that it exists
    STREAM_DONE = 0x8000             # both sides over: freed when refs == 0
    STREAM_BLOCKED_DUE = 0x10000     # STREAM_DATA_BLOCKED must be sent
    STREAM_WANT_WRITABLE = 0x20000   # tell the application when the buffer drains
    STREAM_STOP_GOT = 0x40000        # the peer asked us to stop
    STREAM_GONE_TOLD = 0x80000       # the shell has forgotten it
    STREAM_SEND_ACKED = 0x100000     # everything incl. FIN was acknowledged
    STREAM_FLOW_BLOCKED = 0x200000   # has bytes to send and no credit; counted in Conn.flow_blocked

cdef struct Stream:
    uint64_t id
    uint32_t flags
    uint32_t refs                    # frame records that name this stream
    Stream *send_next                # send queue (circular list through the queue head's order)
    Stream *send_prev
    Stream *read_next                # readable queue, singly linked
    Stream *control_next             # control queue, singly linked
    Stream *all_next                 # every stream of the connection
    Stream *all_prev
    SendBuf send
    uint64_t send_limit              # peer's MAX_STREAM_DATA
    uint64_t blocked_at              # limit at which STREAM_DATA_BLOCKED was last sent, all ones: never
    uint64_t reset_code
    uint64_t reset_size              # final size of our RESET_STREAM
    uint64_t stop_code
    uint64_t peer_reset_code
    uint64_t low_water               # writable event when unsent + unacknowledged bytes fall to this
    RecvBuf recv
    uint64_t recv_limit              # MAX_STREAM_DATA we announced
    uint64_t recv_window             # auto-tuned
    uint64_t recv_consumed           # bytes the application took
    int64_t recv_tuned               # when the window last moved
    void *user                       # the shell's own (borrowed PyObject*), never touched here

# Open addressing by stream ID; NULL = empty.
cdef struct StreamTable:
    Stream **slots
    uint32_t capacity                # power of two
    uint32_t count

# Index 0 client bidi, 1 server bidi, 2 client uni, 3 server uni: the two low bits of a stream ID (RFC 9000 §2.1).
cdef struct StreamKind:
    uint64_t next                    # ours: next index to open. Peer's: 1 + highest index seen
    uint64_t limit                   # ours: peer's MAX_STREAMS. Peer's: MAX_STREAMS that we announced
    uint64_t window                  # peer's: concurrent streams we allow
    uint64_t closed                  # peer's: streams that are over
    uint64_t initial_send_window     # peer's transport parameter that applies
    RangeSet opened                  # peer's: indices for which a Stream was ever made
    bint max_due                     # MAX_STREAMS must (again) be sent
    bint blocked_due                 # STREAMS_BLOCKED must be sent
    uint64_t blocked_at

# ---------------------------------------------------------------- connection IDs
cdef struct LocalCid:
    uint8_t cid[20]
    uint8_t length
    bint active
    bint retired                     # the slot is free once the shell has heard of it
    bint due                         # NEW_CONNECTION_ID must (again) be sent
    uint64_t sequence
    uint8_t token[16]

cdef struct RemoteCid:
    uint8_t cid[20]
    uint8_t length
    bint active
    bint has_token
    uint64_t sequence
    uint8_t token[16]

# ---------------------------------------------------------------- paths
cdef struct Path:
    Address peer
    Address local
    bint validated
    bint response_due                # one pending answer per path (SECURITY row 3)
    uint8_t response[8]
    bint challenge_due
    uint8_t challenge[8]
    uint64_t bytes_received          # until validated: anti-amplification (RFC 9000 §8.1)
    uint64_t bytes_sent
    uint64_t mtu                     # bytes of UDP payload a full packet may have now
    uint64_t mtu_target              # what a probe still has to prove (RFC 8899, one step)
    uint32_t mtu_tries               # probes of that size lost so far
    bint mtu_probing                 # one is under way
    # RFC 9002 §5, integer nanoseconds
    int64_t latest_rtt
    int64_t srtt                     # 0: no sample yet
    int64_t rttvar
    int64_t min_rtt
    int64_t first_sample_time
    uint64_t in_flight               # bytes
    Cc cc
    Pacer pacer
    # Delivery-rate sampler, shared by all controllers.
    uint64_t delivered
    int64_t delivered_time
    int64_t first_sent_time
    uint64_t app_limited_until       # `delivered` value at which the app-limited phase ends
    uint64_t rate                    # last sample, bytes/s

# ---------------------------------------------------------------- events for the shell
cdef enum EventType:
    EV_NONE = 0
    EV_STREAM_OPENED = 1             # by the peer; stream set
    EV_STREAM_RESET = 2              # a = error code
    EV_STREAM_STOPPED = 3            # a = error code; the shell answers with a reset (done here already)
    EV_STREAM_WRITABLE = 4           # the send buffer drained to its low-water mark
    EV_STREAM_FINISHED = 5           # everything sent incl. FIN was acknowledged
    EV_STREAMS_AVAILABLE = 6         # a = kind index: the peer raised MAX_STREAMS
    EV_CLOSED = 7                    # the connection is over (see Close)
    EV_HANDSHAKE_CONFIRMED = 8
    EV_NEW_TOKEN = 9
    EV_PING_ACKED = 10
    EV_STREAM_GONE = 11              # the Stream struct is about to go: the shell forgets `user`
    EV_CID_RETIRED = 12              # a = sequence of one of ours
    EV_PATH_VALIDATED = 13
    EV_AUTH_THRESHOLD = 14           # AEAD failures passed a threshold (a = count)
    EV_CID_ISSUED = 15               # reserved for the shell

cdef struct Event:
    uint64_t type
    Stream *stream                   # valid only while the stream lives; NULL otherwise
    uint64_t stream_id
    uint64_t a

cdef struct EventRing:
    Event *items
    uint32_t capacity                # power of two
    uint32_t head
    uint32_t count

# Extension frames of one batch, spans valid until its end.
cdef struct ExtFrame:
    Frame frame
    uint64_t pn
    int64_t time
    uint8_t ecn
    uint8_t epoch

# Codec of an extension frame; parse is entered after the type.
cdef struct ExtRow:
    uint64_t type
    uint8_t epochs
    bint ack_eliciting
    int (*parse)(Cursor *c, Frame *f) noexcept nogil

cdef struct ExtTable:
    const ExtRow *rows
    uint32_t count

# Notices of one batch for extension sources.
cdef struct ExtNotice:
    uint64_t cookie
    bint acked                       # else lost

cdef struct ExtOut:                  # frame bytes that an extension wants sent once
    uint8_t *data
    uint32_t length
    uint64_t cookie

# ---------------------------------------------------------------- close
cdef enum CloseState:
    CLOSE_NONE = 0
    CLOSE_CLOSING = 1                # we said so; answer with CONNECTION_CLOSE, rarely
    CLOSE_DRAINING = 2               # the peer said so; silent
    CLOSE_DONE = 3                   # over

cdef enum CloseCause:
    CAUSE_LOCAL = 0
    CAUSE_PEER = 1
    CAUSE_IDLE = 2
    CAUSE_STATELESS_RESET = 3
    CAUSE_VERSION = 4
    CAUSE_HANDSHAKE_TIMEOUT = 5
    CAUSE_INTERNAL = 6

cdef struct Close:
    int state
    int cause
    bint application                 # 0x1d rather than 0x1c
    bint send_due
    uint64_t code
    uint64_t frame_type
    uint32_t reason_length
    uint8_t reason[256]
    int64_t deadline                 # end of closing or draining
    uint64_t heard                   # packets since we closed: answers back off
    uint64_t answer_at

# ---------------------------------------------------------------- send sources (DESIGN §4)
# A packet under construction.
cdef struct PacketBuild:
    int space
    uint8_t epoch_bit                # FrameEpoch of wire.frames
    uint8_t *start
    uint8_t *payload                 # after the packet number
    uint8_t *p                       # next byte to write
    uint8_t *end                     # p may go up to here (tag room is behind it)
    uint8_t *length_at               # long headers: the Length field
    uint64_t pn
    uint32_t pn_length
    uint32_t flags                   # SentFlag
    uint32_t frames                  # first record
    uint32_t frames_tail
    # the last tail_length bytes of the payload lie there, not before p (sealed without a copy)
    const uint8_t *tail
    uint32_t tail_length
    bint path_frame                  # holds PATH_CHALLENGE or PATH_RESPONSE: padded to 1200 bytes
    bint probe

cdef struct Source:
    const char *name
    uint8_t epochs                   # FrameEpoch bits it can send in
    # Something to send in this space now?
    bint (*pending)(Conn *c, int space, int64_t now) noexcept nogil
    # Write what fits into b (b.p moves); ack-eliciting frames set the flag. 0, or -1: memory.
    int (*fill)(Conn *c, PacketBuild *b, int64_t now) noexcept nogil
    void (*acked)(Conn *c, const FrameRec *r, int64_t now) noexcept nogil
    # Queue it again. Also called for a probe, while the record stays.
    void (*lost)(Conn *c, const FrameRec *r) noexcept nogil
    # The record is about to be freed (after acked or lost, or with its space).
    void (*forget)(Conn *c, const FrameRec *r) noexcept nogil

cdef enum:                           # rows of the source table, in order of urgency
    SOURCE_ACK = 0
    SOURCE_CRYPTO = 1
    SOURCE_CONTROL = 2
    SOURCE_EXT = 3
    SOURCE_STREAM = 4
    SOURCE_PING = 5
    SOURCE_MTU = 6

cdef struct SourceTable:
    const Source *rows[12]
    uint32_t count

# ---------------------------------------------------------------- hooks
ctypedef void (*DigestHook)(void *context, bint sending, AeadJob *jobs, uint32_t n) noexcept nogil

cdef struct Hooks:
    # NULL: off. jobs[i].payload is plaintext: `length` bytes to be sealed; where jobs[i].ok, length - 16 opened ones.
    DigestHook digest
    void *digest_context

# ---------------------------------------------------------------- the peer's transport parameters that the core obeys
cdef struct PeerParams:
    uint64_t max_idle_timeout_ns
    uint64_t max_udp_payload_size
    uint64_t initial_max_data
    uint64_t initial_max_stream_data_bidi_local
    uint64_t initial_max_stream_data_bidi_remote
    uint64_t initial_max_stream_data_uni
    uint64_t initial_max_streams_bidi
    uint64_t initial_max_streams_uni
    uint64_t ack_delay_exponent
    uint64_t max_ack_delay_ns
    uint64_t active_connection_id_limit
    bint disable_active_migration

# ---------------------------------------------------------------- generations of 1-RTT keys (RFC 9001 §6)
cdef struct KeyState:
    uint8_t tx_secret[48]            # of the present generation
    uint8_t rx_secret[48]
    uint16_t suite
    uint8_t secret_length
    bint tx_phase
    bint rx_phase
    bint asked                       # an update is to be made with the next packet
    bint has_previous
    bint has_next
    uint64_t tx_first                # first packet number of our present phase
    uint64_t tx_count                # packets sealed in it
    uint64_t rx_first                # lowest authentic packet number seen in the peer's present phase
    int64_t previous_until
    AeadKey previous                 # for packets that come late
    AeadKey next                     # made when first needed

# ---------------------------------------------------------------- the connection
cdef struct Conn:
    bint is_client
    uint32_t version
    const AeadBackend *backend
    int handshake                    # 0 running, 1 complete (TLS done), 2 confirmed
    bint keys_ready                  # 1-RTT send keys are there
    KeyState keys
    Space spaces[3]
    Path *path                       # the one in use
    Path *paths                      # array
    uint32_t path_count
    # time
    int64_t created
    int64_t now                      # of the batch under way
    int64_t idle_timeout             # effective, 0: none
    int64_t idle_least               # three probe timeouts: no idle timeout is shorter (RFC 9000 §10.1)
    int64_t idle_deadline
    bint idle_sent                   # an ack-eliciting packet left since the last receipt (RFC 9000 §10.1)
    int64_t handshake_deadline       # 0: none
    int64_t pace_until               # pacer says: nothing before
    int64_t loss_deadline            # recovery's timer, 0: none
    uint32_t pto_count
    int64_t keep_alive_deadline
    # knobs
    Knobs knobs
    Knobs knobs_next
    bint knobs_dirty
    Stats stats
    Hooks hooks
    const SourceTable *sources
    const ExtTable *ext_table
    uint64_t ext_negotiated          # bit i: row i of ext_table
    PeerParams peer
    bint peer_known
    # randomness: given from outside, refilled by the shell (RFC: skip intervals, path challenges)
    uint64_t random_state
    # connection IDs
    uint8_t cid_length               # of ours
    LocalCid local_cids[8]
    uint64_t local_sequence          # next
    bint cid_due                     # some NEW_CONNECTION_ID must be sent
    RemoteCid remote_cids[8]
    RemoteCid *dcid                  # in use
    uint32_t cids_promised           # our active_connection_id_limit: IDs of the peer that we hold at most
    uint64_t retire_prior_to
    uint64_t retire_due[24]
    uint32_t retire_due_count
    uint32_t retire_unacked
    uint8_t initial_dcid[20]         # client's first choice: keys Initial
    uint8_t initial_dcid_length
    uint8_t peer_scid[20]            # Source Connection ID of the peer's first packet: must equal its parameter
    uint8_t peer_scid_length
    bint peer_scid_known
    uint8_t retry_scid[20]
    uint8_t retry_scid_length
    bint retried
    uint8_t *token                   # to send in Initials (client)
    uint32_t token_length
    uint8_t *new_token               # last NEW_TOKEN of the server, for the shell to take
    uint32_t new_token_length
    # streams
    StreamTable table
    StreamKind kinds[4]
    Stream *all_head
    Stream *send_head                # round-robin: the next one to serve
    Stream *read_head
    Stream *read_tail
    Stream *control_head
    Stream *control_tail
    Stream *free_streams             # a few kept for reuse, linked by all_next
    uint32_t free_count
    # flow control, connection level
    uint64_t send_limit              # peer's MAX_DATA
    uint64_t send_total              # sum of highest offsets sent
    uint64_t recv_limit              # MAX_DATA we announced
    uint64_t recv_total              # sum of highest offsets received
    uint64_t recv_consumed
    uint64_t recv_window
    int64_t recv_tuned
    uint64_t stream_promise          # window of a new stream that our transport parameters announced
    uint64_t blocked_at
    uint32_t flow_blocked            # streams that only flow control keeps from sending
    # control frames due
    bint max_data_due
    bint data_blocked_due
    bint handshake_done_due
    bint ping_due
    uint64_t ping_cookie
    # events, queues
    EventRing events
    uint32_t events_waiting          # kinds of coalesced events that are in the ring
    DropList drops
    FrameSlab slab
    ExtFrame *ext_in
    uint32_t ext_in_count
    ExtNotice *ext_notices
    uint32_t ext_notice_count
    uint32_t ext_notice_capacity
    ExtOut *ext_out
    uint32_t ext_out_count
    uint32_t ext_out_capacity
    Close close
    int error                        # sticky internal failure (out of memory)
    # receive cursor: where recv stopped for TLS
    uint8_t *rx_data
    uint32_t rx_length
    uint32_t rx_segment
    uint32_t rx_pos                  # start of the current datagram in the train
    uint32_t rx_in                   # bytes of it already walked
    uint8_t rx_ecn
    bint rx_counted
    bint rx_active
    # what limited us, since when
    int limited_by                   # 0 nothing, 1 window, 2 flow, 3 pacing, 4 application
    int64_t limited_since
    uint64_t auth_threshold
    uint64_t close_error             # transport error met while walking frames; 0: none
    uint64_t close_frame_type
    const char *close_reason
    void *owner_thread
    void *shell                      # the Connection (borrowed), never touched here
