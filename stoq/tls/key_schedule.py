"""The key schedule (RFC 8446 §7.1) without pre-shared keys, and the transcript hash that feeds it."""

from __future__ import annotations

import functools

from stoq.crypto.keys import hkdf_expand_label, hkdf_extract, hmac_digest
from stoq.tls.suites import Suite

# RFC 8446 §4.4.3: 64 spaces, context string, one zero byte, transcript hash.
_SERVER_SIGNED = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
_CLIENT_SIGNED = b" " * 64 + b"TLS 1.3, client CertificateVerify\0"

# RFC 8446 §7.5: a label is at most 249 bytes behind "tls13 "; HKDF gives at most 255 blocks (RFC 5869 §2.3).
EXPORT_LABEL_MAX = 249
_HKDF_BLOCKS_MAX = 255


@functools.cache
def _constants(suite: Suite) -> tuple[bytes, bytes, bytes]:
    """(zeros, hash of nothing, the salt of the handshake secret): fixed per hash, since no PSK is mixed in."""
    zeros = bytes(suite.hash_length)
    empty: bytes = suite.new_hash().digest()
    early = hkdf_extract(suite.algorithm, zeros, zeros)
    return zeros, empty, hkdf_expand_label(suite.algorithm, early, b"derived", empty, suite.hash_length)


class KeySchedule:
    """Secrets of one handshake. Call in the order of the messages; every secret is hash_length bytes."""

    __slots__ = ("_exporter", "_exporter_hash", "_handshake", "_master", "suite", "transcript")

    def __init__(self, suite: Suite, messages: bytes) -> None:
        self.suite = suite
        self.transcript = suite.new_hash(messages)
        self._handshake = b""
        self._master = b""
        self._exporter = b""
        self._exporter_hash = b""

    def _derive(self, secret: bytes, label: bytes, digest: bytes) -> bytes:
        suite = self.suite
        return hkdf_expand_label(suite.algorithm, secret, label, digest, suite.hash_length)

    def handshake_secrets(self, shared: bytes) -> tuple[bytes, bytes]:
        """(client, server) traffic secrets; the transcript ends with ServerHello."""
        suite = self.suite
        _, _, salt = _constants(suite)
        self._handshake = hkdf_extract(suite.algorithm, salt, shared)
        digest = self.transcript.digest()
        return (
            self._derive(self._handshake, b"c hs traffic", digest),
            self._derive(self._handshake, b"s hs traffic", digest),
        )

    def application_secrets(self) -> tuple[bytes, bytes]:
        """(client, server) traffic secrets; the transcript ends with the server's Finished."""
        suite = self.suite
        zeros, empty, _ = _constants(suite)
        self._master = hkdf_extract(suite.algorithm, self._derive(self._handshake, b"derived", empty), zeros)
        self._handshake = b""
        digest = self._exporter_hash = self.transcript.digest()
        return (
            self._derive(self._master, b"c ap traffic", digest),
            self._derive(self._master, b"s ap traffic", digest),
        )

    def verify_data(self, traffic_secret: bytes) -> bytes:
        """Content of a Finished message over the transcript so far (RFC 8446 §4.4.4)."""
        key = self._derive(traffic_secret, b"finished", b"")
        return hmac_digest(self.suite.algorithm, key, self.transcript.digest())

    def signed_by_server(self) -> bytes:
        """What the server's CertificateVerify signs; the transcript ends with Certificate."""
        digest: bytes = self.transcript.digest()
        return _SERVER_SIGNED + digest

    def signed_by_client(self) -> bytes:
        digest: bytes = self.transcript.digest()
        return _CLIENT_SIGNED + digest

    @property
    def exporter_secret(self) -> bytes:
        """exporter_master_secret; empty before application_secrets()."""
        if not self._exporter and self._master:
            self._exporter = self._derive(self._master, b"exp master", self._exporter_hash)
        return self._exporter

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """RFC 8446 §7.5. ValueError for a label over 249 bytes or more than 255 hashes of output."""
        suite = self.suite
        if not 0 <= len(label) <= EXPORT_LABEL_MAX:
            raise ValueError(f"an exporter label has at most {EXPORT_LABEL_MAX} bytes")
        if not 0 < length <= _HKDF_BLOCKS_MAX * suite.hash_length:
            raise ValueError(f"an exporter gives 1 to {_HKDF_BLOCKS_MAX * suite.hash_length} bytes")
        _, empty, _ = _constants(suite)
        secret = self._derive(self.exporter_secret, label, empty)
        digest = suite.new_hash(context).digest()
        return hkdf_expand_label(suite.algorithm, secret, b"exporter", digest, length)

    def forget_transcript(self) -> None:
        """After the handshake: only the exporter is still used."""
        self.exporter_secret  # noqa: B018
        self._master = self._handshake = b""
        self.transcript = None
