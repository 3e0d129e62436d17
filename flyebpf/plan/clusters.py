# SPDX-License-Identifier: Apache-2.0
"""Rows of clusters: an app's machines as the proxy reaches them."""

from __future__ import annotations

from hashlib import blake2b

from flyebpf.model.proxyrows import (
    HTTP_CHAINS,
    Chain,
    ProxyClusterRow,
    ProxyEndpoint,
    ProxyTargetRow,
)
from flyebpf.model.records import Machine, MachineState, Port
from flyebpf.model.state import State
from flyebpf.plan.checks import check_names, fails
from flyebpf.plan.hosts import Hosts
from flyebpf.plan.machines import misfit
from flyebpf.plan.services import Exposure
from flyebpf.plan.site import Site

LONGEST_GROUPS = 256
_CHAINS = {
    frozenset(): Chain.RAW,
    frozenset(("http",)): Chain.HTTP,
    frozenset(("tls",)): Chain.TLS,
    frozenset(("http", "tls")): Chain.HTTPS,
    frozenset(("pg_tls",)): Chain.PG_TLS,
}


def chain_of(port: Port) -> Chain | None:
    """What the proxy does with the port's connections; None for handlers that
    contradict each other, which ``deploy`` refuses."""
    return _CHAINS.get(frozenset(port.handlers) - {"proxy_proto"})


class Clusters:
    """The clusters of one app, each made at its first use."""

    def __init__(self, site: Site, state: State, hosts: Hosts, app: str) -> None:
        self._site = site
        self._state = state
        self._hosts = hosts
        self._app = app
        self._machines = _present(site, state, hosts, app)
        self._soon: dict[tuple[str, int], ProxyTargetRow] = {}
        self.rows: dict[str, ProxyClusterRow] = {}

    def name(self, exposure: Exposure, chain: Chain) -> str:
        """The cluster of an exposure whose connections arrive by ``chain``."""
        row = self._row(exposure, chain)
        have = self.rows.setdefault(row.name, row)
        if have != row:  # another service to the same port, with limits of its own
            row = self._row(exposure, chain, f"+s{exposure.number}")
            self.rows.setdefault(row.name, row)
        return row.name

    def _row(self, exposure: Exposure, chain: Chain, more: str = "") -> ProxyClusterRow:
        http = chain in HTTP_CHAINS
        options, port = exposure.port.http_options, exposure.port
        h2 = http and options is not None and options.h2_backend
        proxy_proto = port.proxy_proto_version if "proxy_proto" in port.handlers else ""
        name = f"{self._app}/{exposure.internal_port}:{_text(exposure.groups)}"
        name += ("" if http else "+tcp") + ("+h2" if h2 else "")
        name += (f"+{proxy_proto}" if proxy_proto else "") + more
        limits = exposure.service.concurrency
        endpoints = self._endpoints(exposure)
        return ProxyClusterRow(
            name,
            self._app,
            endpoints,
            http,
            h2=h2,
            proxy_proto=proxy_proto,
            limit=limits.type,
            soft=limits.soft_limit,
            hard=limits.hard_limit,
            watched=self._is_watched(exposure, endpoints, proxy_proto),
            port=exposure.internal_port,
            groups=exposure.groups,
            wakes=self._wakes(exposure),
        )

    def _wakes(self, exposure: Exposure) -> bool:
        """Whether there is a machine that could be started for a client."""
        return exposure.service.auto_start and any(
            machine.group in exposure.groups and self._hosts.has_command(machine.host, "start")
            for machine in self._state.machines_of(self._app)
        )

    def _is_watched(
        self, exposure: Exposure, endpoints: tuple[ProxyEndpoint, ...], proxy_proto: str
    ) -> bool:
        """Whether anything follows from how much the machines have to do: machines
        that may be started or stopped for it, another region that helps out, a limit
        that Envoy does not keep by itself."""
        service = exposure.service
        if service.auto_stop != "off":
            return True
        if service.auto_start and any(
            machine.group in exposure.groups and machine.state is not MachineState.STARTED
            for machine in self._state.machines_of(self._app)
        ):
            return True
        limited = service.concurrency.hard_limit is not None
        return limited and (bool(proxy_proto) or any(e.priority for e in endpoints))

    def _endpoints(self, exposure: Exposure) -> tuple[ProxyEndpoint, ...]:
        """The nearest region's first. A machine whose host's daemon is gone gets new
        connections only when there is no other: that says little about the machine,
        whose connections go on."""
        found = [m for m in self._machines if m.group in exposure.groups]
        port = exposure.internal_port
        for machine in found:
            if machine.state is MachineState.STARTING:
                row = ProxyTargetRow(machine.private_ip, port, machine.id)
                self._soon[machine.private_ip, port] = row
        found = [m for m in found if m.state is not MachineState.STARTING]
        number = exposure.number
        checks = check_names(self._state, self._app, number) if exposure.service.checks else ()
        some_there = any(self._hosts.is_there(m.host) for m in found)
        far = {machine.id: self._hosts.distance(machine.host) for machine in found}
        ranks = {distance: rank for rank, distance in enumerate(sorted(set(far.values())))}
        endpoints = [
            ProxyEndpoint(
                machine.id,
                machine.private_ip,
                exposure.internal_port,
                machine.region,
                ranks[far[machine.id]],
                draining=machine.state is not MachineState.STARTED
                or machine.cordoned
                or not self._hosts.can_be_chosen(machine.host)
                or (some_there and not self._hosts.is_there(machine.host))
                or fails(self._state, machine, checks),
            )
            for machine in found
        ]
        return tuple(sorted(endpoints, key=lambda endpoint: (endpoint.priority, endpoint.machine)))

    def targets(self) -> list[ProxyTargetRow]:
        """What the proxy may open connections to, now or soon."""
        found = dict(self._soon)
        for cluster in self.rows.values():
            for end in cluster.endpoints:
                at = (end.address, end.port)
                found[at] = ProxyTargetRow(*at, end.machine)
        return list(found.values())


def _text(groups: tuple[str, ...]) -> str:
    """In a cluster's name, which goes into a header: of one that is too long Envoy would
    refuse the routes of all apps."""
    text = ",".join(groups)
    if len(text) <= LONGEST_GROUPS:
        return text
    return f"~{blake2b(text.encode(), digest_size=16).hexdigest()}"


def _present(site: Site, state: State, hosts: Hosts, app: str) -> list[Machine]:
    """The app's machines that connections can be made to, now or soon, or go on with."""
    return [
        machine
        for machine in state.machines_of(app)
        if machine.state.is_live
        and hosts.is_reached(machine.host)
        and misfit(site, state, machine) is None
    ]
