# SPDX-License-Identifier: Apache-2.0
"""What the parts of the mesh driver share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flyebpf.bpf.program import Program
from flyebpf.drivers import sysctl
from flyebpf.drivers.netlink_io import HANDLE, SECOND, Netlink, filter_name
from flyebpf.drivers.netlink_mesh import Facts, MeshNetlink
from flyebpf.drivers.wireguard_devices import WireguardDevices
from flyebpf.drivers.wireguard_keys import Keys

Settings = Mapping[tuple[str, str], str]
"""Family and key of a setting of an interface, and its value."""

SETTINGS: Settings = {
    ("ipv6", "disable_ipv6"): "0",
    ("ipv4", "rp_filter"): "2",  # while keys are rotated, hosts are reached over two
}
OWN_SETTINGS: Settings = {**SETTINGS, ("ipv6", "addr_gen_mode"): "1"}
"""Of devices that we made: no link-local address, and so no multicast of it."""


PLACES = (HANDLE, SECOND)
BEHIND = {"mesh_tc": "mesh6_tc"}
"""What a program leaves to another one behind it."""


def roles_of(role: str) -> tuple[str, ...]:
    """The programs of a device, in the order of PLACES."""
    return (role, BEHIND[role]) if role in BEHIND else (role,)


@dataclass(slots=True)
class Tools:
    """``created`` is told the name of a device that is new. ``hold``: devices that
    an older program guards keep it, while the new programs' maps are filled."""

    netlink: Netlink
    mesh: MeshNetlink
    devices: WireguardDevices
    keys: Keys
    programs: Mapping[str, Program]
    created: Callable[[str], None]
    hold: bool = False

    def device(self, name: str, role: str) -> Facts:
        """A WireGuard device with the program on it, made if need be; a new one
        is down: nothing that comes in passes by the program."""
        before = self.mesh.look(name)
        facts = self.devices.ensure(name)
        if before is None or before.ifindex != facts.ifindex:
            self.created(name)
        self.guard(name, facts, role)
        return facts

    def guard(self, name: str, facts: Facts, role: str) -> None:
        """The program at its ingress, and before that the one behind it."""
        guards = self.guards(name, facts)
        wanted = self.wanted(role)
        held = self.hold and any(guards)
        for at in reversed(range(len(wanted))):
            if guards[at] != wanted[at] and not held:
                program = self.programs[roles_of(role)[at]]
                self.netlink.guard(name, facts.ifindex, program, roles_of(role)[at], at=PLACES[at])

    def guards(self, name: str, facts: Facts) -> tuple[str, ...]:
        """Our filters at its ingress, in their order; "" for one that is not there."""
        return tuple(self.netlink.filter(name, facts.ifindex, at=at) for at in PLACES)

    def wanted(self, role: str) -> tuple[str, ...]:
        """What :meth:`guards` should say of a device of this role."""
        return tuple(filter_name(name, self.programs[name]) for name in roles_of(role))

    def set_up(self, name: str, key: int | str, port: int) -> None:
        """Its key and its port, written only when they are others."""
        device = self.devices.read(name)
        private = self.keys.private(key)
        new_key = private if private != device.private_key else None
        new_port = port if port != device.port else None
        if new_key is not None or new_port is not None:
            self.devices.write(name, private_key=new_key, port=new_port)


def are_set(name: str, settings: Settings) -> bool:
    """Whether the kernel has these, where it knows them at all."""
    return all(
        sysctl.read(sysctl.interface(family, name, key)) in ("", value)
        for (family, key), value in settings.items()
    )


def write_settings(name: str, settings: Settings) -> None:
    for (family, key), value in settings.items():
        sysctl.write(sysctl.interface(family, name, key), value)
