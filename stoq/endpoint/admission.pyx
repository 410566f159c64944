"""Admission of new connections: limits, Retry, and the tokens that prove an address (RFC 9000 §8.1).

Layout of a token: kind (1 byte), issue time (8, big-endian ns), then for Retry the length and bytes of the original
DCID and of the Retry's SCID, then a MAC of 16 bytes over all of it, the version and the client's address. Nothing in
it is secret from the client, so it is authenticated but not encrypted; a MAC needs no nonce, so several processes and
restarts may share a key.
"""
import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcpy, memset
from stoq.crypto.keys cimport bytes_equal
from stoq.io.transport cimport address_from_python, address_to_python
from stoq.wire.batch cimport DATAGRAM_VALIDATED
from stoq.wire.header cimport CID_MAX

from stoq.crypto.keys import hmac_digest
from stoq.errors import ConfigurationError, TransportErrorCode

cdef enum:
    KIND_RETRY = 0x72        # 'r'
    KIND_NEW = 0x6E          # 'n'
    TIME_BYTES = 8
    MAC_BYTES = 16
    HEAD_BYTES = 1 + TIME_BYTES
    TOKEN_BYTES_MAX = HEAD_BYTES + 2 * (1 + 20) + MAC_BYTES

KEY_MIN = 16
SECOND = 1_000_000_000
# RFC 9000 §8.1.3: short, since a client follows a Retry at once.
RETRY_LIFETIME = 10 * SECOND
NEW_TOKEN_LIFETIME = 24 * 3600 * SECOND
# Workers that share a key may have clocks that differ a little.
cdef int64_t CLOCK_SKEW = 2 * SECOND
# SECURITY row 12.
HALF_OPEN_RETRY = 256
HALF_OPEN_MAX = 4096
MAX_CONNECTIONS = 50_000

cdef uint64_t INVALID_TOKEN = TransportErrorCode.INVALID_TOKEN
cdef uint64_t CONNECTION_REFUSED = TransportErrorCode.CONNECTION_REFUSED


cdef bytes address_bytes(const Address *address, bint with_port):
    """What a token is bound to; the port is left out of NEW_TOKEN tokens (RFC 9000 §8.1.4: NATs change it)."""
    cdef uint8_t raw[1 + 16 + 2]
    raw[0] = address.family
    memcpy(raw + 1, address.addr, 16)
    raw[17] = <uint8_t>(address.port >> 8) if with_port else 0
    raw[18] = <uint8_t>(address.port & 0xFF) if with_port else 0
    return PyBytes_FromStringAndSize(<char *>raw, sizeof(raw))


cdef class Admission:
    """Base of the providers. Compiled ones override admit(); Python ones override decide() and mint_retry().

    decide(token, dcid, scid, address, now, half_open, connections) returns a dict with any of
    verdict ("drop", "accept", "retry", "refuse"; default "accept"), traffic_class, validated, original_dcid and
    retry_scid (both after a Retry), error_code (with "refuse").
    """

    cdef int admit(self, const InitialInfo *info, int64_t now, Admitted *out) except -1:
        decision = self.decide(
            (<const char *>info.token)[:info.token_length] if info.token_length else b"",
            (<const char *>info.dcid)[:info.dcid_length], (<const char *>info.scid)[:info.scid_length],
            address_to_python(info.address), now, info.half_open, info.connections,
        )
        memset(out, 0, sizeof(Admitted))
        out.verdict = _VERDICTS[decision.get("verdict", "accept")]
        out.traffic_class = decision.get("traffic_class", 0)
        out.validated = decision.get("validated", False) or (info.flags & DATAGRAM_VALIDATED) != 0
        out.error_code = decision.get("error_code", CONNECTION_REFUSED)
        original, scid = decision.get("original_dcid"), decision.get("retry_scid")
        if original is not None and scid is not None and len(original) <= CID_MAX and len(scid) <= CID_MAX:
            out.retried = True
            out.original_dcid_length = len(original)
            memcpy(out.original_dcid, <const char *><bytes>original, len(original))
            out.retry_scid_length = len(scid)
            memcpy(out.retry_scid, <const char *><bytes>scid, len(scid))
        return 0

    def decide(self, token, dcid, scid, address, now, half_open, connections):
        raise NotImplementedError

    cpdef bytes mint_retry(self, object address, bytes original_dcid, bytes retry_scid, uint32_t version, int64_t now):
        """The token of a Retry to `address` (host, port)."""
        raise NotImplementedError


