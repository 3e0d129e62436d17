# SPDX-License-Identifier: Apache-2.0
"""The other hosts as this one may use them.

Of several hosts that claim one number, endpoint or address the one with the
lowest number (then name) keeps it: a later record cannot take its packets over.
"""

from __future__ import annotations

from functools import cached_property
from ipaddress import ip_address

from flyebpf.model.fleet import Fleet
from flyebpf.model.nearest import Distances
from flyebpf.model.records import Host
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.model.state import State
from flyebpf.plan.prefixes import Prefix
from flyebpf.plan.site import Site

NONE, WIREGUARD, PLAIN = "none", "wireguard", "plain"


class Hosts:
    """The hosts of one state of the fleet; each is judged once.

    ``generation``: of the keys that hosts send with.
    """

    def __init__(self, site: Site, fleet: Fleet, generation: int) -> None:
        self.site = site
        self._fleet = fleet
        self._key = str(generation)
        self._here = site.config.host
        self._accepted: dict[str, Host | None] = {}
        self._chosen: dict[str, bool] = {}
        self._far: dict[str, tuple[int, str]] = {}

    @property
    def own(self) -> Host | None:
        """This host's record."""
        return self._fleet.hosts.get(self._here)

    @property
    def number(self) -> int:
        """This host's; 0 when it has none."""
        own = self.own
        return own.number if own is not None and is_host_number(own.number) else 0

    @cached_property
    def has_mesh(self) -> bool:
        """Whether this host has devices of the mesh, or would have with a key."""
        own = self.own
        if own is None or self.site.config.mesh.underlay == NONE:
            return False
        return misfit(self.site, self._fleet, own) is None

    @cached_property
    def sends(self) -> bool:
        """Whether it can send to other hosts now."""
        return self.has_mesh and self.own is not None and self.has_key(self.own)

    def has_key(self, host: Host) -> bool:
        """Whether the host has published what is needed to send to it."""
        return self.site.config.mesh.underlay == PLAIN or self._key in host.keys

    def accepted(self, name: str) -> Host | None:
        """Another host that has a place in the mesh, or None."""
        if name not in self._accepted:
            host = self._fleet.hosts.get(name)
            good = host is not None and name != self._here and self.has_mesh
            if host is not None and good and not self._fits(host):
                good = False
            self._accepted[name] = host if good else None
        return self._accepted[name]

    def _fits(self, host: Host) -> bool:
        same = host.underlay == self.site.config.mesh.underlay
        return same and misfit(self.site, self._fleet, host) is None

    def can_be_chosen(self, name: str) -> bool:
        """Whether machines of this host may get new flows at all: it can be
        reached and is not drained."""
        if name not in self._chosen:
            self._chosen[name] = self._may_be_chosen(name)
        return self._chosen[name]

    def _may_be_chosen(self, name: str) -> bool:
        host = self._fleet.hosts.get(name)
        return self.is_reached(name) and not (host is not None and host.drained)

    def is_reached(self, name: str) -> bool:
        """Whether packets get to machines of this host."""
        if name == self._here:
            return True
        host = self.accepted(name)
        return host is not None and self.sends and self.has_key(host)

    def has_command(self, name: str, verb: str) -> bool:
        """Whether a host can "start", "stop" or "suspend" its machines by itself."""
        host = self._fleet.hosts.get(name)
        return host is not None and verb in host.commands

    def is_there(self, name: str) -> bool:
        """Whether its daemon is. While no daemon at all is, the store has lost
        them, and nobody counts as gone."""
        presences = self._fleet.presences
        return name == self._here or name in presences or not presences

    @cached_property
    def distances(self) -> Distances:
        """From this host's region."""
        region = self.site.config.region
        return Distances(region, self._fleet.measured_in(region), self.site.config.mesh.latency)

    def distance(self, name: str) -> tuple[int, str]:
        """To the host's region: sorts the nearest first."""
        if name not in self._far:
            host = self._fleet.hosts.get(name)
            region = host.region if host is not None else ""
            here = self.site.config.region
            self._far[name] = self.distances.key(here if name == self._here else region)
        return self._far[name]


def is_host_number(number: int) -> bool:
    return HOST_BIT <= number < HOST_BIT << 1


def misfit(site: Site, fleet: Fleet, host: Host) -> str | None:
    """Why a host can have no place in the mesh, or None."""
    if not is_host_number(host.number):
        return (
            f"host {host.name}: {host.number} is no host's number: "
            f"remove the host (`flyebpf hosts remove {host.name}`) and let it join anew"
        )
    block = Prefix.parse(host.block)
    if block is None or site.private is None or not site.private.covers(block):
        return (
            f"host {host.name}: its private block {host.block} is no part of "
            f"{site.config.private.prefix}: correct private.block there"
        )
    if not is_address(host.endpoint):
        return (
            f"host {host.name}: its mesh endpoint {host.endpoint!r} is no address: "
            f"set mesh.endpoint there"
        )
    return _taken(fleet, host)


def _taken(fleet: Fleet, host: Host) -> str | None:
    """What of the host belongs to one that was there before it."""
    for other in sorted(fleet.rivals(host), key=_seniority):
        if _seniority(host) < _seniority(other):
            continue
        if host.number == other.number:
            return (
                f"host {host.name}: its number {host.number} is that of host {other.name}: "
                f"remove it (`flyebpf hosts remove {host.name}`) and let it join anew"
            )
        if host.endpoint == other.endpoint:
            return (
                f"host {host.name}: its mesh endpoint {host.endpoint} is that of host "
                f"{other.name}: give it its own address in mesh.endpoint"
            )
        return (
            f"host {host.name}: its private block {host.block} overlaps {other.block} of host "
            f"{other.name}: give it a block of its own in private.block"
        )
    return None


def _seniority(host: Host) -> tuple[int, str]:
    return (host.number, host.name)


def is_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address that means the same everywhere. One
    with a zone (RFC 4007) does not, and a zone may be any text."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


class Lookout:
    """The present :class:`Hosts`; made anew only when the fleet has changed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._last: tuple[State, int, int, Hosts] | None = None

    def hosts(self, state: State) -> Hosts:
        generation = generation_of(state)
        if self._last is not None:
            of, version, of_generation, found = self._last
            if of is state and (version, of_generation) == (state.fleet.version, generation):
                return found
        found = Hosts(self.site, state.fleet, generation)
        self._last = (state, state.fleet.version, generation, found)
        return found


def generation_of(state: State) -> int:
    """Of the keys that hosts send with."""
    return state.cluster.mesh_generation if state.cluster else 0
