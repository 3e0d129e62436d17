# SPDX-License-Identifier: Apache-2.0
"""Rows of the proxy: what this host's Envoy serves of an app."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

from flyebpf.config import DaemonConfig
from flyebpf.model.certificates import DEFAULT, KeyPair
from flyebpf.model.hostnames import default_hostname
from flyebpf.model.proxyrows import (
    HTTP_CHAINS,
    TLS_CHAINS,
    Chain,
    ProxyAppRow,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
)
from flyebpf.model.records import HttpOptions, Organization, Port, ReplayCache, TlsOptions
from flyebpf.model.rows import Row
from flyebpf.model.shared import is_web, misfit
from flyebpf.model.state import State
from flyebpf.plan.checks import check_targets, plan_checks
from flyebpf.plan.clusters import Clusters, chain_of
from flyebpf.plan.hosts import Hosts
from flyebpf.plan.services import TCP, Exposure, Routes
from flyebpf.plan.site import Plan, Site

OPERATOR = ""
"""The app of certificates that are for all apps' default host names."""


def proxy_row(config: DaemonConfig) -> ProxyRow:
    """That this host runs a proxy. Raises ValueError for a block that is no CIDR."""
    pools = config.pools
    return ProxyRow(
        "proxy",
        config.host,
        config.region,
        source(config),
        (*pools.anycast_v4, *pools.anycast_v6),
        pools.shared_v4,
    )


def source(config: DaemonConfig) -> str:
    """What machines see as this host's proxy. Raises ValueError."""
    return str(ip_network(config.private.block)[1])


def plan_proxy(site: Site, state: State, hosts: Hosts, found: Routes) -> Plan:
    """The rows of owner ``("proxy", app)``."""
    plan = Plan()
    checks = plan_checks(site, state, found, source(site.config))
    plan.rows += checks
    opened = {row.key: row for row in check_targets(checks)}
    served = [exposure for exposure in found.exposures if found.by_proxy(exposure)]
    if not served:
        plan.rows += opened.values()
        return plan
    clusters = Clusters(site, state, hosts, found.app)
    ways = _Ways(found, clusters, _hostnames(plan, site, state, found.app))
    secure = False
    for exposure in served:
        chain = chain_of(exposure.port)
        if chain is None:
            plan.problems.append(
                f"app {found.app}, services[{exposure.number}]: the handlers "
                f"{', '.join(exposure.port.handlers)} contradict each other: "
                f"correct them and deploy again"
            )
            continue
        plan.rows += ways.rows(exposure, chain)
        secure |= chain in TLS_CHAINS
    if ways.web:
        plan.rows.append(_replays(state, found.app, ways.web))
    plan.rows += clusters.rows.values()
    opened.update((row.key, row) for row in clusters.targets())
    plan.rows += opened.values()
    plan.rows += _challenges(state, found.app)
    if secure:
        _certificates(plan, site, state, found, ways.names)
    return plan


@dataclass(frozen=True, slots=True)
class _Ways:
    """From the app's own addresses and the shared ones to its clusters."""

    found: Routes
    clusters: Clusters
    names: tuple[str, ...]
    web: list[tuple[Port, str]] = field(default_factory=list)  # HTTP's, and their clusters

    def rows(self, exposure: Exposure, chain: Chain) -> Iterator[Row]:
        port, front = exposure.port, self.found.front
        cluster = target = self.clusters.name(exposure, chain)
        shared = front.shared and misfit(exposure.service, port) is None
        web = shared and is_web(exposure.service, port)
        addresses = (*(front.own if exposure.proxy else ()), *front.flycast)
        if chain in HTTP_CHAINS:
            self.web.append((port, cluster))
            target = f"{self.found.app}/{exposure.ports}"
        if chain in HTTP_CHAINS and (shared or addresses):
            yield self._route(exposure, target, cluster, self.names if web else ())
        if shared and not web:
            route = target if chain in HTTP_CHAINS else ""
            for name in self.names:
                yield ProxySniRow(port.start, name, "" if route else cluster, route)
        tls = (port.tls_options or TlsOptions()) if chain in TLS_CHAINS else None
        for address in addresses:
            yield ProxyBindRow(address, port.start, port.end, chain, target, self.found.app, tls)

    def _route(
        self, exposure: Exposure, name: str, cluster: str, hosts: tuple[str, ...]
    ) -> ProxyRouteRow:
        port = exposure.port
        return ProxyRouteRow(
            name,
            self.found.app,
            "tls" in port.handlers,
            cluster,
            hosts,
            port.force_https,
            port.http_options or HttpOptions(),
        )


