# SPDX-License-Identifier: Apache-2.0
"""Hosts that allocate at once through etcd, one of whose members is killed and
one of which is stopped meanwhile: nothing has two owners, and what was
acknowledged is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from flyebpf import join
from flyebpf.config import DaemonConfig, ProxyConfig
from flyebpf.errors import FlyebpfError
from flyebpf.join import Newcomer
from flyebpf.model import sixpn
from flyebpf.model.records import (
    Address,
    AddressKind,
    Host,
    Interface,
    JoinToken,
    Machine,
    Network,
    PrivateAddress,
    WireguardPeer,
)
from flyebpf.ops import addresses, apps, cluster, flycast, machines, moves, orgs, tokens, wireguard
from flyebpf.ops.transact import every
from flyebpf.store.etcd import EtcdStore
from tests.etcdrig import EtcdCluster, etcd
from tests.stores import add_host, config

HOSTS = 4
EACH = 15
PATIENCE = 40.0  # seconds
T = TypeVar("T")


@pytest.fixture
def members(tmp_path: Path) -> Iterator[EtcdCluster]:
    with etcd(tmp_path, 3) as running:
        yield running


def settings(number: int) -> DaemonConfig:
    return config(pool="198.18.0.0/16", host=f"h{number}", block=f"172.16.{16 * number}.0/20")


def insist(operation: Callable[[], T]) -> T:
    """Until it is acknowledged, as an operator would."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return operation()
        except FlyebpfError as error:
            if error.code != "unavailable" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def work(store: EtcdStore, number: int) -> list[object]:
    """What host ``number`` does; what was acknowledged."""
    mine: list[object] = []
    own, other = settings(number), f"h{number % HOSTS + 1}"
    proxied = replace(own, proxy=ProxyConfig("envoy"))
    for index in range(EACH):
        name = f"x{number}-{index}"
        app = insist(lambda name=name: created(store, name))
        mine.append(insist(lambda app=app: addresses.allocate_v4(store, own, app)))
        mine.append(
            insist(lambda app=app: flycast.allocate(store, proxied, app, network="default"))
        )
        machine = insist(
            lambda app=app, index=index: machines.add(
                store, own, app, interface=f"t{index}", mac="02:00:00:00:00:01"
            )
        )
        if index % 2:
            there = f"n{number}-{index}"
            machine = insist(
                lambda ident=machine.id, there=there: moves.move(
                    store, own, ident, host=other, interface=there
                )
            )
        mine.append(machine)
        mine.append(insist(lambda name=name: wireguard.create(store, own, name, "acme").peer))
    return mine


def created(store: EtcdStore, name: str) -> str:
    """The app, on a network of its own; one that an attempt without an answer
    has made is the same."""
    try:
        return apps.create(store, name, "acme", network=name).name
    except FlyebpfError as error:
        if error.code != "conflict":
            raise
        return name


def test_hosts_allocate_at_once(members: EtcdCluster) -> None:
    stores = [EtcdStore(members.config()) for _ in range(HOSTS)]
    for number in range(1, HOSTS + 1):
        add_host(stores[0], number)
    orgs.create(stores[0], "acme")
    with ThreadPoolExecutor(HOSTS) as threads:
        jobs = [threads.submit(work, store, n + 1) for n, store in enumerate(stores)]
        time.sleep(0.5)
        members.members[0].kill()
        time.sleep(1)
        members.start()
        members.wait()
        members.members[1].stop()
        time.sleep(1)
        members.members[1].go_on()
        acknowledged = [record for job in jobs for record in job.result(PATIENCE)]
    check(stores[-1], acknowledged)
    for store in stores:
        store.close()


def check(store: EtcdStore, acknowledged: list[object]) -> None:
    found = every(store, Machine)
    there = {record.ident for record in found}
    private = [address for m in found for address in (m.private_ip, m.services_ip)]
    assert len(set(private)) == len(private)
    assert {record.address for record in every(store, PrivateAddress)} == set(private)
    assert len({m.number for m in found}) == len(found)
    assert {(i.host, i.interface, i.machine) for i in every(store, Interface)} == {
        (m.host, m.interface, m.id) for m in found
    }
    networks = [network.number for network in every(store, Network)]
    assert len(set(networks)) == len(networks) == HOSTS * EACH + 1
    peers = every(store, WireguardPeer)
    assert len({peer.address for peer in peers}) == len(peers) == HOSTS * EACH
    given = {record.address: record for record in every(store, Address)}
    on_default = [a.address for a in given.values() if a.type is AddressKind.PRIVATE_V6]
    (default,) = (n.number for n in every(store, Network) if n.name == "default")
    numbers = range(1, HOSTS * EACH + 1)
    assert set(on_default) == {sixpn.flycast_address(default, number) for number in numbers}
    for record in acknowledged:
        if isinstance(record, Address):
            assert given[record.address] == record
        elif isinstance(record, Machine):
            assert record.id in there
        else:
            assert record in peers


def test_hosts_join_at_once(members: EtcdCluster, tmp_path: Path) -> None:
    own = replace(settings(1), store="etcd", etcd=members.config())
    with closing(EtcdStore(members.config())) as store:
        cluster.ensure(store, own)
        made = [tokens.create(store, own, 60).token for _ in range(HOSTS)]

        def enter(number: int) -> join.Joined:
            newcomer = Newcomer(f"n{number}", "ams", ("lo0",))
            return join.with_token(made[number], newcomer, tmp_path / f"{number}.toml")

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(HOSTS) as threads:
            patch.setattr("flyebpf.join.socket.if_nameindex", lambda: [(1, "lo0")])
            joined = [one.host for one in threads.map(enter, range(HOSTS))]
        hosts = every(store, Host)
        assert {host.name for host in hosts} == {"h1", *(host.name for host in joined)}
        assert len({host.number for host in hosts}) == HOSTS + 1
        assert all(host.number >= sixpn.HOST_BIT for host in hosts)
        blocks = sorted(IPv4Network(host.block) for host in hosts)
        assert not any(a.overlaps(b) for a, b in pairwise(blocks))
        assert every(store, JoinToken) == []


def test_one_token_lets_one_host_in(members: EtcdCluster, tmp_path: Path) -> None:
    own = replace(settings(1), store="etcd", etcd=members.config())
    with closing(EtcdStore(members.config())) as store:
        cluster.ensure(store, own)
        token = tokens.create(store, own, 60).token

        def enter(number: int) -> str:
            """What it is told; "" when it is let in."""
            newcomer = Newcomer(f"n{number}", "ams", ("lo0",))
            try:
                join.with_token(token, newcomer, tmp_path / f"{number}.toml")
            except FlyebpfError as error:
                return error.message
            return ""

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(HOSTS) as threads:
            patch.setattr("flyebpf.join.socket.if_nameindex", lambda: [(1, "lo0")])
            told = sorted(threads.map(enter, range(HOSTS)))
        assert told[0] == ""
        assert all("does not know the token" in message for message in told[1:])
        assert len(every(store, Host)) == 2
        assert len(list(tmp_path.glob("*.toml"))) == 1
