# SPDX-License-Identifier: Apache-2.0
"""The driver of the mesh: devices, the other hosts on them, users' peers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from flyebpf.bpf.program import Program
from flyebpf.drivers.mesh_devices import MeshDevices
from flyebpf.drivers.mesh_peers import MeshPeers
from flyebpf.drivers.mesh_tools import Tools
from flyebpf.drivers.netlink_io import Netlink
from flyebpf.drivers.netlink_mesh import MeshNetlink
from flyebpf.drivers.user_peers import UserPeers
from flyebpf.drivers.wireguard_devices import WireguardDevices
from flyebpf.drivers.wireguard_keys import Keys
from flyebpf.errors import FlyebpfError
from flyebpf.model.rows import MeshPeerRow, MeshRow, Row, UserPeerRow
from flyebpf.reconcile.base import Failure


class MeshDriver:
    """``folder``: the daemon's state. ``created`` is told the name of every device
    that is made. ``peers_port``: UDP, of users' peers."""

    name = "mesh"
    kinds: tuple[type[Row], ...] = (MeshRow, MeshPeerRow, UserPeerRow)

    def __init__(
        self,
        folder: Path,
        programs: Mapping[str, Program],
        *,
        created: Callable[[str], None],
        peers_port: int,
    ) -> None:
        self._netlink = Netlink()
        self._mesh = MeshNetlink()
        devices = WireguardDevices(folder, self._mesh)
        tools = self._tools = Tools(
            self._netlink, self._mesh, devices, Keys(folder), programs, created
        )
        self._meshes = MeshDevices(tools)
        self._peers = MeshPeers(self._mesh, devices, self._meshes.rows)
        self._users = UserPeers(tools, peers_port)

    def hold(self, on: bool) -> None:
        """As :meth:`flyebpf.drivers.netlink.NetlinkDriver.hold`."""
        self._tools.hold = on

    def close(self) -> None:
        """Devices and processes go on."""
        self._netlink.close()
        self._mesh.close()

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        if kind is MeshRow:
            return self._meshes.read()
        return self._peers.read() if kind is MeshPeerRow else self._users.read()

    def fingerprint(self, row: Row) -> object:
        if isinstance(row, MeshRow):
            return self._meshes.fingerprint(row)
        if isinstance(row, MeshPeerRow):
            return self._peers.fingerprint(row)
        return self._users.fingerprint(row)

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        if kind is MeshRow:
            found = [self._put(row) for row in puts if isinstance(row, MeshRow)]
            found += [self._meshes.delete(str(key)) for key in deletes]
            return [failure for failure in found if failure is not None]
        if kind is MeshPeerRow:
            peers = [row for row in puts if isinstance(row, MeshPeerRow)]
            return self._peers.put(peers) + self._peers.delete(deletes)
        users = [row for row in puts if isinstance(row, UserPeerRow)]
        return self._users.put(users) + self._users.delete(deletes)

    def _put(self, row: MeshRow) -> Failure | None:
        before = self._meshes.rows.get(row.interface)
        failure = self._meshes.put(row)
        if failure is None and before is not None and before.sending != row.sending:
            try:
                self._peers.remeasure(row.interface)
            except FlyebpfError as error:
                return Failure(MeshRow, row.key, error.message, error.remedy)
        return failure
