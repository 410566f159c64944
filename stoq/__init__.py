"""QUIC and TLS 1.3 for Python on Linux."""

__version__ = "0.1.0"
