# SPDX-License-Identifier: Apache-2.0
"""From the store's changes to applied rows.

All methods but the properties are for one thread. Nothing here waits.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

from flyebpf import collector
from flyebpf.config import DaemonConfig
from flyebpf.daemon.mesh_rotation import View
from flyebpf.drivers.bpf_maps import Image, MapsDriver
from flyebpf.drivers.host_port import HostPortDriver
from flyebpf.drivers.link_table import LinkTable
from flyebpf.drivers.mesh import MeshDriver
from flyebpf.drivers.netlink import NetlinkDriver
from flyebpf.errors import FlyebpfError
from flyebpf.model.health import MachineChecks
from flyebpf.model.records import PLANNED, Machine
from flyebpf.model.rows import (
    HostPortRow,
    HostRow,
    InterfaceRow,
    MeshPeerRow,
    MeshRow,
    Row,
    ServiceRow,
    SettingsRow,
    SlotRow,
    TableRow,
    UplinkRow,
    UserPeerRow,
)
from flyebpf.model.sixpn import HOST_PORT, HOST_PORT_FAR
from flyebpf.model.state import State, Update
from flyebpf.plan.planner import Planner
from flyebpf.reconcile.base import Driver
from flyebpf.reconcile.reconciler import Reconciler
from flyebpf.store.base import CompactedError, Store, StoreUnavailableError

log = logging.getLogger(__name__)
Owner = tuple[str, ...]


class Follower(Protocol):
    """Whoever else acts on the state; told in the main thread, after it was planned."""

    def loaded(self, state: State) -> None:
        """The whole state is a new one."""

    def changed(self, state: State, updates: Sequence[Update]) -> None:
        """What has changed in it, in order."""


class Engine:
    """State, planner and reconciler of one host.

    ``services``: names of each owner's services, for their counters.
    """

    def __init__(
        self,
        config: DaemonConfig,
        store: Store,
        *,
        maps: MapsDriver,
        netlink: NetlinkDriver,
        mesh: MeshDriver | None = None,
        host_port: HostPortDriver | None = None,
        others: Sequence[Driver],
        links: LinkTable,
        programs: str,
    ) -> None:
        """``programs``: the digest of the programs' source."""
        self.config = config
        self.maps = maps
        self.netlink = netlink
        self.links = links
        self.state = State()
        self.planner = Planner(config)
        guards = (netlink, mesh, host_port)
        self._guards = [driver for driver in guards if driver is not None]
        self.reconciler = Reconciler([maps, *self._guards, *others])
        self.followers: list[Follower] = []
        self.services: dict[Owner, tuple[str, ...]] = {}
        self.applied_revision = 0
        self.loaded = False
        self._store = store
        self._programs = programs

    def is_image(self) -> bool:
        """Whether the kernel holds what an earlier daemon, with this configuration
        and these programs, made of what the store holds now. What nothing is
        planned from may have changed.

        Where as many records are there as were then, and none was written since,
        they are the same ones."""
        image = self.maps.applied()
        if image is None:
            return False
        try:
            extents = self._store.extents(sorted(PLANNED))
        except StoreUnavailableError:
            return False
        counts = {kind: extent.count for kind, extent in extents.items()}
        newest = max(extent.newest for extent in extents.values())
        return newest <= image.revision and image == self._image(image.revision, counts)

    def serves_uplinks(self) -> bool:
        """Whether the present programs are on every uplink. An interface that
        was made anew has none, whatever the maps hold."""
        rows = [UplinkRow(name, self.config.dataplane.xdp_mode) for name in self.config.uplinks]
        try:
            found = self.netlink.read(UplinkRow)
        except (FlyebpfError, OSError) as error:
            log.warning("uplinks cannot be looked at: %s", error)
            return False
        return all(found.get(row.key) == self.netlink.fingerprint(row) for row in rows)

    def maps_filled(self) -> bool:
        """Whether some daemon has got to the end of filling these maps. One
        that made them may have died before that."""
        return self.maps.applied() is not None

    def _image(self, revision: int, counts: Mapping[str, int]) -> Image:
        """``counts``: of the records of each kind in PLANNED."""
        text = f"{revision} {sorted(counts.items())} {self._programs} {self.config!r}"
        digest = blake2b(text.encode(), digest_size=8).digest()
        return Image(int.from_bytes(digest, "little"), revision)

    def load(self) -> None:
        """Take the whole state from the store and plan everything."""
        revision, entries = self._store.snapshot()
        self.state = State.load(revision, entries)
        for kind_id, error in self.state.quarantined.items():
            log.error("record %s is left out: %s", "/".join(kind_id), error)
        self._plan_all()
        self.reconciler.mark_complete()
        self.loaded = True
        for follower in self.followers:
            follower.loaded(self.state)

    def _plan_all(self) -> None:
        owners = self.planner.all_owners(self.state)
        gone = [owner for owner in self.reconciler.owners() if owner not in owners]
        with collector.paused():
            self._plan(gone)
            self._plan(owners)

    def _plan(self, owners: Iterable[Owner]) -> None:
        for owner in owners:
            rows = self.planner.rows(self.state, owner)
            self._learn(owner, rows)
            self.reconciler.set_desired(owner, rows)

    def _learn(self, owner: Owner, rows: Sequence[Row]) -> None:
        names = {row.service: None for row in rows if isinstance(row, ServiceRow)}
        if names:
            self.services[owner] = tuple(names)
        else:
            self.services.pop(owner, None)
        self.maps.learn([row for row in rows if isinstance(row, TableRow)])

    def reconfigure(self, config: DaemonConfig) -> None:
        """Plan everything anew with another configuration. From the first
        write on the maps are no image of the old one, nor yet of this one."""
        self.maps.set_applied(None)
        self.config = config
        self.planner = Planner(config)
        if self.loaded:
            self._plan_all()

    def catch_up(self) -> None:
        """Take in the store's changes since the last time, and apply them."""
        without = self._without_slot()  # a change makes the reconciler forget
        try:
            while changes := self._store.changes(self.state.revision):
                owners: dict[Owner, None] = {}
                updates = []
                for change in changes:
                    update = self.state.apply(change)
                    updates.append(update)
                    owners.update(dict.fromkeys(self.planner.owners(update, self.state)))
                self._plan(owners)
                for follower in self.followers:
                    follower.changed(self.state, updates)
        except CompactedError:
            log.warning("too many changes at once: reading the whole store")
            self.load()
        self._sync(without)

    def sync(self) -> None:
        """Apply what is dirty."""
        self._sync(self._without_slot())

    def _sync(self, without: set[Hashable]) -> None:
        """``without``: machines that had no slot, and so no share of new flows."""
        self.reconciler.sync_dirty()
        if without and (served := without - self._without_slot()):
            self._touch_tables(self.state.machines.get(str(ident)) for ident in served)
            self.reconciler.sync_dirty()
        self._note()

    def _without_slot(self) -> set[Hashable]:
        """Machines whose slot could not be applied: their tables leave them out."""
        return {row.key for row in self.reconciler.failures if row.kind is SlotRow}

    def sync_full(self) -> bool:
        """Compare everything with the kernel and repair it. True when
        something had to be repaired, or could not be and was before: then what
        refers to it is looked at again by another pass."""
        self.links.forget()
        before = self._outcome()
        with collector.paused():
            self.reconciler.sync_full()
            self.maps.sweep()
        self._note()
        return self._outcome() != before

    def _outcome(self) -> tuple[int, frozenset[tuple[type[Row], Hashable]]]:
        """What was repaired, counted, and what has failed."""
        failed = frozenset((row.kind, row.key) for row in self.reconciler.failures)
        return self.reconciler.stats.drift_repaired, failed

    def _note(self) -> None:
        """Tell the next daemon what the kernel holds, so that it is ready sooner."""
        revision = self.state.revision
        image = self._image(revision, self.state.stored(PLANNED))
        try:
            if self.maps.applied() != image:
                self.maps.set_applied(image)
        except FlyebpfError as error:
            log.warning("the next start will take longer: %s", error.message)
        self.applied_revision = revision

    def links_changed(self, names: set[str] | None) -> None:
        """Interfaces came, went or changed; None: unknown which."""
        if names is None:
            self.sync_full()
            return
        mine = {name for name in names if self._is_mine(name)}
        for name in names - mine - self._mesh_changed(names - mine):
            self.links.forget(name)  # it may be another one when a machine gets it
        if names & {HOST_PORT, HOST_PORT_FAR}:
            self.reconciler.touch(HostPortRow, [HOST_PORT])
            self.reconciler.touch(SettingsRow, ["settings"])
        changed = self.links.refresh(mine)
        self._touch_slots(changed)
        self.reconciler.touch(InterfaceRow, mine)
        uplinks = changed.intersection(self.config.uplinks)
        if uplinks:
            self.reconciler.touch(SettingsRow, ["settings"])
            self.reconciler.touch(UplinkRow, uplinks)
        self.reconciler.sync_dirty()

    def _touch_slots(self, interfaces: set[str]) -> None:
        """The machines there, and the tables that they join or leave."""
        found = [self.state.machines_at(self.config.host, name) for name in interfaces]
        machines = [machine for group in found for machine in group]
        self.reconciler.touch(SlotRow, [machine.id for machine in machines])
        self._touch_tables(machines)

    def _mesh_changed(self, names: set[str]) -> set[str]:
        """The mesh devices among them; what leads over those that are new is
        applied anew."""
        rows = self.reconciler.wanted
        devices = names & {r.interface for r in rows(MeshRow)}
        devices |= names & {r.interface for r in rows(UserPeerRow)}
        if not devices:
            return devices
        self.reconciler.touch(MeshRow, devices)
        renewed = self.links.refresh(devices)
        if renewed:
            self.reconciler.touch(MeshPeerRow, [row.key for row in rows(MeshPeerRow)])
            self.reconciler.touch(HostRow, [row.key for row in rows(HostRow)])
            self.reconciler.touch(UserPeerRow, [row.key for row in rows(UserPeerRow)])
            self.reconciler.touch(SettingsRow, ["settings"])
        return devices

    def published_checks(self) -> dict[str, MachineChecks] | None:
        """Results of checks of this host's machines, as the store has them; None
        before the state is loaded."""
        if not self.loaded:
            return None
        found = self.state.checks
        here = self.state.machines_on(self.config.host)
        return {machine.id: found[machine.id] for machine in here if machine.id in found}

    def mesh_view(self) -> View | None:
        """What the host's part in the cluster depends on; None before the state
        is loaded, and of a store without a cluster."""
        cluster = self.state.cluster
        if not self.loaded or cluster is None:
            return None
        if self.state.revision != self.applied_revision:
            return None  # the store went away halfway: what it says is not in the kernel
        rows = self.reconciler.wanted
        meshes, peers = tuple(rows(MeshRow)), tuple(rows(MeshPeerRow))
        failed = {(failure.kind, failure.key) for failure in self.reconciler.failures}
        wrong = {row.interface for row in meshes if (MeshRow, row.key) in failed}
        wrong |= {row.interface for row in peers if (MeshPeerRow, row.key) in failed}
        return View(
            revision=self.applied_revision,
            cluster=cluster,
            hosts=dict(self.state.hosts),
            statuses=dict(self.state.host_status),
            present=frozenset(self.state.fleet.presences),
            meshes=meshes,
            peers=peers,
            failed=wrong,
        )

    def _touch_tables(self, machines: Iterable[Machine | None]) -> None:
        for app in {machine.app for machine in machines if machine is not None}:
            rows = self.planner.rows(self.state, ("app", app))
            self.reconciler.touch(TableRow, [row.key for row in rows if isinstance(row, TableRow)])

    def hold(self, on: bool) -> None:
        """While on, no program that guards or serves is replaced by a new one."""
        for driver in self._guards:
            driver.hold(on)

    def replace_held(self) -> None:
        """Swap the programs that were held back while new maps were filled."""
        self.hold(False)
        for kind in (MeshRow, UserPeerRow, HostPortRow):
            self.reconciler.touch(kind, [row.key for row in self.reconciler.wanted(kind)])
        machines = self.state.machines_on(self.config.host)
        self.reconciler.touch(InterfaceRow, [machine.interface for machine in machines])
        self.sync()

    def recheck_slow(self) -> None:
        """A veth takes redirected packets once its peer can; nobody tells."""
        slow = set(self.slow_interfaces())
        if changed := self.links.refresh(slow):
            self._touch_slots(changed)
            self.reconciler.sync_dirty()

    def _is_mine(self, name: str) -> bool:
        return name in self.config.uplinks or bool(self.state.machines_at(self.config.host, name))

    def delivery_ways(self) -> dict[str, str]:
        """Interfaces of machines, and the way that packets take to each: xdp, tc
        where it takes no XDP redirect, or missing where it does not exist."""
        names = [machine.interface for machine in self.state.machines_on(self.config.host)]
        links = {name: self.links.peek(name) for name in names}
        return {
            name: "missing" if link is None else "xdp" if link.redirect else "tc"
            for name, link in links.items()
        }

    def slow_interfaces(self) -> list[str]:
        """Interfaces of machines that take no XDP redirect."""
        return [name for name, way in self.delivery_ways().items() if way == "tc"]
