# SPDX-License-Identifier: Apache-2.0
"""The addresses at which the proxy serves an app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from flyebpf.model.records import Address, AddressKind
from flyebpf.model.sixpn import FLYCAST_HOST, PREFIX
from flyebpf.model.state import State
from flyebpf.plan.networks import numbered
from flyebpf.plan.prefixes import parse_ipv4, within
from flyebpf.plan.site import Site


@dataclass(frozen=True, slots=True)
class Front:
    """``own``: the app's public addresses, of which the proxy serves ports with
    handlers; ``flycast``: of which it serves all; ``shared``: the app is behind the
    shared addresses."""

    own: tuple[str, ...] = ()
    flycast: tuple[str, ...] = ()
    shared: bool = False


NOWHERE = Front()


def find_front(
    site: Site, state: State, app: str, vips: Sequence[str], problems: list[str]
) -> Front:
    """Nowhere on a host without a proxy. ``vips``: the app's own addresses of this
    host's pools."""
    if not site.proxied:
        return NOWHERE
    flycast, shared = [], False
    for address in state.addresses_of(app):
        if address.type is AddressKind.SHARED_V4:
            shared |= _is_shared(site, address, problems)
        elif address.type is AddressKind.PRIVATE_V6:
            problem = flycast_problem(state, address)
            if problem is None:
                flycast.append(address.address)
            else:
                problems.append(problem)
    return Front(tuple(vips), tuple(flycast), shared)


def _is_shared(site: Site, address: Address, problems: list[str]) -> bool:
    number = parse_ipv4(address.address)
    if number is not None and within(number, site.shared):
        return True
    problems.append(
        f"address {address.address} of app {address.app} is in no pool of this host: "
        f"add its pool to pools.shared_v4, or release it"
    )
    return False


def flycast_problem(state: State, address: Address) -> str | None:
    """Why a Flycast address cannot be served, or None. Its network is in it: one
    that is not its callers' for certain would be another tenant's."""
    where = f"address {address.address} of app {address.app}"
    remedy = "release it and allocate it again"
    callers = f"{address.org}/{address.network}"
    network = state.networks.get(callers)
    if network is None:
        return f"{where}: its network {callers} is missing or unreadable: {remedy}"
    number, problem = numbered(state, network)
    if problem is not None:
        return f"{where}: {problem}"
    try:
        found = int(IPv6Address(address.address))
    except ValueError:
        return f"{where} is no IPv6 address: {remedy}"
    base = PREFIX << 112 | number << 80 | FLYCAST_HOST << 48
    if not 0 < found - base < 1 << 32:
        return f"{where} is not one of network {network.ident}: {remedy}"
    return None
