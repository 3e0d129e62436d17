# SPDX-License-Identifier: Apache-2.0
"""Which ports of an app lead to which internal port of which process groups.

Nothing here depends on machines: tables and replies both start from
:func:`exposures`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flyebpf.config import DaemonConfig
from flyebpf.model.records import AddressKind, Deployment, Port, Service
from flyebpf.model.shared import misfit
from flyebpf.model.state import State
from flyebpf.plan.front import NOWHERE, Front, find_front
from flyebpf.plan.prefixes import parse_ipv4, within
from flyebpf.plan.site import Site

PROTOCOLS = {"tcp": 6, "udp": 17}
TCP = PROTOCOLS["tcp"]


@dataclass(frozen=True, slots=True)
class Exposure:
    """A port range of a service, on every VIP of its app.

    ``groups``: the process groups that serve it, sorted. ``number``: of the service
    in the deployment. ``sleeps``: its machines are stopped when nobody needs them, and
    the kernel could not hold a client that comes then.
    """

    number: int
    service: Service
    port: Port
    groups: tuple[str, ...]
    sleeps: bool = False

    @property
    def protocol(self) -> str:
        return self.service.protocol

    @property
    def first(self) -> int:
        return self.port.start

    @property
    def last(self) -> int:
        return self.port.end

    @property
    def internal_port(self) -> int:
        return self.service.internal_port

    @property
    def proxy(self) -> bool:
        """Whether it has handlers, or machines that sleep: the kernel cannot serve it."""
        return bool(self.port.handlers) or self.sleeps

    @property
    def proto(self) -> int:
        """The IP protocol number."""
        return PROTOCOLS[self.protocol]

    @property
    def ports(self) -> str:
        """``80``, or ``5000-5010``."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def name(self, app: str) -> str:
        """The service as users know it."""
        return f"{app}/{self.protocol}/{self.ports}"

    def counter(self, app: str, vip: str) -> str:
        """What its packets to one VIP are counted under. Flows hold on to it:
        when it goes, by the service or by the VIP, they end, and cannot reach
        this app when the VIP has another owner."""
        return f"{self.name(app)}@{vip}"

    def table(self, app: str) -> str:
        """The Maglev table of the machines that serve it; one of its own where
        checks of the service have a say in it."""
        own = f"/{self.number}" if self.service.checks else ""
        return f"{app}:{','.join(self.groups)}{own}"


def exposures(deployment: Deployment, problems: list[str], config: DaemonConfig) -> list[Exposure]:
    """Every port range of the services, as long as they do not overlap: of two
    that do, the first stays and the other becomes a problem."""
    wakes = config.proxy.engine != "none" and bool(config.machines.start)
    found: list[Exposure] = []
    taken: dict[str, list[tuple[int, int]]] = {}
    for number, service in enumerate(deployment.services):
        where = f"app {deployment.app}, services[{number}]"
        groups = _groups(deployment, service)
        if not groups:
            problems.append(
                f"{where}: names no process group and the app has "
                f"{', '.join(deployment.processes) or 'none'}: set processes and deploy again"
            )
            continue
        sleeps = wakes and _sleeps(service)
        for made in _ranges(number, service, groups, where, problems):
            exposure = replace(made, sleeps=sleeps)
            others = taken.setdefault(exposure.protocol, [])
            if overlap := _overlap(others, exposure):
                problems.append(
                    f"{where}: {exposure.protocol} port {exposure.ports} overlaps "
                    f"{overlap[0]}-{overlap[1]} of an earlier service: change one of them"
                )
                continue
            insort(others, (exposure.first, exposure.last))
            found.append(exposure)
    return found


DEDICATED = {AddressKind.V4: "pools.anycast_v4", AddressKind.V6: "pools.anycast_v6"}


def vips(site: Site, state: State, app: str, kind: AddressKind, problems: list[str]) -> list[str]:
    """The app's dedicated addresses of a kind in the pools of this host, by age."""
    usable = []
    for address in sorted(state.addresses_of(app), key=lambda a: (a.created, a.address)):
        if address.type is not kind:
            continue
        if not _in_pools(site, kind, address.address):
            problems.append(
                f"address {address.address} of app {app} is in no pool of this host: "
                f"add its pool to {DEDICATED[kind]}, or release it"
            )
            continue
        usable.append(address.address)
    return usable


def _in_pools(site: Site, kind: AddressKind, address: str) -> bool:
    if kind is AddressKind.V6:
        return any(address in pool for pool in site.anycast6)
    number = parse_ipv4(address)
    return number is not None and within(number, site.anycast)


