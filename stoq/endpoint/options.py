"""Configurations from the keyword arguments of connect() and serve()."""

from __future__ import annotations

import copy
import dataclasses
import errno
import functools
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stoq.connection.configuration import Configuration
from stoq.crypto.credentials import Credentials
from stoq.crypto.trust import TrustStore
from stoq.errors import ConfigurationError
from stoq.tls import TlsConfiguration

__all__ = ["Configuration", "client_configuration", "server_configuration"]

PathOrPem = str | os.PathLike[str] | bytes
Keylog = str | os.PathLike[str] | bool | Callable[[str], None] | None

TLS_OPTIONS = ("cipher_suites", "groups", "signature_schemes", "key_shares")
CONFIGURATIONS_KEPT = 32
TRUST_STORES_KEPT = 16


class KeylogFile:
    """Appends lines of the NSS key log format to a file that only its owner can read.

    Opened for each line: a few per handshake, and nothing to close. A file of ours that others can read loses those
    permissions; symbolic links, files of other users and anything but regular files are refused (ConfigurationError).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self("# TLS secrets, written by stoq")  # fails now, not in the middle of a handshake

    def __call__(self, line: str) -> None:
        data = line.encode("ascii") + b"\n"
        # O_NONBLOCK: opening a FIFO without a reader would wait for one. It changes nothing for a regular file.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags, 0o600)
            try:
                self._make_private(descriptor)
                written = os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise ConfigurationError(f"cannot write the key log {self.path}: {reason}") from None
        if written != len(data):
            raise ConfigurationError(f"cannot write the key log {self.path}: no space left")

    def _make_private(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"cannot write the key log {self.path}: it is not a regular file")
        if status.st_uid != os.geteuid():
            raise ConfigurationError(f"cannot write the key log {self.path}: it belongs to another user")
        if status.st_mode & 0o077:
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o700)


@functools.lru_cache(maxsize=TRUST_STORES_KEPT)
def _keylog_file(path: str) -> KeylogFile:
    return KeylogFile(path)


def keylog_callable(keylog: Keylog) -> Callable[[str], None] | None:
    """None or False: no log. True: to the file that SSLKEYLOGFILE names, if it does. Else a path or a callable."""
    if keylog is True:
        keylog = os.environ.get("SSLKEYLOGFILE") or None
    if keylog is None or keylog is False:
        return None
    if isinstance(keylog, (str, os.PathLike)):
        return _keylog_file(os.fspath(keylog))
    if not callable(keylog):
        raise ConfigurationError(f"keylog is a path, True or a callable, not {keylog!r}")
    return keylog


@functools.lru_cache(maxsize=TRUST_STORES_KEPT)
def _trust_of_file(path: str, modified_ns: int, size: int) -> TrustStore:
    return TrustStore.from_file(path)


@functools.lru_cache(maxsize=TRUST_STORES_KEPT)
def _trust_of_pem(data: bytes) -> TrustStore:
    return TrustStore.from_pem(data)


@functools.lru_cache(maxsize=1)
def _system_trust() -> TrustStore:
    return TrustStore.system()


def trust_store(ca_file: str | os.PathLike[str] | None, ca_data: bytes | str | None) -> TrustStore:
    """The anchors of a PEM file or text; the system's when neither is given. Kept, since stores remember chains."""
    if ca_file is not None and ca_data is not None:
        raise ConfigurationError("give ca_file or ca_data, not both")
    if ca_data is not None:
        return _trust_of_pem(ca_data.encode() if isinstance(ca_data, str) else bytes(ca_data))
    if ca_file is None:
        return _system_trust()
    try:
        status = os.stat(ca_file)
    except OSError as error:
        raise ConfigurationError(f"{os.fspath(ca_file)}: {error.strerror}") from None
    return _trust_of_file(os.fspath(ca_file), status.st_mtime_ns, status.st_size)


def credentials_of(certificate: PathOrPem | Credentials | None, private_key: PathOrPem | None) -> Credentials | None:
    """Paths of PEM files, or PEM texts as bytes; the key may stand in the certificate's file."""
    if certificate is None:
        if private_key is not None:
            raise ConfigurationError("a private key needs its certificate")
        return None
    if isinstance(certificate, Credentials):
        return certificate
    key = certificate if private_key is None else private_key
    if isinstance(certificate, bytes) and isinstance(key, bytes):
        return Credentials.from_pem(certificate, key)
    if isinstance(certificate, bytes) or isinstance(key, bytes):
        raise ConfigurationError("give certificate and private_key both as paths or both as PEM bytes")
    return Credentials.from_files(Path(certificate), Path(key))


