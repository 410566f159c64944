"""Certificates for tests and development: an authority, and what it signs."""

from stoq.crypto.authority import Issued, make_leaf, make_test_ca

__all__ = ["Issued", "make_leaf", "make_test_ca"]
