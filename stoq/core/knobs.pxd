# Knobs and stats: flat structs of 64-bit fields, one row each in knobs.pyx
# (name, unit, range, when it takes effect). Order here = order of the rows.
from libc.stdint cimport uint64_t

cdef struct Knobs:
    uint64_t max_datagram_size        # bytes of UDP payload a full packet may have (live value, DESIGN §4 "Transport")
    uint64_t max_ack_delay_ns         # longest we hold back an ACK
    uint64_t ack_frequency            # ack-eliciting packets that trigger an ACK at once
    uint64_t pacing                   # 0 off, 1 on
    uint64_t pacing_burst_ns          # how much of the pacing rate may leave in one burst
    uint64_t receive_window           # connection flow-control window, bytes, where auto-tuning starts
    uint64_t receive_window_max       # and where it stops
    uint64_t stream_window            # the same for one stream
    uint64_t stream_window_max
    uint64_t keep_alive_ns            # 0: none; else a PING when nothing was sent for so long
    uint64_t key_update_packets       # packets sealed with one key before it is changed

cdef struct Stats:
    uint64_t packets_sent
    uint64_t packets_received
    uint64_t packets_lost
    uint64_t packets_dropped          # undecryptable, duplicate, malformed or for nobody
    uint64_t packets_duplicate
    uint64_t auth_failures            # AEAD refusals (RFC 9001 §6.6)
    uint64_t datagrams_sent
    uint64_t datagrams_received
    uint64_t bytes_sent
    uint64_t bytes_received
    uint64_t bytes_lost
    uint64_t bytes_in_flight
    uint64_t acks_sent
    uint64_t acks_received
    uint64_t ptos
    uint64_t persistent_congestions
    uint64_t congestion_events
    uint64_t cwnd
    uint64_t ssthresh
    uint64_t srtt_ns
    uint64_t rttvar_ns
    uint64_t latest_rtt_ns
    uint64_t min_rtt_ns               # lifetime floor
    uint64_t pacing_rate              # bytes per second
    uint64_t delivery_rate            # bytes per second, last sample
    uint64_t delivered                # bytes
    uint64_t streams_opened
    uint64_t streams_accepted
    uint64_t stream_bytes_sent        # first transmissions
    uint64_t stream_bytes_resent
    uint64_t stream_bytes_received    # in order, handed up
    uint64_t limited_window_ns        # how long congestion window limited sending
    uint64_t limited_flow_ns          # … flow control
    uint64_t limited_pacing_ns        # … the pacer
    uint64_t limited_app_ns           # … the application had nothing to send
    uint64_t low_queue                # times the send queue ran below one window while the window was open
    uint64_t max_datagram_size
    uint64_t ext_dropped              # extension frames dropped because the queue was full
    uint64_t handshake_ns             # start to confirmation; 0 while it runs
    uint64_t key_updates              # generations of our 1-RTT keys after the first

cdef void knobs_defaults(Knobs *k) noexcept nogil
cdef int knob_set(Knobs *k, str name, object value) except -1
cdef dict knobs_dict(const Knobs *k)
cdef dict stats_dict(const Stats *s)
