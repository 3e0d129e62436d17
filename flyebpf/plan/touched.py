# SPDX-License-Identifier: Apache-2.0
"""Whose rows a change of the state may have changed.

Too many are a waste of time, too few a fault; a test compares planning these
with planning everything. What a record names is looked up in the state's
indexes, so a change costs the same whatever the size of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from flyebpf.model.acme import AcmeChallenge, AcmeName
from flyebpf.model.certificates import KeyPair, SelfSigned
from flyebpf.model.health import MachineChecks
from flyebpf.model.nearest import Distances
from flyebpf.model.records import (
    Address,
    AnyRecord,
    App,
    Cluster,
    Deployment,
    Host,
    Latency,
    Machine,
    Network,
    Organization,
    Presence,
    WireguardPeer,
)
from flyebpf.model.state import State, Update, network_of
from flyebpf.plan.hosts import NONE, Hosts
from flyebpf.plan.site import HOST, Owner, Site


class Touched:
    """``state`` and ``hosts`` are as they are after the change."""

    def __init__(self, site: Site, state: State, hosts: Hosts) -> None:
        self._site = site
        self._state = state
        self._hosts = hosts
        self._here = site.config.host
        self._has_mesh = site.config.mesh.underlay != NONE

    def everything(self) -> dict[Owner, None]:
        """In the order in which it is cheapest to plan."""
        return self._with_proxy(self._everything())

    def _with_proxy(self, owners: Iterable[Owner]) -> dict[Owner, None]:
        """What the proxy serves of an app follows from all that its rows do, and
        from certificates."""
        found: dict[Owner, None] = {}
        for owner in owners:
            found[owner] = None
            if self._site.proxied and owner[0] == "app":
                found["proxy", owner[1]] = None
        return found

    def _everything(self) -> dict[Owner, None]:
        owners: dict[Owner, None] = {HOST: None}
        owners.update(dict.fromkeys(self._neighbours()))
        owners.update(
            (("wireguard", peer.ident), None) for peer in self._state.peers_at(self._here)
        )
        named = self._named_here()
        for app in self._state.app_names():
            owners["app", app] = None
            if app in named:
                owners["names", app] = None
            owners.update(dict.fromkeys(self._machines(self._state.machines_of(app))))
        return owners

    def by(self, update: Update) -> set[Owner]:
        """The owners that a change touches."""
        return set(self._with_proxy(self._by(update)))

    def _by(self, update: Update) -> set[Owner]:
        before, after = update.before, update.after
        if before == after:
            return set()
        for record in (before, after):
            match record:
                case Cluster():
                    return self._cluster(before, after)
                case Host():
                    return self._host(before, after)
                case Presence():
                    return self._presence(record)
                case Latency():
                    return self._latency(update.id, before, after)
        owners: set[Owner] = set()
        for record in (before, after):
            if record is not None:
                owners |= self._record(record)
        return owners

    def _record(self, record: AnyRecord) -> set[Owner]:
        """Owners of what the record names, before or after."""
        owners: set[Owner] = set()
        match record:
            case App():
                owners = self._apps((record.name,)) | self._names_of(record)
            case Address(app=app) | Deployment(app=app):
                owners = self._apps((app,)) | {("names", app)}
            case Organization():
                owners = self._org(record)
            case KeyPair() | AcmeName() | AcmeChallenge():
                owners = self._certificate(record.app)
            case SelfSigned():
                owners = {HOST, *self._certificate("")}
            case Machine():
                owners = self._machine(record) | self._names_with(record)
            case MachineChecks():
                owners = self._checks(record)
            case Network():
                owners = self._network(record)
            case WireguardPeer():
                owners = self._peer(record)
        return owners

    def _checks(self, checks: MachineChecks) -> set[Owner]:
        """Tables and clusters of its machine's app."""
        machine = self._state.machines.get(checks.machine)
        return {("app", machine.app)} if machine else set()

    def _certificate(self, app: str) -> set[Owner]:
        """The operator's is every app's."""
        if not self._site.proxied:
            return set()
        return {("proxy", name) for name in ((app,) if app else self._state.app_names())}

    def _org(self, org: Organization) -> set[Owner]:
        """Who may replay to its apps."""
        if not self._site.proxied:
            return set()
        return {("proxy", app.name) for app in self._state.apps.values() if app.org == org.name}

    def _machines(self, machines: Iterable[Machine]) -> list[Owner]:
        """Those that may have rows here: with a mesh, also those of others."""
        return [("machine", m.id) for m in machines if self._has_mesh or m.host == self._here]

    def _neighbours(self) -> list[Owner]:
        if not self._has_mesh:
            return []
        return [("mesh", name) for name in self._state.hosts if name != self._here]

    def _apps(self, names: Iterable[str]) -> set[Owner]:
        """Apps and all their machines."""
        owners: set[Owner] = set()
        for app in names:
            owners.add(("app", app))
            owners.update(self._machines(self._state.machines_of(app)))
        return owners

    def _machine(self, machine: Machine) -> set[Owner]:
        """The machine, and whoever claims the same interface, addresses or
        number: it may be their turn now, or no longer."""
        state = self._state
        rivals = {
            rival.id: rival
            for rivals in (
                state.machines_at(machine.host, machine.interface),
                state.machines_with_ip(machine.private_ip),
                state.machines_with_ip(machine.services_ip),
                state.machines_with_number(machine.number),
            )
            for rival in rivals
        }
        rivals[machine.id] = machine
        owners: set[Owner] = {("app", rival.app) for rival in rivals.values()}
        return owners.union(self._machines(rivals.values()))

    def _named_here(self) -> set[str]:
        """Apps of networks that have machines on this host."""
        state = self._state
        apps = {machine.app for machine in state.machines_on(self._here)}
        networks = {network_of(state.apps[app]) for app in apps if app in state.apps}
        return {app for network in networks for app in self._named_in(network)}

    def _named_in(self, network: str) -> set[str]:
        """The apps with names in a network: its own, and those that have a Flycast
        address there."""
        callable_there = {address.app for address in self._state.addresses_on(network)}
        return callable_there.union(self._state.apps_in(network))

    def _names_of(self, app: App) -> set[Owner]:
        """Its own names, and those of its network if that is here by it."""
        owners: set[Owner] = {("names", app.name)}
        if any(m.host == self._here for m in self._state.machines_of(app.name)):
            owners.update(("names", other) for other in self._named_in(network_of(app)))
        return owners

    def _names_with(self, machine: Machine) -> set[Owner]:
        """The names of its app, and those of its network if it is the first or was
        the last one of that here."""
        state = self._state
        owners: set[Owner] = {("names", machine.app)}
        app = state.apps.get(machine.app)
        if app is None or machine.host != self._here:
            return owners
        network = network_of(app)
        if state.seats.is_only(machine) or not state.seats.taken(self._here, network):
            owners.update(("names", other) for other in self._named_in(network))
        return owners

    def _names_on(self, host: str) -> set[Owner]:
        """The names that machines of a host have a part in."""
        return {("names", machine.app) for machine in self._state.machines_on(host)}

    def _network(self, network: Network) -> set[Owner]:
        """The machines and users' peers of this host in it, and in those that
        claim its number."""
        idents = {network.ident}
        idents.update(other.ident for other in self._state.networks_with_number(network.number))
        owners: set[Owner] = {
            ("machine", machine.id)
            for ident in idents
            for app in self._state.apps_in(ident)
            for machine in self._state.machines_of(app)
            if machine.host == self._here
        }
        peers: set[Owner] = {
            ("wireguard", peer.ident)
            for peer in self._state.peers_at(self._here)
            if f"{peer.org}/{peer.network}" in idents
        }
        names: set[Owner] = {("names", app) for ident in idents for app in self._named_in(ident)}
        if self._site.proxied:
            owners |= self._apps({a.app for i in idents for a in self._state.addresses_on(i)})
        return owners | names | peers | ({HOST} if peers else set())

    def _peer(self, peer: WireguardPeer) -> set[Owner]:
        """The peer, those that claim the same, and whether there is any."""
        if peer.host != self._here:
            return set()
        same = self._state.peers_like(peer)
        return {HOST, ("wireguard", peer.ident), *(("wireguard", other.ident) for other in same)}

    def _cluster(self, before: AnyRecord | None, after: AnyRecord | None) -> set[Owner]:
        """Its counters change with every machine; no row has them."""
        if not isinstance(before, Cluster) or not isinstance(after, Cluster):
            return {HOST} if not self._has_mesh else set(self.everything())
        if before.mesh_generation != after.mesh_generation:
            return self._generation(before.mesh_generation, after.mesh_generation)
        return {HOST} if before.seed != after.seed else set()

    def _generation(self, before: int, after: int) -> set[Owner]:
        """Other keys to send with: hosts that have only one of the two are
        reached now, or no longer."""
        owners = {HOST, *self._neighbours()}
        for host in self._state.hosts.values():
            if (str(before) in host.keys) != (str(after) in host.keys):
                if host.name == self._here:
                    return set(self.everything())
                owners |= self._apps_on(host.name)
        return owners

    def _host(self, before: AnyRecord | None, after: AnyRecord | None) -> set[Owner]:
        found = [record for record in (before, after) if isinstance(record, Host)]
        name = found[0].name
        rivals = {rival.name for host in found for rival in self._state.fleet.rivals(host)}
        names = rivals | {name}
        if len(found) == 2 and replace(found[0], drained=found[1].drained) == found[1]:
            return self._apps_on(name) | self._names_on(name)
        if len(found) == 2 and replace(found[0], keys=found[1].keys) == found[1]:
            return self._keys(*found)
        if self._here in names:
            return {*self.everything(), ("mesh", name)}
        owners: set[Owner] = self._names_on(name)
        for other in names if self._has_mesh else ():
            owners.add(("mesh", other))
            machines = self._state.machines_on(other)
            owners.update(self._machines(machines))
            owners.update(("app", machine.app) for machine in machines)
        return owners

    def _keys(self, before: Host, after: Host) -> set[Owner]:
        """Another key to send with can make a host one that is reached."""
        if not self._has_mesh:
            return set()
        reached = self._hosts.has_key(before) != self._hosts.has_key(after)
        if after.name != self._here:
            apps = self._apps_on(after.name) if reached else set()
            return {("mesh", after.name), *apps}
        return set(self.everything()) if reached else {HOST, *self._neighbours()}

    def _apps_on(self, host: str) -> set[Owner]:
        """The apps with machines there: their tables have them, or not."""
        return {("app", machine.app) for machine in self._state.machines_on(host)}

    def _presence(self, presence: Presence) -> set[Owner]:
        """The first one and the last one matter to all: without any, everybody
        is taken to be there."""
        others = self._state.fleet.presences.keys() - {presence.host}
        names: set[Owner] = self._names_on(presence.host)
        if not others:
            names = {("names", app) for app in self._named_here()}
        if not self._has_mesh:
            return names
        if not others:
            return names | {("app", app) for app in self._state.app_names()}
        return names | self._apps_on(presence.host)

    def _latency(self, host: str, before: AnyRecord | None, after: AnyRecord | None) -> set[Owner]:
        """Apps in regions that have changed places in the order of distance
        from this one: at least one region of each pair that has."""
        here, state = self._site.config.region, self._state
        sides = [r for r in (before, after) if isinstance(r, Latency) and r.region == here]
        if not self._has_mesh or not sides:
            return set()
        others = [found for found in state.fleet.measured_in(here) if found.host != host]
        fixed = self._site.config.mesh.latency
        regions = state.fleet.regions()
        orders = []
        for side in (before, after):
            measured = isinstance(side, Latency) and side.region == here
            mine = [side] if isinstance(side, Latency) and measured else []
            orders.append(Distances(here, [*others, *mine], fixed).order(regions))
        moved = {
            region for pair in zip(*orders, strict=True) if pair[0] != pair[1] for region in pair
        }
        return {
            owner
            for region in moved
            for found in state.fleet.hosts_in(region)
            for owner in self._apps_on(found.name)
        }
