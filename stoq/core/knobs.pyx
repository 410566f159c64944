"""The rows of knobs and stats: names, units, ranges. Stubs, docs and the shell's dicts come from these tables."""
from libc.stdint cimport uint64_t

MS = 1_000_000

# (name, unit, default, lowest, highest, when it takes effect, meaning)
KNOB_ROWS = (
    ("max_datagram_size", "bytes", 1200, 1200, 65527, "next packet", "UDP payload of a full packet"),
    ("max_ack_delay_ns", "ns", 25 * MS, 0, 16383 * MS, "next ACK", "longest an ACK is held back (RFC 9000 §13.2.1)"),
    ("ack_frequency", "packets", 2, 1, 255, "next packet",
            "ack-eliciting packets that trigger an ACK (RFC 9000 §13.2.2)"),
    ("pacing", "0/1", 1, 0, 1, "next ACK", "spread packets over the round trip (RFC 9002 §7.7)"),
    ("pacing_burst_ns", "ns", 2 * MS, 0, 100 * MS, "next ACK", "part of the pacing rate that may leave at once"),
    ("receive_window", "bytes", 1 << 20, 1 << 14, 1 << 30, "start", "connection flow-control window at first"),
    ("receive_window_max", "bytes", 12 << 20, 1 << 14, 1 << 32, "next update", "and where auto-tuning stops"),
    ("stream_window", "bytes", 1 << 20, 1 << 12, 1 << 30, "new streams", "flow-control window of a stream at first"),
    ("stream_window_max", "bytes", 8 << 20, 1 << 12, 1 << 32, "next update", "and where auto-tuning stops"),
    ("keep_alive_ns", "ns", 0, 0, 600_000 * MS, "next packet", "PING after so long without sending; 0 never"),
    ("key_update_packets", "packets", 1 << 22, 1, 1 << 22, "next packet",
            "packets a key seals before it is changed (RFC 9001 §6.6)"),
)

# (name, unit): the order of struct Stats.
STAT_ROWS = (
    ("packets_sent", "packets"), ("packets_received", "packets"), ("packets_lost", "packets"),
    ("packets_dropped", "packets"), ("packets_duplicate", "packets"), ("auth_failures", "packets"),
    ("datagrams_sent", "datagrams"), ("datagrams_received", "datagrams"),
    ("bytes_sent", "bytes"), ("bytes_received", "bytes"), ("bytes_lost", "bytes"), ("bytes_in_flight", "bytes"),
    ("acks_sent", "frames"), ("acks_received", "frames"), ("ptos", "events"), ("persistent_congestions", "events"),
    ("congestion_events", "events"), ("cwnd", "bytes"), ("ssthresh", "bytes"),
    ("srtt_ns", "ns"), ("rttvar_ns", "ns"), ("latest_rtt_ns", "ns"), ("min_rtt_ns", "ns"),
    ("pacing_rate", "bytes/s"), ("delivery_rate", "bytes/s"), ("delivered", "bytes"),
    ("streams_opened", "streams"), ("streams_accepted", "streams"),
    ("stream_bytes_sent", "bytes"), ("stream_bytes_resent", "bytes"), ("stream_bytes_received", "bytes"),
    ("limited_window_ns", "ns"), ("limited_flow_ns", "ns"), ("limited_pacing_ns", "ns"), ("limited_app_ns", "ns"),
    ("low_queue", "events"), ("max_datagram_size", "bytes"), ("ext_dropped", "frames"), ("handshake_ns", "ns"),
    ("key_updates", "updates"),
)

cdef Knobs DEFAULTS


def _fill_defaults():
    cdef uint64_t *field = <uint64_t *>&DEFAULTS
    assert len(KNOB_ROWS) * sizeof(uint64_t) == sizeof(Knobs)
    assert len(STAT_ROWS) * sizeof(uint64_t) == sizeof(Stats)
    for i, row in enumerate(KNOB_ROWS):
        field[i] = row[2]


_fill_defaults()


cdef void knobs_defaults(Knobs *k) noexcept nogil:
    k[0] = DEFAULTS


cdef int knob_set(Knobs *k, str name, object value) except -1:
    """Set one knob by name; ValueError names the allowed range."""
    cdef uint64_t *field = <uint64_t *>k
    for i, row in enumerate(KNOB_ROWS):
        if row[0] == name:
            if not row[3] <= value <= row[4]:
                raise ValueError(f"{name} must be {row[3]} to {row[4]} {row[1]}, not {value}")
            field[i] = value
            return 0
    raise ValueError(f"no such knob: {name}")


cdef dict knobs_dict(const Knobs *k):
    cdef const uint64_t *field = <const uint64_t *>k
    return {row[0]: field[i] for i, row in enumerate(KNOB_ROWS)}


cdef dict stats_dict(const Stats *s):
    cdef const uint64_t *field = <const uint64_t *>s
    return {row[0]: field[i] for i, row in enumerate(STAT_ROWS)}
