"""End-to-end benchmark over loopback sockets: `python -m perf.e2e --help`."""
