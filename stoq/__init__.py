"""QUIC and TLS 1.3 for Python on Linux.

connect() and serve() are the native API on asyncio. Errors: stoq.errors. Simulated networks: stoq.testing.
"""

from stoq.endpoint.capabilities import Capabilities, capabilities
from stoq.endpoint.client import connect
from stoq.endpoint.connection import Connection
from stoq.endpoint.options import Configuration
from stoq.endpoint.server import Server, serve
from stoq.endpoint.stream import Stream
from stoq.errors import StoqError

__version__ = "0.1.0"

__all__ = [
    "Capabilities",
    "Configuration",
    "Connection",
    "Server",
    "StoqError",
    "Stream",
    "__version__",
    "capabilities",
    "connect",
    "serve",
]
