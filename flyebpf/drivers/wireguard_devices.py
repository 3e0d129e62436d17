# SPDX-License-Identifier: Apache-2.0
"""WireGuard devices, of the kernel where it can, else of ``wireguard-go``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from flyebpf.drivers.netlink_dumps import link_kind
from flyebpf.drivers.netlink_mesh import MESH_GROUP, Facts, MeshNetlink
from flyebpf.drivers.netlink_wireguard import KernelWireguard
from flyebpf.drivers.wireguard import Backend, Device, PeerChange
from flyebpf.drivers.wireguard_go import WireguardGo
from flyebpf.errors import ConflictError, UnavailableError

KERNEL_KIND, GO_KIND = "wireguard", "tun"
DYING = 2.0  # seconds
QUEUE = 1024
"""Packets that may wait for wireguard-go: as many as the kernel's WireGuard lets
wait (MAX_QUEUED_PACKETS of its messages.h); a TUN device's own default is 500."""


class WireguardReader:
    """What devices are and know; for any thread. ``folder``: the daemon's state."""

    def __init__(self, folder: Path) -> None:
        self.kernel = KernelWireguard()
        self.go = WireguardGo(folder)

    def implementation(self, device: str) -> str:
        """ "kernel", "wireguard-go", or "" when there is no such device."""
        if link_kind(device) == KERNEL_KIND:
            return self.kernel.name
        return self.go.name if self.go.runs(device) else ""

    def backend(self, device: str) -> Backend:
        """What runs the device. Raises UnavailableError when nothing does."""
        name = self.implementation(device)
        if not name:
            raise UnavailableError(f"there is no WireGuard device {device}")
        return self.kernel if name == self.kernel.name else self.go

    def read(self, device: str) -> Device:
        """Raises KernelError or UnavailableError."""
        return self.backend(device).read(device)


class WireguardDevices(WireguardReader):
    """Makes and removes them too; for one thread."""

    def __init__(self, folder: Path, netlink: MeshNetlink) -> None:
        super().__init__(folder)
        self._netlink = netlink

    def names(self) -> set[str]:
        """Every device of ours."""
        return self._netlink.of_group() | self.go.devices()

    def ensure(self, device: str) -> Facts:
        """The device, made (down) when it is not there. Raises ConflictError
        when the name is somebody else's."""
        facts = self._netlink.look(device)
        deadline = time.monotonic() + DYING
        while facts is not None and self._is_dying(device, facts) and time.monotonic() < deadline:
            time.sleep(0.01)
            facts = self._netlink.look(device)
        if facts is not None and not self._is_ours(device, facts):
            raise ConflictError(
                f"interface {device} exists, and is no WireGuard device of this daemon",
                "Remove it, or set another mesh.interface in the configuration.",
            )
        if facts is None:
            self.go.delete(device)  # a process whose device somebody has deleted
            if not self._netlink.create_wireguard(device):
                self.go.create(device)
            facts = self._netlink.look(device)
        if facts is None:
            raise ConflictError(f"interface {device} went away while it was set up")
        if facts.group != MESH_GROUP:
            self._netlink.configure(device, facts.ifindex, group=MESH_GROUP)
        return facts

    def has_room(self, device: str) -> bool:
        """Whether what comes while its process waits for a core finds room in its
        sockets and its queue. The kernel's takes packets as they come."""
        if self.implementation(device) != self.go.name:
            return True
        facts = self._netlink.look(device)
        return facts is None or (facts.queue >= QUEUE and self.go.has_room(device))

    def make_room(self, device: str) -> None:
        """Of a device that is up."""
        if self.implementation(device) != self.go.name:
            return
        facts = self._netlink.look(device)
        if facts is not None and facts.queue < QUEUE:
            self._netlink.configure(device, facts.ifindex, txqlen=QUEUE)
        self.go.make_room(device)

    def _is_ours(self, device: str, facts: Facts) -> bool:
        if facts.kind == GO_KIND:
            return self.go.runs(device)
        return facts.kind == KERNEL_KIND and facts.group == MESH_GROUP

    def _is_dying(self, device: str, facts: Facts) -> bool:
        """Its process has ended, and it is about to."""
        is_go = facts.kind == GO_KIND and facts.group == MESH_GROUP
        return is_go and not self.go.runs(device)

    def delete(self, device: str) -> None:
        """Remove it, if it is ours and there."""
        facts = self._netlink.look(device)
        if self.go.pid(device):
            self.go.delete(device)
        elif facts is not None and self._is_ours(device, facts):
            self._netlink.delete(device)

    def write(
        self,
        device: str,
        *,
        private_key: bytes | None = None,
        port: int | None = None,
        peers: Sequence[PeerChange] = (),
    ) -> None:
        """As :meth:`flyebpf.drivers.wireguard.Backend.write`."""
        self.backend(device).write(device, private_key=private_key, port=port, peers=peers)