@dataclass(frozen=True, slots=True)
class Routes:
    """What an app exposes, for its services as for its machines' replies.

    ``vips``: IPv4, ``vips6``: IPv6. ``ways``: how many (IPv4 VIP, external port)
    lead to each (group, protocol number, internal port) without the proxy.
    ``front``: where the proxy serves it.
    """

    app: str
    vips: list[str]
    vips6: list[str]
    exposures: list[Exposure]
    ways: dict[tuple[str, int, int], int]
    front: Front
    problems: list[str]

    @property
    def all_vips(self) -> list[str]:
        return [*self.vips, *self.vips6]

    def by_proxy(self, exposure: Exposure) -> bool:
        """Whether the proxy opens connections to the exposure's machines."""
        front = self.front
        if exposure.proto != TCP:
            return False
        if front.flycast or (front.own and exposure.proxy):
            return True
        if front.replays and "http" in exposure.port.handlers:
            return True
        return front.shared and misfit(exposure.service, exposure.port) is None

    def needs_reverse(self, exposure: Exposure) -> bool:
        """Whether a machine cannot tell from (protocol, internal port) alone
        which IPv4 address and port a client has used. To the proxy it answers as to
        any client."""
        if exposure.proxy:
            return False
        proto, port = exposure.proto, exposure.internal_port
        return any(self.ways[group, proto, port] > 1 for group in exposure.groups)


class Router:
    """Plans the routes of apps. The last one is kept: its app's machines are
    planned next as a rule, and all of them need it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._last: tuple[State, int, str, Routes] | None = None

    def routes(self, state: State, app: str) -> Routes:
        """Nothing is exposed where the app is gone or unreadable."""
        if self._last is not None:
            of, version, name, found = self._last
            if name == app and version == state.version and of is state:
                return found
        found = routes(self._site, state, app)
        self._last = (state, state.version, app, found)
        return found


def routes(site: Site, state: State, app: str) -> Routes:
    """The routes of an app, planned anew."""
    problems: list[str] = []
    deployment = state.deployments.get(app)
    if app not in state.apps:
        if deployment is not None or state.has_addresses(app):
            problems.append(
                f"app {app} is missing or unreadable, so its addresses lead nowhere: "
                f"create it again, or release its addresses"
            )
        return Routes(app, [], [], [], {}, NOWHERE, problems)
    addresses = vips(site, state, app, AddressKind.V4, problems)
    addresses6 = vips(site, state, app, AddressKind.V6, problems)
    exposed = exposures(deployment, problems, site.config) if deployment else []
    front = find_front(site, state, app, [*addresses, *addresses6], problems)
    ways: dict[tuple[str, int, int], int] = {}
    for exposure in exposed:
        if exposure.proxy:
            continue
        count = len(addresses) * (exposure.last - exposure.first + 1)
        for group in exposure.groups:
            key = (group, exposure.proto, exposure.internal_port)
            ways[key] = ways.get(key, 0) + count
    return Routes(app, addresses, addresses6, exposed, ways, front, problems)


def _groups(deployment: Deployment, service: Service) -> tuple[str, ...]:
    """The service's process groups; without any, the app's only one."""
    if service.processes:
        return tuple(sorted(set(service.processes)))
    return deployment.processes if len(deployment.processes) == 1 else ()


def _ranges(
    number: int, service: Service, groups: tuple[str, ...], where: str, problems: list[str]
) -> Iterator[Exposure]:
    if service.protocol not in PROTOCOLS or not _is_port(service.internal_port):
        problems.append(
            f"{where}: {service.protocol} to internal port {service.internal_port} "
            f"is impossible: correct the service and deploy again"
        )
        return
    for port in service.ports:
        if not _is_range(port):
            problems.append(
                f"{where}: ports {port.start}-{port.end} are impossible: "
                f"correct the service and deploy again"
            )
            continue
        yield Exposure(number, service, port, groups)


def _sleeps(service: Service) -> bool:
    return service.protocol == "tcp" and service.auto_start and service.auto_stop != "off"


def _is_port(number: int) -> bool:
    return 1 <= number <= 65535


def _is_range(port: Port) -> bool:
    return _is_port(port.start) and _is_port(port.end) and port.start <= port.end


def _overlap(taken: list[tuple[int, int]], new: Exposure) -> tuple[int, int] | None:
    """One of the disjoint, sorted ranges that shares a port with ``new``."""
    at = bisect_left(taken, (new.last + 1, 0))
    if at and taken[at - 1][1] >= new.first:
        return taken[at - 1]
    return None
