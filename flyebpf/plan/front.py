# SPDX-License-Identifier: Apache-2.0
"""The addresses at which the proxy serves an app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyebpf.model.records import Address, AddressKind
from flyebpf.model.state import State
from flyebpf.plan.networks import callers_number
from flyebpf.plan.prefixes import parse_ipv4, within
from flyebpf.plan.site import Site


@dataclass(frozen=True, slots=True)
class Front:
    """``own``: the app's public addresses, of which the proxy serves ports with
    handlers; ``flycast``: of which it serves all; ``shared``: the app is behind the
    shared addresses; ``replays``: other apps may replay requests to its services for
    HTTP, whatever addresses it has."""

    own: tuple[str, ...] = ()
    flycast: tuple[str, ...] = ()
    shared: bool = False
    replays: bool = False


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
            _, problem = callers_number(state, address)
            if problem is None:
                flycast.append(address.address)
            else:
                problems.append(problem)
    return Front(tuple(vips), tuple(flycast), shared, replays=True)


def _is_shared(site: Site, address: Address, problems: list[str]) -> bool:
    number = parse_ipv4(address.address)
    if number is not None and within(number, site.shared):
        return True
    problems.append(
        f"address {address.address} of app {address.app} is in no pool of this host: "
        f"add its pool to pools.shared_v4, or release it"
    )
    return False
