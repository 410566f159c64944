"""Instruction counts per packet, request and handshake: `python -m perf.icount --help`."""
