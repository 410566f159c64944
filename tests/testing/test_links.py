"""The named links of stoq.testing and the pair that they join."""

from __future__ import annotations

import pytest

from stoq.testing import links


@pytest.mark.parametrize("name", ["PERFECT", "LOCAL", "BROADBAND", "MOBILE", "SATELLITE", "HOSTILE"])
def test_named_links_carry_most_datagrams_both_ways(name: str) -> None:
    config = getattr(links, name)
    network, client, server = links.pair(3, config)
    for sender in (client, server):
        peer = server.local_address if sender is client else client.local_address
        for _ in range(100):
            sender.send_datagrams([(bytes(1200), peer)])
            network.advance(network.now + 10_000_000)
    network.advance(network.now + 1_000_000_000)
    for ends in ((client, server), (server, client)):
        counters = network.link(*ends).counters
        assert counters.offered == 100
        assert 50 < counters.delivered <= 120
        if name in ("PERFECT", "LOCAL"):
            assert counters.delivered == 100


def test_directions_may_differ_and_time_may_start_anywhere() -> None:
    network, client, server = links.pair(forward=links.LOCAL, backward=links.SATELLITE, start_ns=10**12)
    assert network.now == 10**12
    assert network.link(client, server).config is links.LOCAL
    assert network.link(server, client).config is links.SATELLITE
    assert client.remote_address == server.local_address
