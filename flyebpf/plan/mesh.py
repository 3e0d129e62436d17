# SPDX-License-Identifier: Apache-2.0
"""Rows of the mesh: this host's devices, and each other host on them."""

from __future__ import annotations

from collections.abc import Mapping

from flyebpf.config import MeshConfig
from flyebpf.model.reasons import DropReason
from flyebpf.model.records import Host
from flyebpf.model.rows import HostRow, MeshPeerRow, MeshRow, PolicyRow
from flyebpf.model.sixpn import host_address, host_prefix
from flyebpf.model.state import State
from flyebpf.plan.hosts import PLAIN, WIREGUARD, Hosts, generation_of, misfit
from flyebpf.plan.prefixes import parse_ipv4, proxy_source
from flyebpf.plan.site import Plan, Site

DEFAULT_MTU = {WIREGUARD: 1420, PLAIN: 1500}
"""Of the mesh where the configuration says nothing: what is left of 1500 bytes
(WireGuard over IPv6 takes 80)."""

DEVICES = "fly"
"""The first part of the names of devices where the configuration gives that of
the fabric's interface."""


def mesh_mtu(config: MeshConfig) -> int:
    """The longest packet that the mesh takes, bytes; 0 without one."""
    return config.mtu or DEFAULT_MTU.get(config.underlay, 0)


def peers_device(config: MeshConfig) -> str:
    """The device of users' WireGuard peers."""
    return f"{DEVICES if config.underlay == PLAIN else config.interface}p"


def devices(config: MeshConfig, own: Host, sending: int) -> Mapping[int, str]:
    """This host's mesh devices, by generation of keys: one for each that it has
    a key of. They have two names in turns; of two generations that share one the
    newer has it, unless the older is the one to send with."""
    if config.underlay == PLAIN:
        return {sending: config.interface}
    generations = sorted(int(key) for key in own.keys if key.isdecimal())
    by_name = {device_of(config, generation): generation for generation in generations}
    if sending in generations:
        by_name[device_of(config, sending)] = sending
    return {generation: name for name, generation in by_name.items()}


def device_of(config: MeshConfig, generation: int) -> str:
    return f"{config.interface}{generation % 2}"


def plan_devices(plan: Plan, site: Site, hosts: Hosts, state: State) -> None:
    """This host's own side."""
    config, own = site.config.mesh, hosts.own
    if own is None or not hosts.has_mesh:
        return
    plain = config.underlay == PLAIN
    sending = generation_of(state)
    for generation, name in devices(config, own, sending).items():
        plan.rows.append(
            MeshRow(
                interface=name,
                underlay=config.underlay,
                generation=0 if plain else generation,
                port=0 if plain else config.port + generation % 2,
                addresses=(f"{host_address(own.number)}/128",),
                mtu=mesh_mtu(config),
                sending=generation == sending,
            )
        )


def plan_neighbour(site: Site, hosts: Hosts, state: State, name: str) -> Plan:
    """The rows of owner ``("mesh", name)``: another host."""
    plan = Plan()
    host, own, config = state.hosts.get(name), hosts.own, site.config.mesh
    if host is None or own is None or name == own.name or not hosts.has_mesh:
        return plan
    if hosts.accepted(name) is None:
        _explain(plan, site, state, host)
        return plan
    plan.rows += closed(site, host.endpoint)
    sending = generation_of(state)
    if not hosts.has_key(host):
        plan.problems.append(
            f"host {name} has published no WireGuard key of generation {sending}, so nothing "
            f"can be sent to it: start its daemon; `flyebpf status` there says what is wrong"
        )
    for generation, device in devices(config, own, sending).items():
        key = "" if config.underlay == PLAIN else host.keys.get(str(generation))
        if key is None:
            continue
        allowed = (host_prefix(host.number), host.block)
        endpoint = _endpoint(config, host, generation)
        plan.rows.append(MeshPeerRow(device, name, key, endpoint, allowed))
        if generation == sending:
            plan.rows.append(
                HostRow(
                    host.number, name, device, _next_hop(config, host), proxy_source(host.block)
                )
            )
    return plan


def _next_hop(config: MeshConfig, host: Host) -> str:
    """On a plain underlay the endpoint. Of one that is IPv4 the kernel would not
    ask for the MAC when an IPv6 packet is to go there: its address of the mesh,
    which is on the link then, is asked for."""
    if config.underlay != PLAIN:
        return ""
    return host_address(host.number) if parse_ipv4(host.endpoint) else host.endpoint


def closed(site: Site, address: str) -> list[PolicyRow]:
    """VMs do not reach what only hosts talk to: their packets would come there
    with this host's address. Unless ``egress.allow`` names just this address."""
    if parse_ipv4(address) is None or f"{address}/32" in site.config.egress.allow:
        return []
    return [PolicyRow(f"{address}/32", int(DropReason.VM_TO_HOST))]


def _explain(plan: Plan, site: Site, state: State, host: Host) -> None:
    """Why a host is not a peer; one without a mesh need not say."""
    wanted = site.config.mesh.underlay
    if host.underlay == "none":
        return
    if host.underlay != wanted:
        plan.problems.append(
            f"host {host.name}: its mesh underlay is {host.underlay}, that of this host is "
            f"{wanted}: set mesh.underlay to the same on all hosts"
        )
        return
    problem = misfit(site, state.fleet, host)
    if problem is not None:
        plan.problems.append(problem)


def _endpoint(config: MeshConfig, host: Host, generation: int) -> str:
    if config.underlay == PLAIN:
        return host.endpoint
    address = f"[{host.endpoint}]" if ":" in host.endpoint else host.endpoint
    return f"{address}:{host.port + generation % 2}"


def own_problems(site: Site, hosts: Hosts, state: State) -> list[str]:
    """Why this host has no mesh, or no place among the others."""
    own = hosts.own
    if own is None:
        return [
            f"host {site.config.host} has no record, so its machines have no 6PN addresses: "
            f"restart the daemon, which makes it"
        ]
    if site.config.mesh.underlay == "none":
        return []
    problem = misfit(site, state.fleet, own)
    if problem is not None:
        return [f"{problem}; until then this host has no mesh"]
    if not hosts.sends:
        return [
            f"host {own.name} has published no WireGuard key of generation "
            f"{generation_of(state)}: restart the daemon, which does that"
        ]
    return []
