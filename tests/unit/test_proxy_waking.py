# SPDX-License-Identifier: Apache-2.0
"""Connections that wait for a machine."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from flyebpf.drivers import proxy_naps
from flyebpf.model.proxyrows import ProxyClusterRow, ProxyEndpoint
from flyebpf.proxy import wake
from flyebpf.proxy.table import Table
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
    """While none takes connections; after those that go on with theirs. Later it stays
    for those who came that way, and the next time it is another one."""
    serves = ProxyEndpoint("m1", "172.16.0.2", 8080, "ams")
    drains = ProxyEndpoint("m1", "172.16.0.2", 8080, "ams", draining=True)
    table = Table()

    def found(*ends: ProxyEndpoint, wakes: bool = True) -> list[tuple[int, str, str]]:
        table.put(ProxyClusterRow("web/8080:app", "web", ends, http=True, wakes=wakes))
        bodies = [json.loads(body) for kind, _, body in table.changes()[0] if kind == "endpoints"]
        return [
            (group["priority"], ident(member["endpoint"]["address"]), member.get("health_status"))
            for body in bodies
            for group in body["endpoints"]
            for member in group["lb_endpoints"]
        ]

    def ident(address: dict[str, Any]) -> str:
        inner = address.get("envoy_internal_address")
        return inner["endpoint_id"] if inner else address["socket_address"]["address"]

    machine, drained = (0, "172.16.0.2", None), (0, "172.16.0.2", "DRAINING")
    assert found(serves) == [machine]
    assert found(drains) == [drained, (1, "web/8080:app#1", None)]
    assert found() == [(0, "web/8080:app#1", None)]
    assert found(serves) == [machine, (1, "web/8080:app#1", "DRAINING")]
    assert found(drains) == [
        drained,
        (1, "web/8080:app#2", None),
        (1, "web/8080:app#1", "DRAINING"),
    ]
    assert found(serves, wakes=False) == [machine]


def test_clients_of_the_daemon_before(tmp_path: Path) -> None:
    """Envoy still has them, by the number of the time when their machine slept."""
    row = ProxyClusterRow("web/8080:app", "web", (), http=True, wakes=True)
    awake = replace(row, endpoints=(ProxyEndpoint("m1", "172.16.0.2", 8080, "ams"),))
    before, path = Table(), tmp_path / "naps.json"
    for found in (row, awake, row, awake, replace(row, name="gone")):
        before.put(found)
    before.remove(ProxyClusterRow, "gone")
    assert before.naps_changed
    proxy_naps.write(path, before.naps())
    assert not before.naps_changed
    assert proxy_naps.read(path) == {row.name: 2}
    after = Table(naps=proxy_naps.read(path))
    after.put(awake)
    (body,) = (body for kind, _, body in after.changes()[0] if kind == "endpoints")
    assert f"{row.name}#2" in body
    assert not after.naps_changed


def test_naps_that_nobody_can_read(tmp_path: Path) -> None:
    path = tmp_path / "naps.json"
    assert proxy_naps.read(path) == {}
    for text in ("", "[]", '{"web": "x"}'):
        path.write_text(text)
        assert proxy_naps.read(path) == {}


def test_whose_clients_they_are() -> None:
    assert wake.cluster_of("envoy://wake/web/8080:app+tcp#12") == "web/8080:app+tcp"
    assert wake.cluster_of("203.0.113.1:80") == wake.cluster_of("") == ""
