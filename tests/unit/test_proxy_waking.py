# SPDX-License-Identifier: Apache-2.0
"""Connections that wait for a machine."""

from __future__ import annotations

import asyncio

from flyebpf.model.proxyrows import ProxyClusterRow, ProxyEndpoint
from flyebpf.proxy import resources, wake
from flyebpf.proxy.waking import HELD, Waking

ADDRESS = {wake.MACHINE_HEADER: "172.16.0.2:8080"}


def test_the_daemon_is_asked_once() -> None:
    asked: list[str] = []

    async def ask() -> None:
        waking = Waking(asked.append)
        tasks = [asyncio.ensure_future(waking.where(name)) for name in ("web", "web", "db")]
        await asyncio.sleep(0)
        assert asked == ["web", "db"]
        waking.woken("web", ADDRESS)
        assert await tasks[0] == await tasks[1] == ADDRESS
        assert not tasks[2].done()
        tasks.append(asyncio.ensure_future(waking.where("web")))
        await asyncio.sleep(0)
        assert asked == ["web", "db", "web"]
        waking.woken("web", {wake.REFUSED_HEADER: "late"})
        waking.woken("db", ADDRESS)
        waking.woken("nobody", ADDRESS)
        await asyncio.gather(*tasks)

    asyncio.run(ask())


def test_a_client_that_goes_away() -> None:
    async def ask() -> None:
        waking = Waking(lambda _: None)
        gone, stays = (asyncio.ensure_future(waking.where("web")) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        waking.woken("web", ADDRESS)
        assert await stays == ADDRESS

    asyncio.run(ask())


def test_too_many() -> None:
    async def ask() -> None:
        waking = Waking(lambda _: None)
        tasks = [asyncio.ensure_future(waking.where("web")) for _ in range(HELD + 1)]
        assert await tasks[-1] == {wake.REFUSED_HEADER: "full"}
        waking.woken("web", ADDRESS)
        await asyncio.gather(*tasks)

    asyncio.run(ask())


def test_where_an_endpoint_stands_for_machines() -> None:
    """While none takes connections; after those that go on with theirs."""
    serves = ProxyEndpoint("m1", "172.16.0.2", 8080, "ams")
    drains = ProxyEndpoint("m1", "172.16.0.2", 8080, "ams", draining=True)

    def priorities(*endpoints: ProxyEndpoint, wakes: bool = True) -> list[tuple[int, str]]:
        row = ProxyClusterRow("web/8080:app", "web", endpoints, http=True, wakes=wakes)
        groups = resources.endpoints(row, row.name).body["endpoints"]
        return [
            (group["priority"], kind)
            for group in groups
            for member in group["lb_endpoints"]
            for kind in member["endpoint"]["address"]
        ]

    waker = "envoy_internal_address"
    assert priorities() == [(0, waker)]
    assert priorities(wakes=False) == []
    assert priorities(serves) == [(0, "socket_address")]
    assert priorities(drains) == [(0, "socket_address"), (1, waker)]
    assert priorities(serves, drains) == [(0, "socket_address")] * 2
