# The shell (L3): owns one core and one TLS handshake, moves CRYPTO bytes and keys between them; sans-IO.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from stoq.wire.batch cimport Address, SendBatch
from stoq.core.state cimport Conn, Stream as CStream
from stoq.connection.negotiated cimport Negotiated


cdef class Connection(Negotiated):
    cdef Conn *c                         # NULL after terminate()
    cdef readonly object tls             # stoq.tls.Handshake; None once it is no longer needed
    cdef readonly object configuration   # stoq.connection.configuration.Configuration
    cdef readonly bint is_client
    # an exception instance of stoq.errors once the connection is closing or closed; None before
    cdef readonly object close_reason
    cdef readonly bint handshake_complete
    cdef readonly bint terminated        # nothing will ever be sent or received again
    cdef public object stream_factory    # class derived from StreamHandle, called (connection, id)
    # callable(connection) | None: application calls made something to send outside a batch
    cdef public object wake
    cdef public object listener          # object with the callbacks below, or None (then events() gives them as tuples)
    cdef object event_list
    cdef uint32_t listed                 # events of which event_list has one already
    cdef bytes newest_token
    cdef dict handles                    # stream id -> StreamHandle
    cdef bint waking
    cdef bint in_batch
    cdef object exporter
    cdef object peer_params
    cdef set pings                       # cookies of PINGs whose acknowledgement is awaited; None: never asked
    cdef int64_t last_now
    cdef bint closed_told
    cdef bint params_applied
    cdef bytes original_dcid             # client's first DCID
    cdef bytes retry_scid                # server: the SCID of the Retry it (or a filter in front) sent

    # ---- driver side, C (GIL held; the core inside runs without Python)
    # A train or datagram from `peer`. Runs TLS in between when it must. Never raises for bad input.
    cdef int receive(self, uint8_t *data, uint32_t length, uint32_t segment, uint8_t ecn, const Address *peer,
            const Address *local, int64_t now) except -1
    # Once after all receive() calls of one transport batch: stream data becomes Python objects, events are delivered.
    # The transport's buffers may be released after it.
    cdef int finish_batch(self, int64_t now) except -1
    # Add datagrams to the batch (from batch.count on, up to batch.slots); returns how many datagrams were added.
    # Call again while it returns > 0 and there are free slots.
    cdef int send(self, SendBatch *batch, int64_t now) except -1
    cdef int64_t deadline(self)          # ns of the clock that `now` comes from; 0: no timer
    cdef int timer(self, int64_t now) except -1    # then finish_batch + send
    cdef bint wants_send(self)

    # ---- connection IDs (endpoint: map every live ID to this connection)
    cdef uint32_t cids_wanted(self)      # IDs that we should give the peer now
    # length is the endpoint's fixed one
    cdef int add_cid(self, const uint8_t *cid, const uint8_t *token16) except -1

    cdef int notify(self) except -1
    cdef int pump_tls(self, int64_t now) except -1
    cdef int pump_events(self) except -1
    cdef int pump_readable(self) except -1
    cdef StreamHandle_new(self, CStream *s)
    cdef int drain_drops(self) except -1
    cdef int move_tls(self) except -1
    cdef int apply_params(self, bytes encoded) except -1
    cdef int check_end(self) except -1
    cdef int die(self) except -1
    cdef int told_closed(self) except -1
    cdef int emit(self, str name, object value) except -1
    cdef int emit_once(self, uint32_t bit, str name, object value) except -1

# Python-level methods (connection.pyi): open_stream(unidirectional=False) -> StreamHandle (raises StreamLimitError when
# the peer's limit is reached; can_open_stream()), close(error_code=0, reason="", application=True), stats() -> dict,
# events() -> list of tuples, negotiated facts: alpn, cipher_suite, group, version, peer_certificates, server_name,
# receive_datagram(data, peer, now_ns, ecn=0), datagrams_to_send(now_ns) -> list[(bytes, peer)], next_timeout() -> int
# | None,
# handle_timeout(now_ns), local_cids() -> list[bytes], original_dcid, ping().
#
# Constructors (module functions in stoq.connection.connection):
#   client_connection(configuration, peer: (host, port), *, now_ns, random=os-like callable(n)->bytes, cid,
# original_dcid, token=b"") -> Connection
#   server_connection(configuration, peer, local, *, now_ns, random, cid, original_dcid (DCID of the first Initial),
#                     retry_scid=None, original_dcid_before_retry=None, validated=False, version=1) -> Connection
#   `cid`: our first connection ID (bytes, made by the endpoint's scheme), `reset_token` 16 bytes for it (server).
#
# listener callbacks (all called from finish_batch / timer, GIL held):
#   handshake_completed(conn), stream_opened(conn, stream)   [peer-opened], streams_available(conn, unidirectional:
# bool),
#   closed(conn) [close_reason set; still must send/linger until terminated], terminated(conn), cid_retired(conn, cid:
# bytes), new_token(conn, token)
