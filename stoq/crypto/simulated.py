"""Cheap, deterministic stand-ins for simulations. They protect nothing.

A simulated handshake is to cost little and to replay exactly from a seed: the group's shares come from the given
random source, signatures have a fixed length and no randomness, the credentials are the same bytes in every process.
Both rows have code points of the private-use ranges (RFC 8446 §4.2.3, §4.2.7) and exist only after
register_simulated().
"""

from __future__ import annotations

import functools
import hashlib
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stoq.crypto import groups, signatures
from stoq.crypto.authority import Issued, make_leaf, make_test_ca
from stoq.crypto.groups import KeyExchangeError, Random
from stoq.crypto.signatures import SignatureError

SIMULATED_GROUP = 0xFE00
SIMULATED_SCHEME = 0xFE00

_SHARE = 32
# As long as an ECDSA P-256 signature is at most, so that a simulated flight has a realistic size.
_SIGNATURE = 72


class _SimulatedGroup:
    """The secret is a hash of both public shares: anyone can compute it."""

    code = SIMULATED_GROUP
    name = "simulated group"

    def generate(self, random: Random) -> tuple[Any, bytes]:
        share = random(_SHARE)
        return share, share

    def respond(self, client_share: bytes, random: Random) -> tuple[bytes, bytes]:
        share = random(_SHARE)
        return share, self.finish(client_share, share)

    def finish(self, private: Any, server_share: bytes) -> bytes:
        if len(private) != _SHARE or len(server_share) != _SHARE:
            raise KeyExchangeError("simulated key share of a wrong length")
        return hashlib.sha256(private + server_share).digest()


class _SimulatedScheme:
    """The signature is a hash of the public key and the data: anyone can compute it."""

    code = SIMULATED_SCHEME
    name = "simulated scheme"
    handshake = True

    def accepts(self, public_key: Any) -> bool:
        return isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1)

    def sign(self, private_key: Any, data: bytes) -> bytes:
        return self._digest(private_key.public_key(), data)

    def verify(self, public_key: Any, signature: bytes, data: bytes) -> None:
        if not self.accepts(public_key) or self._digest(public_key, data) != signature:
            raise SignatureError("wrong simulated signature")

    @staticmethod
    def _digest(public_key: Any, data: bytes) -> bytes:
        digest = hashlib.sha512(public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) + data).digest()
        return digest.ljust(_SIGNATURE, b"\0")


_START = datetime(2000, 1, 1, tzinfo=UTC)
_DAYS = 36525

_GROUP = _SimulatedGroup()
_SCHEME = _SimulatedScheme()


def register_simulated() -> None:
    """Make the simulated group and scheme known. They stay out of every default list."""
    groups.register(_GROUP)
    signatures.register(_SCHEME)


def _fixed_key(seed: str) -> ec.EllipticCurvePrivateKey:
    # 32 bytes of a hash, one bit short of the order of P-256: always a valid scalar.
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big") >> 1, ec.SECP256R1())


@functools.cache
def simulated_authority() -> Issued:
    """A root with a fixed key, valid from 2000 to 2100: the same bytes in every process (RFC 6979 signatures)."""
    key = _fixed_key("stoq simulated authority")
    return make_test_ca(_START, name="stoq simulated CA", days=_DAYS, private_key=key, serial=1, deterministic=True)


@functools.cache
def simulated_leaf(*names: str) -> Issued:
    """A leaf of simulated_authority() for the names (default localhost): the same bytes in every process."""
    wanted = names or ("localhost",)
    key = _fixed_key("\0".join(wanted))
    return make_leaf(simulated_authority(), wanted, _START, days=_DAYS, private_key=key, serial=2, deterministic=True)
