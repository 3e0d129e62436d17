# SPDX-License-Identifier: Apache-2.0
"""Records and states for tests, with everything that a test does not care about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flyebpf.config import DaemonConfig, MeshConfig, PoolsConfig, ProxyConfig
from flyebpf.model.certificates import KeyPair
from flyebpf.model.codec import encode
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Cluster,
    Deployment,
    Host,
    Machine,
    Network,
    Port,
    Service,
)
from flyebpf.model.sixpn import HOST_BIT, flycast_address
from flyebpf.model.state import State
from flyebpf.store.base import Change, Entry

CONFIG = DaemonConfig(
    host="h1",
    region="ams",
    uplinks=("eth0",),
    pools=PoolsConfig(anycast_v4=("203.0.113.0/24",)),
)
CLUSTER = Cluster(seed=0xDEADBEEF)
NETWORK = Network("acme", "default", 7)
HERE = Host("h1", HOST_BIT | 1, "ams", "172.16.0.0/20")
THERE = Host("h2", HOST_BIT | 2, "fra", "172.16.16.0/20")
MESH = replace(CONFIG, mesh=MeshConfig(underlay="wireguard", endpoint="192.0.2.1"))
"""Of host h1 in a cluster."""
PROXY = replace(
    MESH,
    pools=PoolsConfig(("203.0.113.0/24",), ("2001:db8::/64",), ("198.51.100.0/30",)),
    proxy=ProxyConfig("envoy"),
)
"""The same with a proxy."""


def host(number: int, /, region: str = "ams", **values: Any) -> Host:
    """Host ``h<number>`` of a cluster, with a number, block, endpoint and key of
    its own. Its block holds the addresses of :func:`machine` only for h1."""
    made = Host(
        name=f"h{number}",
        number=HOST_BIT | number,
        region=region,
        block=f"172.{16 + number // 16}.{number % 16 * 16 - 16}.0/20",
        underlay="wireguard",
        endpoint=f"192.0.2.{number}",
        port=51820,
        keys={"0": f"key0-{number}"},
    )
    return replace(made, **values)


def machine(number: int, /, app: str = "web", **values: Any) -> Machine:
    """Machine ``number`` of host h1, with an id, interface, MAC and addresses of
    its own."""
    made = Machine(
        id=f"{number:014x}",
        app=app,
        host="h1",
        region="ams",
        interface=f"tap{number}",
        mac=f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
        private_ip=f"172.16.{number >> 7}.{number % 128 * 2}",
        services_ip=f"172.16.{number >> 7}.{number % 128 * 2 + 1}",
        number=100 + number,
    )
    return replace(made, **values)


def service(
    *ports: int | tuple[int, int],
    to: int = 8080,
    protocol: str = "tcp",
    groups: tuple[str, ...] = (),
    handlers: tuple[str, ...] = (),
) -> Service:
    ranges = [(port, port) if isinstance(port, int) else port for port in ports]
    return Service(protocol, to, tuple(Port(a, b, handlers) for a, b in ranges), processes=groups)


def deployment(
    *services: Service, app: str = "web", processes: tuple[str, ...] = ("app",)
) -> Deployment:
    return Deployment(app, services, processes=processes)


def address(
    text: str = "203.0.113.1", app: str = "web", type: AddressKind = AddressKind.V4
) -> Address:
    return Address(text, app, type)


def shared(app: str = "web", text: str = "198.51.100.1") -> Address:
    return Address(text, app, AddressKind.SHARED_V4)


def flycast(app: str = "web", number: int = 1, network: Network = NETWORK) -> Address:
    """An address of the app for callers on a network."""
    text = flycast_address(network.number, number)
    return Address(text, app, AddressKind.PRIVATE_V6, network.name, org=network.org)


def pair(hostname: str, app: str = "web") -> KeyPair:
    """One whose chain and key say whose they are."""
    return KeyPair(hostname, app, f"chain of {hostname}", f"key of {hostname}")


def web(*more: AnyRecord) -> State:
    """App web on 203.0.113.1:80, with the records of ``more``."""
    return state(App("web", "acme"), address(), deployment(service(80)), *more)


def state(*records: AnyRecord) -> State:
    """The state of these records, the cluster's, this host's and one network's;
    later ones replace."""
    by_id = {(r.kind, r.ident): r for r in (CLUSTER, NETWORK, HERE, *records)}
    return State.load(1, [Entry(r.kind, r.ident, encode(r), 1) for r in by_id.values()])


def put(state: State, record: AnyRecord) -> Change:
    """The change that writes ``record`` next."""
    return Change(state.revision + 1, record.kind, record.ident, encode(record))


def delete(state: State, record: AnyRecord) -> Change:
    """The change that deletes ``record`` next."""
    return Change(state.revision + 1, record.kind, record.ident, None)
