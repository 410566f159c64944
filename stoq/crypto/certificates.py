"""Everything about certificates under one name: ours, the peers', whom we trust, and authorities for tests."""

from stoq.crypto.authority import Issued, make_leaf, make_test_ca
from stoq.crypto.chain import CERTIFICATE_CHAIN_MAX, ChainError, ChainProblem, PeerChain
from stoq.crypto.credentials import CertificateError, Credentials
from stoq.crypto.trust import SYSTEM_TRUST_PATHS, TrustStore, subject_of

__all__ = [
    "CERTIFICATE_CHAIN_MAX",
    "SYSTEM_TRUST_PATHS",
    "CertificateError",
    "ChainError",
    "ChainProblem",
    "Credentials",
    "Issued",
    "PeerChain",
    "TrustStore",
    "make_leaf",
    "make_test_ca",
    "subject_of",
]
