"""Connections from a configuration: client's and server's."""
from datetime import UTC, datetime

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, int64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from stoq.crypto.aead cimport AeadBackend, aead_backend, aead_default
from stoq.core cimport core
from stoq.core.cids cimport cid_add_local, cid_set_remote
from stoq.core.knobs cimport knob_set
from stoq.core.memory cimport memory_keep_heap
from stoq.connection.address cimport fill_address
from stoq.connection.connection cimport Connection
from stoq.connection.stream cimport StreamHandle

import stoq.core.reno as _reno
import stoq.crypto.aead_null as _aead_null
import stoq.crypto.aead_openssl as _aead_openssl

from stoq.connection.parameters import own_parameters
from stoq.errors import ConfigurationError
from stoq.tls import Handshake
from stoq.wire.transport_parameters import reserved_parameter

# Imported so that the controllers and backends are registered.
_REGISTERED = (_reno, _aead_openssl, _aead_null)


cdef Connection make(object configuration, bint is_client, object peer, object local, int64_t now_ns, object random,
                     bytes cid, uint32_t version):
    cdef Connection self = Connection.__new__(Connection)
    cdef const AeadBackend *backend
    cdef bytes congestion = configuration.congestion.encode()
    cdef bytes name
    memory_keep_heap()
    if configuration.backend is None:
        backend = aead_default()
    else:
        name = configuration.backend.encode()
        backend = aead_backend(name)
    if backend == NULL:
        raise ConfigurationError(f"no such packet-protection backend: {configuration.backend}")
    if not 1 <= len(cid) <= 20:
        raise ConfigurationError("our connection IDs have 1 to 20 bytes")
    self.c = core.core_new(is_client, version, backend, congestion, <uint8_t>len(cid),
                           int.from_bytes(random(8), "little"), now_ns)
    if self.c == NULL:
        raise ConfigurationError(f"no such congestion controller: {configuration.congestion} (or out of memory)")
    self.is_client = is_client
    self.configuration = configuration
    self.handles = {}
    self.event_list = []
    self.stream_factory = StreamHandle
    self.last_now = now_ns
    fill_address(&self.c.path.peer, peer)
    fill_address(&self.c.path.local, local)
    self.c.shell = <void *><PyObject *>self
    self.c.owner_thread = <void *><size_t>PyThread_get_thread_ident()
    knob_set(&self.c.knobs_next, "max_datagram_size", configuration.max_datagram_size)
    for key, value in configuration.knobs.items():
        knob_set(&self.c.knobs_next, key, value)
    self.c.knobs = self.c.knobs_next
    self.c.recv_window = self.c.knobs.receive_window
    self.c.recv_limit = self.c.recv_window
    self.c.cids_promised = <unsigned int>configuration.active_connection_id_limit
    self.c.stream_promise = self.c.knobs.stream_window
    self.c.kinds[0 if not is_client else 1].window = configuration.max_streams_bidi
    self.c.kinds[2 if not is_client else 3].window = configuration.max_streams_uni
    self.c.kinds[0 if not is_client else 1].limit = configuration.max_streams_bidi
    self.c.kinds[2 if not is_client else 3].limit = configuration.max_streams_uni
    self.c.idle_timeout = <int64_t>(configuration.idle_timeout * 1e9)
    if self.c.idle_timeout:
        self.c.idle_deadline = now_ns + self.c.idle_timeout
    if configuration.handshake_timeout:
        self.c.handshake_deadline = now_ns + <int64_t>(configuration.handshake_timeout * 1e9)
    return self


cdef int set_local_cid(Connection self, bytes cid, object token) except -1:
    cdef bytes raw = token if token is not None else bytes(16)
    cid_add_local(self.c, <const uint8_t *>PyBytes_AS_STRING(cid), <const uint8_t *>PyBytes_AS_STRING(raw))
    return 0


cdef object parameters(Connection self, bytes cid):
    return own_parameters(self.configuration, cid, self.c.recv_limit, self.c.knobs.stream_window,
                          self.c.knobs.max_ack_delay_ns)


cdef object grease(Connection self, object random):
    if not self.configuration.grease:
        return None
    raw = random(3)
    return reserved_parameter(raw[0] << 4 | raw[1] >> 4), bytes(raw[2:])


def utc_now():
    return datetime.now(UTC)


def client_connection(configuration, peer, *, now_ns, random, bytes cid, bytes original_dcid, bytes token=b"",
                      now=utc_now, version=None):
    """A client's connection; its first flight is ready to be sent.

    cid: our first connection ID. original_dcid: 8 to 20 unpredictable bytes (RFC 9000 §7.2). token: from a NEW_TOKEN
    frame or another provider. random(n): n unpredictable bytes. now(): time for certificate checks.
    """
    cdef uint32_t v = configuration.versions[0] if version is None else version
    cdef Connection self = make(configuration, True, peer, None, now_ns, random, cid, v)
    if not 8 <= len(original_dcid) <= 20:
        raise ConfigurationError("a client's first destination connection ID has 8 to 20 bytes")
    self.original_dcid = original_dcid
    set_local_cid(self, cid, None)
    cid_set_remote(self.c, <const uint8_t *>PyBytes_AS_STRING(original_dcid), <size_t>len(original_dcid))
    if core.core_initial_keys(self.c, <const uint8_t *>PyBytes_AS_STRING(original_dcid), <size_t>len(original_dcid)):
        raise ConfigurationError(f"QUIC version 0x{v:x} is not supported")
    if token:
        self.c.token = <uint8_t *>malloc(<size_t>len(token))
        if self.c.token == NULL:
            raise MemoryError
        memcpy(self.c.token, PyBytes_AS_STRING(token), <size_t>len(token))
        self.c.token_length = <uint32_t>len(token)
    encoded = parameters(self, cid).encode(grease(self, random))
    self.tls = Handshake(configuration.tls, transport_parameters=encoded, random=random, now=now)
    self.tls.start()
    self.move_tls()
    return self


def server_connection(configuration, peer, local, *, now_ns, random, bytes cid, bytes original_dcid,
                      retry_scid=None, initial_dcid=None, bint validated=False, version=1, reset_token=None,
                      now=utc_now):
    """A server's connection for a client's first Initial packet.

    original_dcid: the DCID of the client's very first packet (before a Retry). initial_dcid: the DCID of the packet at
    hand when a Retry came between (it keys the Initial packets; equal to retry_scid). validated: the address is known
    to be the client's. reset_token: stateless-reset token of `cid`.
    """
    cdef Connection self = make(configuration, False, peer, local, now_ns, random, cid, version)
    cdef bytes first = original_dcid if initial_dcid is None else initial_dcid
    self.original_dcid = original_dcid
    self.retry_scid = retry_scid
    set_local_cid(self, cid, reset_token)
    # Replaced by the client's Source Connection ID with its first packet.
    cid_set_remote(self.c, <const uint8_t *>PyBytes_AS_STRING(cid), <size_t>len(cid))
    if core.core_initial_keys(self.c, <const uint8_t *>PyBytes_AS_STRING(first), <size_t>len(first)):
        raise ConfigurationError(f"QUIC version 0x{version:x} is not supported")
    if validated:
        core.core_address_validated(self.c)
    params = parameters(self, cid)
    params.original_destination_connection_id = original_dcid
    params.retry_source_connection_id = retry_scid
    params.stateless_reset_token = reset_token
    self.tls = Handshake(configuration.tls, transport_parameters=params.encode(grease(self, random)), random=random,
                         now=now)
    return self