def _remembered(ports: Iterable[Port]) -> Iterator[tuple[int, tuple[ReplayCache, ...]]]:
    for port in ports:
        if port.http_options is not None and port.http_options.replay_cache:
            yield port.start, port.http_options.replay_cache


def _replays(state: State, name: str, web: list[tuple[Port, str]]) -> ProxyAppRow:
    app = state.apps[name]
    org = state.orgs.get(app.org) or Organization(app.org)
    return ProxyAppRow(
        name,
        app.org,
        app.network,
        org.cross_network_replays,
        org.replay_sources,
        tuple(sorted((port.start, cluster) for port, cluster in web)),
        tuple(sorted(_remembered(port for port, _ in web))),
    )


def _hostnames(plan: Plan, site: Site, state: State, app: str) -> tuple[str, ...]:
    """The names by which clients of shared addresses ask for the app: its default
    one, and those of its certificates. Below the operator's domain every name is
    an app's own, whatever somebody has a certificate for."""
    domain = site.config.domain
    default = default_hostname(app, domain)
    names = [default]
    certified = [certificate.hostname for certificate in state.vault.of(app)]
    for name in dict.fromkeys((*certified, *sorted(state.vault.acme_of(app)))):
        if name == default or name.endswith(".flycast"):
            continue
        if name == domain or name.endswith(f".{domain}"):
            plan.problems.append(
                f"certificate of {name}: names below {domain} are other apps', not {app}'s: "
                f"remove it (`flyebpf certs remove {name}`)"
            )
            continue
        names.append(name)
    return tuple(names)


def _challenges(state: State, app: str) -> Iterator[Row]:
    """What the app's addresses answer an authority."""
    for name in state.vault.acme_of(app):
        found = state.vault.challenges.get(name)
        if found is not None and found.app == app:
            yield ProxyChallengeRow(name, app, found.token, found.answer, found.chain, found.key)


def fallback_row(state: State) -> list[Row]:
    """What is shown where an app has no certificate, on ports that ask for it."""
    return list(_fallback(state, OPERATOR))


def _fallback(state: State, app: str, *hosts: str) -> Iterator[Row]:
    found = state.vault.self_signed.get(DEFAULT)
    if found is not None:
        name = f"{app}/self-signed"
        yield ProxyCertificateRow(name, app, hosts, found.chain, found.key, fallback=True)


def _certificates(
    plan: Plan, site: Site, state: State, found: Routes, names: tuple[str, ...]
) -> None:
    """The app's certificates; for its default host name without one the operator's,
    and then, where a port wants it, the one that vouches for nobody."""
    app = found.app
    own = {record.hostname: record for record in state.vault.of(app)}
    usable = [record for name, record in own.items() if name in names or ".flycast" in name]
    default = default_hostname(app, site.config.domain)
    plan.rows += [_row(app, record.hostname, record) for record in usable]
    operators = state.vault.pairs.get(f"*.{site.config.domain}")
    if default in own:
        return
    if operators is not None and operators.app == OPERATOR:
        plan.rows.append(_row(app, default, operators))
    elif any(_self_signs(exposure) for exposure in found.exposures):
        plan.rows += _fallback(state, app, default)


def _self_signs(exposure: Exposure) -> bool:
    options = exposure.port.tls_options
    return exposure.proto == TCP and options is not None and options.default_self_signed


def _row(app: str, host: str, record: KeyPair) -> ProxyCertificateRow:
    return ProxyCertificateRow(f"{app}/{host}", app, (host,), record.chain, record.key)