_VERDICTS = {"drop": ADMIT_DROP, "accept": ADMIT_ACCEPT, "retry": ADMIT_RETRY, "refuse": ADMIT_REFUSE}
_NAMES = {value: name for name, value in _VERDICTS.items()}


cdef class DefaultAdmission(Admission):
    """Limits, and Retry above a threshold of half-open handshakes.

    key: 16 bytes or more of secret configuration, the same in every worker and after a restart: tokens then stay valid.
    None: a random one for this process. half_open_retry: handshakes under way above which addresses must be proved;
    half_open_max: and above which new ones are dropped. max_connections: beyond it clients are refused.
    always_retry: every client must prove its address. token_lifetime: seconds that a NEW_TOKEN token is valid.

    Accepting a Retry token does not depend on having sent the Retry: a packet filter in front may have done so, with
    the same key.
    """

    def __init__(self, key=None, *, half_open_retry=HALF_OPEN_RETRY, half_open_max=HALF_OPEN_MAX,
                 max_connections=MAX_CONNECTIONS, always_retry=False, token_lifetime=NEW_TOKEN_LIFETIME // SECOND,
                 clock=None):
        if key is None:
            key = os.urandom(32)
        if len(key) < KEY_MIN:
            raise ConfigurationError(f"an admission key has at least {KEY_MIN} bytes")
        for name, value in (("half_open_retry", half_open_retry), ("half_open_max", half_open_max),
                            ("max_connections", max_connections)):
            if not 0 <= value < 1 << 31:
                raise ConfigurationError(f"{name} is a number of connections, not {value}")
        self.key = bytes(key)
        self.half_open_retry = half_open_retry
        self.half_open_max = half_open_max
        self.max_connections = max_connections
        self.always_retry = always_retry
        self.retry_lifetime = RETRY_LIFETIME
        self.token_lifetime = int(token_lifetime * SECOND)
        self.clock = clock

    cdef int admit(self, const InitialInfo *info, int64_t now, Admitted *out) except -1:
        memset(out, 0, sizeof(Admitted))
        out.validated = (info.flags & DATAGRAM_VALIDATED) != 0
        out.verdict = ADMIT_ACCEPT
        if info.token_length:
            self.check_token(info, now, out)
            if out.verdict != ADMIT_ACCEPT:
                return 0
        if info.connections >= self.max_connections:
            out.verdict = ADMIT_REFUSE
            out.error_code = CONNECTION_REFUSED
        elif info.half_open >= self.half_open_max:
            out.verdict = ADMIT_DROP
        elif not out.validated and (self.always_retry or info.half_open >= self.half_open_retry):
            out.verdict = ADMIT_RETRY
        elif self.always_retry and not out.retried:
            out.verdict = ADMIT_RETRY    # also after a NEW_TOKEN token: the caller asked for a Retry always
        return 0

    cdef int check_token(self, const InitialInfo *info, int64_t now, Admitted *out) except -1:
        """Sets out.validated for a good token. What is not ours changes nothing (RFC 9000 §8.1.3)."""
        cdef const uint8_t *p = info.token
        cdef size_t n = info.token_length, body, at
        cdef size_t original = 0, scid = 0
        cdef uint64_t issued = 0
        cdef int64_t lifetime
        cdef int i
        cdef bint retry = p[0] == KIND_RETRY
        cdef bint fresh, mine
        cdef bytes mac
        if (not retry and p[0] != KIND_NEW) or n < HEAD_BYTES + MAC_BYTES or n > TOKEN_BYTES_MAX:
            return 0
        body = n - MAC_BYTES
        for i in range(TIME_BYTES):
            issued = (issued << 8) | p[1 + i]
        if retry:
            at = HEAD_BYTES
            if at >= body:
                return 0
            original = p[at]
            at += 1 + original
            if original > CID_MAX or at >= body:
                return 0
            scid = p[at]
            if scid > CID_MAX or at + 1 + scid != body:
                return 0
        elif body != HEAD_BYTES:
            return 0
        mac = self.mac((<const char *>p)[:body], info.version, address_bytes(info.address, retry))
        mine = bytes_equal(<const uint8_t *><const char *>mac, p + body, MAC_BYTES)
        if not mine:
            # A Retry token that we did not mint for this address: the client cannot use another one, so silence
            # (RFC 9000 §8.1.2) costs us least. Anything else is treated as no token.
            if retry:
                out.verdict = ADMIT_DROP
            return 0
        now = self.token_time(now)
        lifetime = self.retry_lifetime if retry else self.token_lifetime
        fresh = <int64_t>issued <= now + CLOCK_SKEW and now - <int64_t>issued <= lifetime
        if not retry:
            out.validated = out.validated or fresh
            return 0
        # The client must use the ID that the Retry gave it (RFC 9000 §7.3).
        at = HEAD_BYTES + 1 + original + 1
        if not fresh or scid != info.dcid_length or not bytes_equal(p + at, info.dcid, scid):
            out.verdict = ADMIT_REFUSE
            out.error_code = INVALID_TOKEN
            return 0
        out.validated = True
        out.retried = True
        memcpy(out.original_dcid, p + HEAD_BYTES + 1, original)
        out.original_dcid_length = original
        memcpy(out.retry_scid, p + at, scid)
        out.retry_scid_length = scid
        return 0

    def token_time(self, int64_t now):
        return self.clock() if self.clock is not None else now

    def mac(self, bytes body, uint32_t version, bytes address):
        return hmac_digest("sha256", self.key, version.to_bytes(4, "big") + address + body)[:MAC_BYTES]

    cpdef bytes mint_retry(self, object address, bytes original_dcid, bytes retry_scid, uint32_t version, int64_t now):
        """A Retry token: bound to address and port, both IDs, the version and this moment; valid for 10 seconds."""
        cdef Address parsed
        address_from_python(address, &parsed)
        if len(original_dcid) > CID_MAX or len(retry_scid) > CID_MAX:
            raise ValueError("a connection ID has at most 20 bytes")
        body = (bytes([KIND_RETRY]) + (<object>self.token_time(now)).to_bytes(TIME_BYTES, "big")
                + bytes([len(original_dcid)]) + original_dcid + bytes([len(retry_scid)]) + retry_scid)
        return body + self.mac(body, version, address_bytes(&parsed, True))

    def mint_new_token(self, address, uint32_t version, int64_t now):
        """A token for a NEW_TOKEN frame: bound to the host (not the port), the version and this moment."""
        cdef Address parsed
        address_from_python(address, &parsed)
        body = bytes([KIND_NEW]) + (<object>self.token_time(now)).to_bytes(TIME_BYTES, "big")
        return body + self.mac(body, version, address_bytes(&parsed, False))

    def decide(self, bytes token, bytes dcid, bytes scid, address, now, half_open, connections, *, version=1,
               vouched=False):
        """What admit() says, as a dict (see Admission). vouched: the transport vouches for the address."""
        cdef Address parsed
        cdef InitialInfo info
        cdef Admitted out
        address_from_python(address, &parsed)
        info.token, info.token_length = <const uint8_t *><const char *>token, len(token)
        info.dcid, info.dcid_length = <const uint8_t *><const char *>dcid, len(dcid)
        info.scid, info.scid_length = <const uint8_t *><const char *>scid, len(scid)
        info.address = &parsed
        info.version = version
        info.flags = DATAGRAM_VALIDATED if vouched else 0
        info.half_open, info.connections = half_open, connections
        self.admit(&info, now, &out)
        decision = {"verdict": _NAMES[out.verdict], "validated": bool(out.validated)}
        decision["traffic_class"] = out.traffic_class
        if out.verdict == ADMIT_REFUSE:
            decision["error_code"] = out.error_code
        if out.retried:
            decision["original_dcid"] = out.original_dcid[:out.original_dcid_length]
            decision["retry_scid"] = out.retry_scid[:out.retry_scid_length]
        return decision
