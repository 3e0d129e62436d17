# SPDX-License-Identifier: Apache-2.0
"""Rows that every host has: settings, the VMs' egress policy, NAT, uplinks, its
devices of the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

from flyebpf.config import DaemonConfig
from flyebpf.model.reasons import DropReason
from flyebpf.model.rows import HostPortRow, NatRow, PolicyRow, SettingsRow, UplinkRow
from flyebpf.model.sixpn import HOST_PORT, HOST_PORT_FAR, NAMESERVER, NETWORKS
from flyebpf.model.state import State
from flyebpf.plan.hosts import PLAIN, Hosts
from flyebpf.plan.mesh import mesh_mtu, own_problems, peers_device, plan_devices
from flyebpf.plan.names import nameservers
from flyebpf.plan.prefixes import Pool6, Prefix, proxy_source
from flyebpf.plan.proxy import fallback_row, proxy_row
from flyebpf.plan.site import Plan, Site

ALLOW = 0
EVERYWHERE = "0.0.0.0/0"

NOT_PUBLIC = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
)
"""RFC 6890: not globally reachable. ``egress.allow`` may open them."""

NEVER = {
    "0.0.0.0/8": DropReason.VM_NOT_PUBLIC,
    "127.0.0.0/8": DropReason.VM_NOT_PUBLIC,
    "224.0.0.0/4": DropReason.VM_MULTICAST,
    "240.0.0.0/4": DropReason.VM_NOT_PUBLIC,
    "255.255.255.255/32": DropReason.VM_MULTICAST,
}
"""No unicast destination of anybody: nothing opens them."""


def plan_host(site: Site, state: State, hosts: Hosts) -> Plan:
    """The rows of owner ``("host",)``."""
    plan, config = Plan(), site.config
    _settings(plan, site, state, hosts)
    _host_port(plan, site, state, hosts)
    plan.problems += own_problems(site, hosts, state)
    plan_devices(plan, site, hosts, state)
    _policy(plan, config)
    if config.uplinks:
        plan.rows.append(NatRow(config.private.prefix, config.uplinks))
    if site.proxied:
        plan.rows.append(proxy_row(config))
        plan.rows += fallback_row(state)
    plan.rows += [UplinkRow(name, config.dataplane.xdp_mode) for name in config.uplinks]
    return plan


def _settings(plan: Plan, site: Site, state: State, hosts: Hosts) -> None:
    config = site.config
    if state.cluster is None:
        plan.problems.append(
            "the cluster record is missing or unreadable, so flows cannot be steered: "
            "restore the store, or start the daemon on an empty one"
        )
        return
    plan.rows.append(
        SettingsRow(
            name="settings",
            pools=_pools(plan, config),
            pools6=_pools6(plan, site),
            private_prefix=config.private.prefix,
            alias_prefix=config.private.alias,
            uplinks=config.uplinks,
            seed=state.cluster.seed,
            host=hosts.number,
            mesh_mtu=mesh_mtu(config.mesh) if hosts.has_mesh else 0,
            mesh_ethernet=config.mesh.underlay == PLAIN,
            return_edge=config.mesh.return_path == "edge",
            peers=peers_device(config.mesh) if state.peers_at(config.host) else "",
            host_port=HOST_PORT if hosts.number else "",
            shared=config.pools.shared_v4 if has_proxy(config) else (),
            proxy=proxy_source(config.private.block) if has_proxy(config) else "",
        )
    )


def has_proxy(config: DaemonConfig) -> bool:
    return config.proxy.engine != "none"


def _host_port(plan: Plan, site: Site, state: State, hosts: Hosts) -> None:
    """Where machines have no addresses of private networks, nobody needs it."""
    if hosts.number:
        servers = (NAMESERVER, *nameservers(state, site.config.host))
        addresses = tuple(f"{address}/128" for address in servers)
        plan.rows.append(HostPortRow(HOST_PORT, HOST_PORT_FAR, addresses, NETWORKS))


def _pools(plan: Plan, config: DaemonConfig) -> tuple[str, ...]:
    """All IPv4 pools, each address once: what no service uses is dropped in
    every one of them."""
    pools: dict[str, Prefix] = {}
    for text in (*config.pools.anycast_v4, *config.pools.shared_v4):
        pool = Prefix.parse(text)
        if pool is None:
            plan.problems.append(f"pool {text} is not an IPv4 prefix: correct it in [pools]")
        else:
            pools.setdefault(text, pool)
    return tuple(
        text
        for text, pool in pools.items()
        if not any(other.covers(pool) for name, other in pools.items() if name != text)
    )


def _pools6(plan: Plan, site: Site) -> tuple[str, ...]:
    """Each once; they do not overlap (``flyebpf.configrules``)."""
    found: dict[str, None] = {}
    for text in site.config.pools.anycast_v6:
        if Pool6.parse(text, 1) is None:
            plan.problems.append(f"pool {text} is not an IPv6 prefix: correct it in [pools]")
        else:
            found[str(IPv6Network(text))] = None
    return tuple(found)


def _policy(plan: Plan, config: DaemonConfig) -> None:
    """The longest prefix decides, so whatever must win has no longer one of
    the other kind inside it."""
    own = (config.private.prefix, config.private.alias)
    rules: dict[str, int] = {EVERYWHERE: ALLOW}
    rules |= dict.fromkeys(NOT_PUBLIC, int(DropReason.VM_NOT_PUBLIC))
    for text in _allowed(plan, config, (*own, *NEVER)):
        _override(rules, text, ALLOW)
    for text, reason in NEVER.items():
        _override(rules, text, int(reason))
    for text in own:
        _override(rules, text, int(DropReason.VM_TO_PRIVATE))
    plan.rows += [PolicyRow(prefix, reason) for prefix, reason in rules.items()]


def _allowed(plan: Plan, config: DaemonConfig, closed: tuple[str, ...]) -> Iterator[str]:
    for text in config.egress.allow:
        prefix = Prefix.parse(text)
        if prefix is None:
            plan.problems.append(
                f"egress.allow: {text} is not an IPv4 prefix: write it as 10.0.0.0/8"
            )
            continue
        within = [c for c in closed if (p := Prefix.parse(c)) and p.covers(prefix)]
        if within:
            plan.problems.append(
                f"egress.allow: {text} lies in {within[0]}, which VMs may never reach: remove it"
            )
            continue
        yield text


def _override(rules: dict[str, int], text: str, reason: int) -> None:
    """Let ``text`` decide for all of itself: NEVER and the cluster's own
    prefixes are set last and so stay inside of what ``egress.allow`` opens."""
    prefix = Prefix.parse(text)
    if prefix is None:
        return
    inside = [t for t in rules if (p := Prefix.parse(t)) and prefix.covers(p) and t != EVERYWHERE]
    for other in inside:
        del rules[other]
    rules[text] = reason
