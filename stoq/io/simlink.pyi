from typing import final

from stoq.io.links import LinkConfig, LinkCounters

@final
class SimLink:
    config: LinkConfig
    @property
    def counters(self) -> LinkCounters: ...
