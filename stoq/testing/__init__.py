"""What programs over stoq need for their own tests: simulated pairs in virtual time, links with impairments,
certificates (stoq.testing.certificates), random scenarios (`python -m stoq.testing.replay --seed N`)."""

from stoq.io.sim import LinkConfig
from stoq.testing.pair import InvariantError, SimulatedPair
from stoq.testing.simstream import SimulatedStream

__all__ = ["InvariantError", "LinkConfig", "SimulatedPair", "SimulatedStream"]
