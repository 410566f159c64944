"""Connection-ID schemes: how an endpoint makes its IDs, and what an ID tells about where it belongs."""
import os

from stoq.crypto.keys import hmac_digest
from stoq.errors import ConfigurationError

# One system call gives the randomness of this many IDs: 8 bytes by os.urandom cost 0.4 us, by a slice 0.05 us.
POOL_IDS = 256
FIRST_POOL_IDS = 8        # all that a client's endpoint needs
RESET_KEY_MIN = 16
TOKEN_LABEL = b"stoq stateless reset"

UNKNOWN_DROP = "drop"
UNKNOWN_RESET = "reset"


cdef class CidScheme:
    """Base of the schemes. One scheme may serve several endpoints (workers) of one server.

    length: of every ID, one per endpoint, since short headers do not carry it (RFC 9000 §17.3.1).
    epoch: any value; it changes when IDs that were made before should be replaced (re-issue comes with migration).
    """

    def __init__(self, int length):
        # Below 4 bytes random IDs collide after some hundred connections.
        if not 4 <= length <= 20:
            raise ConfigurationError(f"connection IDs have 4 to 20 bytes, not {length}")
        self.length = length
        self.epoch = 0

    cpdef bytes make(self):
        """A new ID of `length` bytes, unlike any other in use (the endpoint asks again when it is not)."""
        raise NotImplementedError

    cpdef bytes reset_token(self, bytes cid):
        """The 16 bytes of the Stateless Reset of one of our IDs (RFC 9000 §10.3.2): the same in every worker."""
        raise NotImplementedError

    cpdef object recognise(self, bytes cid):
        """Where an ID unknown to this endpoint belongs: an opaque route for its `hand_over` callback, or None."""
        return None


cdef class RandomCids(CidScheme):
    """Random bytes, the default.

    reset_key: 16 bytes or more of secret configuration, from which reset tokens are derived, so that a restarted
    server, or another worker, can still reset old connections. None: a random one for this process; connections of an
    earlier process then end only by their idle timeout. random: callable(n) -> n unpredictable bytes.
    """

    def __init__(self, int length=8, reset_key=None, random=os.urandom):
        super().__init__(length)
        if reset_key is None:
            reset_key = random(32)
        if len(reset_key) < RESET_KEY_MIN:
            raise ConfigurationError(f"a reset key has at least {RESET_KEY_MIN} bytes")
        self.random = random
        self.key = bytes(reset_key)
        self.pool = b""
        self.used = 0

    cpdef bytes make(self):
        if self.used + self.length > len(self.pool):
            self.pool = self.random((POOL_IDS if self.pool else FIRST_POOL_IDS) * self.length)
            self.used = 0
        cid = self.pool[self.used:self.used + self.length]
        self.used += self.length
        return cid

    cpdef bytes reset_token(self, bytes cid):
        return hmac_digest("sha256", self.key, TOKEN_LABEL + cid)[:16]