def alpn_list(alpn: str | Sequence[str] | None) -> list[str] | None:
    if alpn is None:
        return None
    return [alpn] if isinstance(alpn, str) else list(alpn)


def merged(
    configuration: Configuration | None, is_client: bool, tls: dict[str, Any], options: dict[str, Any]
) -> Configuration:
    """A Configuration: the given one (or the defaults) with these fields replaced. ConfigurationError."""
    known = {f.name for f in dataclasses.fields(Configuration)} - {"tls", "allow_null"}
    rest: dict[str, Any] = {}
    for name, value in options.items():
        if name in TLS_OPTIONS:
            tls[name] = value
        elif name in known:
            rest[name] = value
        else:
            known_names = ", ".join(sorted(known | set(TLS_OPTIONS)))
            raise ConfigurationError(f"unknown option {name!r}; there are {known_names}")
    try:
        return replaced(configuration, is_client, tls, rest)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(str(error)) from None


def replaced(
    configuration: Configuration | None, is_client: bool, tls: dict[str, Any], rest: dict[str, Any]
) -> Configuration:
    if configuration is None:
        return Configuration(TlsConfiguration(is_client=is_client, **tls), **rest)
    if configuration.tls.is_client != is_client:
        raise ConfigurationError("the configuration is for the other side")
    if tls:
        changed = {f.name: getattr(configuration.tls, f.name) for f in dataclasses.fields(TlsConfiguration)} | tls
        rest["tls"] = TlsConfiguration(**changed)
    return dataclasses.replace(configuration, **rest) if rest else configuration


def fresh(kept: Configuration) -> Configuration:
    """A copy that shares the encoded pieces and nothing that can be changed: the caller may assign to it."""
    made = copy.copy(kept)
    made.knobs = dict(kept.knobs)
    made.tls = copy.copy(kept.tls)
    # Not by assignment, which would drop the encoded pieces.
    fields = made.tls.__dict__
    fields.update([(name, list(value)) for name, value in fields.items() if type(value) is list])
    return made


_client_configurations: dict[Any, Configuration] = {}


def client_configuration(
    host: str,
    *,
    alpn: str | Sequence[str] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    ca_data: bytes | str | None = None,
    verify: bool | None = None,
    server_name: str | None = None,
    certificate: PathOrPem | Credentials | None = None,
    private_key: PathOrPem | None = None,
    keylog: Keylog = None,
    configuration: Configuration | None = None,
    **rest: Any,
) -> Configuration:
    """What connect(host, ...) needs. Equal arguments give equal objects that share their encoded pieces."""
    tls: dict[str, Any] = {}
    names = alpn_list(alpn)
    if names is not None:
        tls["alpn_protocols"] = names
    if verify is not None:
        tls["verify"] = verify
    base = configuration.tls if configuration is not None else None
    if server_name is not None or base is None or base.server_name is None:
        tls["server_name"] = server_name or host.partition("%")[0]
    verifies = verify if verify is not None else base.verify if base is not None else True
    if ca_file is not None or ca_data is not None or (verifies and (base is None or base.trust is None)):
        tls["trust"] = trust_store(ca_file, ca_data)
    log = keylog_callable(keylog)
    if log is not None:
        tls["keylog"] = log
    key: Any = None
    if configuration is None and certificate is None and private_key is None:
        parts = [(name, tuple(value) if isinstance(value, list) else value) for name, value in (tls | rest).items()]
        try:
            key = tuple(sorted(parts, key=lambda part: part[0]))
            found = _client_configurations.get(key)
        except TypeError:  # something that cannot be hashed: made anew each time
            key = found = None
        if found is not None:
            return fresh(found)
    credentials = credentials_of(certificate, private_key)
    if credentials is not None:
        tls["credentials"] = credentials
    made = merged(configuration, True, tls, rest)
    made.tls.prepared()
    if key is not None:
        if len(_client_configurations) >= CONFIGURATIONS_KEPT:
            _client_configurations.clear()
        _client_configurations[key] = fresh(made)
    return made


def server_configuration(
    *,
    alpn: str | Sequence[str] | None = None,
    certificate: PathOrPem | Credentials | None = None,
    private_key: PathOrPem | None = None,
    keylog: Keylog = None,
    configuration: Configuration | None = None,
    **rest: Any,
) -> Configuration:
    """What serve(...) needs."""
    tls: dict[str, Any] = {}
    names = alpn_list(alpn)
    if names is not None:
        tls["alpn_protocols"] = names
    credentials = credentials_of(certificate, private_key)
    if credentials is not None:
        tls["credentials"] = credentials
    log = keylog_callable(keylog)
    if log is not None:
        tls["keylog"] = log
    made = merged(configuration, False, tls, rest)
    made.tls.prepared()
    return made
