from typing import Any

from stoq.connection.stream import StreamHandle

class SimulatedStream(StreamHandle):
    handler: Any
    note: Any
    def notify_writable(self, low_water: int) -> None: ...
