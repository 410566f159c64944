"""qh3 as a peer."""

from __future__ import annotations

from perf.peers import harness
from perf.peers._aioquic_face import peer

if __name__ == "__main__":
    harness.main(peer("qh3"))
