# SPDX-License-Identifier: Apache-2.0
"""Users' WireGuard peers: one device for all of a host's, there while there is
a peer. What a peer sends is judged by ``peer_tc``; nothing is routed to it by
the host's stack, the programs redirect."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from flyebpf.drivers.mesh_tools import OWN_SETTINGS, Tools, are_set, write_settings
from flyebpf.drivers.netlink_io import filter_name
from flyebpf.drivers.wireguard import PeerChange, canonical
from flyebpf.drivers.wireguard_uapi import key_hex
from flyebpf.errors import FlyebpfError, InvalidError
from flyebpf.model.records import PEERS_KEY
from flyebpf.model.rows import Row, UserPeerRow
from flyebpf.reconcile.base import Failure
from flyebpf.wireguardkeys import public_half

ROLE = "peer_tc"
MTU = 1420
"""What WireGuard leaves of an Ethernet; users' own ends choose theirs."""

DEVICE = "device "


class UserPeers:
    """``port``: UDP, of the device."""

    def __init__(self, tools: Tools, port: int) -> None:
        self._tools = tools
        self._netlink = tools.netlink
        self._mesh = tools.mesh
        self._devices = tools.devices
        self._port = port
        self._rows: dict[str, UserPeerRow] = {}

    def _guarded(self) -> set[str]:
        """Devices that are for users' peers: our program is on them."""
        found = {row.interface for row in self._rows.values()}
        for name in self._devices.names():
            facts = self._mesh.look(name)
            if facts and f":{ROLE}:" in self._netlink.filter(name, facts.ifindex):
                found.add(name)
        return found

    def read(self) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        for name in self._guarded():
            facts = self._mesh.look(name)
            if facts is None:
                continue
            found[DEVICE + name] = "there"
            guard = self._netlink.filter(name, facts.ifindex)
            device = self._devices.read(name)
            key = public_half(device.private_key) if device.private_key else ""
            settings = are_set(name, OWN_SETTINGS) and self._devices.has_room(name)
            state = (guard, facts.up, key, device.port, settings)
            found |= {
                peer.public_key: (name, peer.allowed, state) for peer in device.peers.values()
            }
        wanted = {DEVICE + row.interface for row in self._rows.values()}
        return {key: value for key, value in found.items() if key not in wanted}

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, UserPeerRow)
        self._rows.setdefault(row.public_key, row)  # of an earlier daemon, in place
        guard = filter_name(ROLE, self._tools.programs[ROLE])
        state = (guard, True, self._tools.keys.public(PEERS_KEY), self._port, True)
        return row.interface, frozenset((row.address,)), state

    def put(self, rows: Sequence[UserPeerRow]) -> list[Failure]:
        failures: list[Failure] = []
        for interface in dict.fromkeys(row.interface for row in rows):
            of_it = [row for row in rows if row.interface == interface]
            try:
                failures += self._put(interface, of_it)
            except FlyebpfError as error:
                failures += [
                    Failure(UserPeerRow, row.key, error.message, error.remedy) for row in of_it
                ]
        return failures

    def _put(self, interface: str, rows: list[UserPeerRow]) -> list[Failure]:
        self._device(interface)
        have = self._devices.read(interface).peers
        failures, changes = [], []
        for row in rows:
            self._rows[row.public_key] = row
            try:
                key_hex(row.public_key)
                allowed = canonical([row.address])
            except InvalidError as error:
                failures.append(Failure(UserPeerRow, row.key, error.message, error.remedy, True))
                continue
            if row.public_key not in have or have[row.public_key].allowed != allowed:
                changes.append(PeerChange(row.public_key, allowed=allowed))
        if changes:
            self._devices.write(interface, peers=changes)
        return failures

    def _device(self, name: str) -> None:
        """Made, guarded, and only then up."""
        facts = self._tools.device(name, ROLE)
        self._tools.set_up(name, PEERS_KEY, self._port)
        if facts.mtu != MTU:
            self._mesh.configure(name, facts.ifindex, mtu=MTU)
        write_settings(name, OWN_SETTINGS)
        if not facts.up:
            self._mesh.configure(name, facts.ifindex, state="up")
        self._devices.make_room(name)

    def delete(self, keys: Sequence[Hashable]) -> list[Failure]:
        failures = []
        for key in keys:
            try:
                self._delete(str(key))
            except FlyebpfError as error:
                failures.append(Failure(UserPeerRow, key, error.message, error.remedy))
        return failures

    def _delete(self, key: str) -> None:
        self._rows.pop(key, None)
        in_use = {row.interface for row in self._rows.values()}
        for name in self._guarded() | self._named(key):
            have = self._devices.read(name).peers if self._devices.implementation(name) else {}
            if name not in in_use and not have.keys() - {key}:
                self._devices.delete(name)
            elif key in have:
                self._devices.write(name, peers=[PeerChange(key, remove=True)])

    def _named(self, key: str) -> set[str]:
        return {key.removeprefix(DEVICE)} if key.startswith(DEVICE) else set()
