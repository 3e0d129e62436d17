# SPDX-License-Identifier: Apache-2.0
"""Networks of apps and of users' peers. Whoever has no network for certain has
none at all: another tenant's is never guessed."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from flyebpf.model.records import Address, Network, WireguardPeer
from flyebpf.model.rows import UserPeerRow
from flyebpf.model.sixpn import FLYCAST_HOST, HOST_BIT, PEER_MACHINE, PREFIX, machine_base
from flyebpf.model.state import State
from flyebpf.plan.hosts import Hosts
from flyebpf.plan.mesh import peers_device
from flyebpf.plan.site import Plan, Site

FIRST_MACHINE, LAST_MACHINE = 16, 0xFFFFFFFF
"""Numbers below are those of other things than machines (``model/sixpn.py``)."""


def network_number(state: State, app: str) -> tuple[int, str | None]:
    """The number of an app's network, or 0 and why it has none."""
    record = state.apps.get(app)
    if record is None:
        return 0, f"app {app} is missing or unreadable: create it again"
    network = state.network_of(app)
    if network is None:
        return 0, (
            f"network {record.org}/{record.network} of app {app} is missing or unreadable: "
            f"restore the store"
        )
    return numbered(state, network)


def numbered(state: State, network: Network) -> tuple[int, str | None]:
    """Of two networks with one number the first by name keeps it: they would
    reach each other."""
    if not 0 < network.number < HOST_BIT:
        return 0, (
            f"network {network.ident} has the impossible number {network.number}: "
            f"create its apps again in another network"
        )
    first = state.networks_with_number(network.number)[0]
    if first is not network:
        return 0, (
            f"network {network.ident} has the number of network {first.ident}: "
            f"create its apps again in another network"
        )
    return network.number, None


def callers_number(state: State, address: Address) -> tuple[int, str | None]:
    """The number of the network whose machines may call a Flycast address, or 0 and
    why nobody may. The address has it in it: one that is not that of the network
    which the record names would be another tenant's."""
    where = f"address {address.address} of app {address.app}"
    remedy = "release it and allocate it again"
    callers = f"{address.org}/{address.network}"
    network = state.networks.get(callers)
    if network is None:
        return 0, f"{where}: its network {callers} is missing or unreadable: {remedy}"
    number, problem = numbered(state, network)
    if problem is not None:
        return 0, f"{where}: {problem}"
    try:
        found = int(IPv6Address(address.address))
    except ValueError:
        return 0, f"{where} is no IPv6 address: {remedy}"
    base = PREFIX << 112 | number << 80 | FLYCAST_HOST << 48
    if not 0 < found - base < 1 << 32:
        return 0, f"{where} is not one of network {callers}: {remedy}"
    return number, None


def plan_peer(site: Site, hosts: Hosts, state: State, ident: str) -> Plan:
    """The rows of owner ``("wireguard", id)``: a user's peer of this host."""
    plan = Plan()
    peer = state.wireguard_peers.get(ident)
    if peer is None or peer.host != site.config.host:
        return plan
    problem = _peer_misfit(hosts, state, peer)
    if problem is not None:
        plan.problems.append(
            f"WireGuard peer {ident}: {problem}: remove it (`flyebpf wireguard remove`) "
            f"and create it again"
        )
        return plan
    device = peers_device(site.config.mesh)
    plan.rows.append(UserPeerRow(peer.public_key, peer.ident, device, peer.address))
    return plan


def _peer_misfit(hosts: Hosts, state: State, peer: WireguardPeer) -> str | None:
    """Why a peer must not be let in, or None. Its address is all that says which
    network it is in."""
    network = state.networks.get(f"{peer.org}/{peer.network}")
    if network is None:
        return f"its network {peer.org}/{peer.network} is missing or unreadable"
    number, problem = numbered(state, network)
    if problem is not None:
        return problem
    if not hosts.number:
        return f"host {peer.host} has no number"
    if not _is_peers(peer.address, number, hosts.number):
        return f"its address {peer.address} is not one of network {network.ident} at this host"
    for other in state.peers_like(peer):
        if (other.created, other.ident) < (peer.created, peer.ident):
            what = "key" if other.public_key == peer.public_key else "address"
            return f"its {what} is that of peer {other.ident}"
    return None


def _is_peers(address: str, network: int, host: int) -> bool:
    """Whether it is a /120 of the users' peers of a network at a host."""
    try:
        prefix = IPv6Network(address)
    except ValueError:
        return False
    space = IPv6Network((machine_base(network, host, PEER_MACHINE), 112))
    return prefix.prefixlen == 120 and prefix.subnet_of(space)
