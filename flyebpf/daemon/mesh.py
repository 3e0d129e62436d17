# SPDX-License-Identifier: Apache-2.0
"""This host's part in the cluster: it says that it is there and how it is, keeps
its keys, and measures how far the others are. All of it beside the data plane:
where the store is away, only this waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flyebpf.api.backend import MeshStatus, PeerStatus
from flyebpf.config import DaemonConfig
from flyebpf.daemon import mesh_keys, mesh_latency, mesh_status
from flyebpf.daemon.heartbeat import ALONE_EVERY, Repeat, renew_presence
from flyebpf.daemon.mesh_rotation import WIREGUARD, Rotation, View
from flyebpf.drivers.wireguard_devices import WireguardReader
from flyebpf.drivers.wireguard_keys import Keys
from flyebpf.errors import ConflictError, FlyebpfError
from flyebpf.model.codec import encode
from flyebpf.model.records import Host, Latency
from flyebpf.model.sixpn import host_address
from flyebpf.store.base import Put, Store, Transaction

TICK = 1.0  # seconds between looks at keys and peers
LOOK_EVERY = 5.0  # at devices, while no keys are being rotated
STATUS_EVERY = 10.0
HOSTS_A_SECOND = 10
"""Every host hears of every other one's status: no more of them in a second, also
when one host goes and all others have that to tell."""

ROUND_EVERY = 10.0  # between rounds of echoes
FIRST_ROUNDS = 1.0  # until there is something to publish
TOLD_EVERY = 30.0  # between publications of latencies, at least

ViewOf = Callable[[], View | None]
"""The main thread's view; None before the state is loaded. Raises TimeoutError."""


class MeshAgent:
    """``view``: asked from threads of the agent. ``identity``: of this machine,
    where others could run under the same name."""

    def __init__(
        self,
        config: DaemonConfig,
        store: Store,
        view: ViewOf,
        *,
        version: str,
        programs: str,
        identity: str = "",
    ) -> None:
        self._config = config
        self._identity = identity
        self._replaced: ConflictError | None = None
        self._host = config.host
        self._store = store
        self._view = view
        self._version = version
        self._programs = programs
        self._keys = Keys(Path(config.state_dir))
        self._reader = WireguardReader(Path(config.state_dir))
        self._rotation = Rotation(config.host)
        self._times = mesh_latency.Times()
        self._told: dict[str, int] | None = None
        self._told_at = float("-inf")
        self._stated_at = self._looked_at = float("-inf")
        self._seen = mesh_status.Seen("", {})
        self._handshakes: Mapping[str, str] = {}
        self._stated: tuple[object, ...] = ()
        shared = config.store == "etcd"
        self._status_every = STATUS_EVERY if shared else ALONE_EVERY
        self._parts = [
            Repeat("presence", lambda: self._renew(forgets=shared)),
            Repeat("mesh", self._tick),
            Repeat("latency", self._measure, retry=ROUND_EVERY),
        ]

    def start(self) -> None:
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Presence is left to expire: the data plane goes on, and so may the
        next daemon."""
        for part in self._parts:
            part.stop()

    @property
    def errors(self) -> list[str]:
        """What does not work now, in words."""
        return list(dict.fromkeys(part.error for part in self._parts if part.error))

    @property
    def faults(self) -> list[FlyebpfError]:
        """Those of them that need somebody to do something. Round trips do not."""
        found = [part.fault for part in self._parts[:2] if part.fault is not None]
        return list({fault.message: fault for fault in found}.values())

    def _renew(self, *, forgets: bool) -> float:
        if self._replaced is not None:
            raise self._replaced
        return renew_presence(self._store, self._host, forgets=forgets)

    def _tick(self) -> float:
        view = self._view()
        if view is None:
            return TICK
        self._replaced = replaced(view.hosts.get(self._host), self._host, self._identity)
        if self._replaced is not None:
            raise self._replaced
        if self._host not in view.present:  # somebody has taken it away: see heartbeat.py
            self._parts[0].soon()
        mesh_keys.step(self._store, self._config.mesh, self._keys, self._rotation, view)
        if self._rotation.may_switch(view):
            mesh_keys.switch(self._store, view.cluster.next_generation)
        self._state(view)
        return TICK

    def _state(self, view: View) -> None:
        """Write the host's status, when it is time or there is news."""
        now = time.monotonic()
        if not view.rotating and now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        names = [row.interface for row in view.meshes if row.underlay == WIREGUARD]
        seen = self._seen = mesh_status.look(self._reader, names)
        found = mesh_status.handshakes(view, seen)
        self._handshakes = {name: mesh_status.text(at) for name, at in found.items()}
        news = mesh_status.signature(view, seen)
        least = len(view.hosts) / HOSTS_A_SECOND
        every = max(self._status_every, least) if news == self._stated else least
        if now - self._stated_at < every:
            return
        status = mesh_status.host_status(
            self._host, view, seen, version=self._version, programs=self._programs
        )
        put = Put(status.kind, status.ident, encode(status))
        self._store.commit(Transaction((), (put,)))
        self._stated, self._stated_at = news, now

    def _measure(self) -> float:
        """One round of echoes, and what it brings to light."""
        view = self._view()
        own = view.hosts.get(self._host) if view else None
        if view is None or own is None or not view.meshes or not view.peers:
            return ROUND_EVERY
        names = {row.host for row in view.peers} & view.hosts.keys()
        targets = {name: host_address(view.hosts[name].number) for name in sorted(names)}
        with mesh_latency.Echo(host_address(own.number)) as echo:
            self._times.add(targets, echo.round(targets))
        regions = {name: host.region for name, host in view.hosts.items()}
        self._tell(own.region, mesh_latency.by_region(self._times.medians(), regions))
        return ROUND_EVERY if self._told is not None else FIRST_ROUNDS

    def _tell(self, region: str, measured: Mapping[str, int]) -> None:
        if self._told is None and not measured:
            return
        now = time.monotonic()
        if not mesh_latency.worth_telling(self._told or {}, measured):
            return
        if now - self._told_at < TOLD_EVERY:
            return
        record = Latency(self._host, region, dict(measured))
        put = Put(record.kind, record.ident, encode(record))
        self._store.commit(Transaction((), (put,)))
        self._told, self._told_at = dict(measured), now

    def status(self, view: View | None) -> MeshStatus | None:
        """For ``status``, as devices were seen last; None for a host without a
        mesh. Waits for nobody."""
        if view is None or not view.meshes:
            return None
        return mesh_status.mesh_status(view, self._seen, self._times.medians())

    def handshakes(self) -> Mapping[str, str]:
        """Other hosts to the last handshake with each, RFC 3339, "" for never, as
        devices were seen last. Waits for nobody."""
        return self._handshakes

    def user_peers(self, interface: str) -> Mapping[str, PeerStatus]:
        """What the device knows of users' peers, by public key."""
        if not self._reader.implementation(interface):
            return {}
        try:
            return mesh_status.user_peers(self._reader.read(interface))
        except FlyebpfError:
            return {}


def replaced(own: Host | None, host: str, identity: str) -> ConflictError | None:
    """Why this machine must say nothing as ``host`` any more, or None: its keys in
    the other one's record would cut that one off."""
    if own is None:
        return ConflictError(
            f"host {host!r} has been removed from the cluster",
            "Stop the daemon here; or restart it, to let the host join anew.",
        )
    if identity and own.identity not in ("", identity):
        return ConflictError(
            f"another machine has become host {host!r}"
            f"{f', at {own.endpoint}' if own.endpoint else ''}",
            "Stop one of the two, and give it a name of its own in its configuration.",
        )
    return None
