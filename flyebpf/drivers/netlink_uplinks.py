# SPDX-License-Identifier: Apache-2.0
"""Uplinks: the edge programs on them, swapped in place, never taken off.

The XDP program is attached by a link that is pinned, so that it outlives the
daemon, as does the tc filter.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path

from flyebpf.bpf.loader import set_aside
from flyebpf.bpf.program import Program, XdpLink
from flyebpf.drivers import sysctl
from flyebpf.drivers.link import Link, LinkOf
from flyebpf.drivers.netlink_io import Netlink, filter_name
from flyebpf.errors import FlyebpfError, KernelError
from flyebpf.model.rows import Row, UplinkRow
from flyebpf.reconcile.base import Failure

log = logging.getLogger(__name__)
SUFFIX = "-xdp"


def pin_name(interface: str) -> str:
    """The name of an uplink's pin; bpffs allows no dots."""
    return interface.replace("%", "%25").replace(".", "%2E") + SUFFIX


def interface_of(pin: str) -> str:
    return pin.removesuffix(SUFFIX).replace("%2E", ".").replace("%25", "%")


class Uplinks:
    """``folder`` holds the pins of the links. ``modes``: what each uplink
    runs in, native or generic."""

    def __init__(
        self, folder: Path, netlink: Netlink, link_of: LinkOf, programs: Mapping[str, Program]
    ) -> None:
        self._folder = folder
        self._netlink = netlink
        self._link_of = link_of
        self._programs = programs
        self.modes: dict[str, str] = {}

    def read(self) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        for pin in self._folder.iterdir():
            if pin.name.endswith(SUFFIX):
                name = interface_of(pin.name)
                found[name] = self._state(name, pin)
        return found

    def _state(self, name: str, pin: Path) -> object:
        link = self._link_of(name)
        if link is None:
            return "no interface"
        try:
            with XdpLink.open(pin) as xdp:
                if not xdp.is_xdp_link:
                    return "no link"
                program = xdp.program_id if xdp.ifindex == link.ifindex else 0
        except KernelError as error:
            return error.message
        self.modes[name] = self._netlink.link(name, link.ifindex)[1]
        return program, self._netlink.filter(name, link.ifindex), self._forwards(name)

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, UplinkRow)
        role = filter_name("edge_tc", self._programs["edge_tc"])
        return self._programs["edge_xdp"].id, role, True

    def put(self, row: UplinkRow) -> Failure | None:
        link = self._link_of(row.interface)
        if link is None:
            return Failure(
                UplinkRow,
                row.key,
                f"uplink {row.interface} does not exist",
                "Create it, or correct uplinks in the configuration.",
                permanent=True,
            )
        try:
            self._attach(row, link)
            self._netlink.guard(row.interface, link.ifindex, self._programs["edge_tc"], "edge_tc")
            self._forward(row.interface)
        except FlyebpfError as error:
            return Failure(UplinkRow, row.key, error.message, error.remedy)
        mode = self.modes[row.interface]
        if row.xdp_mode not in ("auto", mode):
            return Failure(
                UplinkRow,
                row.key,
                f"uplink {row.interface} runs XDP in {mode} mode, not {row.xdp_mode}",
                "The mode cannot be changed while packets flow: stop the daemon, remove "
                f"{self._folder / pin_name(row.interface)}, start it again.",
                permanent=True,
            )
        return None

    def _attach(self, row: UplinkRow, link: Link) -> None:
        pin = self._folder / pin_name(row.interface)
        program = self._programs["edge_xdp"]
        if not (pin.exists() and self._adopt(pin, link, program)):
            self._create(row, link, pin, program)
        self.modes[row.interface] = self._netlink.link(row.interface, link.ifindex)[1]

    def _adopt(self, pin: Path, link: Link, program: Program) -> bool:
        """Go on with a pinned link, with our program in it. False: it belongs
        to an interface that is gone, or is no link and was moved out of the way."""
        with XdpLink.open(pin) as xdp:
            if not xdp.is_xdp_link:
                set_aside(pin, "is not an XDP link", log.warning)
                return False
            if xdp.ifindex == link.ifindex:
                if xdp.program_id != program.id:
                    xdp.update(program)
                    log.info("swapped in edge_xdp %d at pin %s", program.id, pin.name)
                return True
        pin.unlink()
        return False

    def _create(self, row: UplinkRow, link: Link, pin: Path, program: Program) -> None:
        mode = self._netlink.link(row.interface, link.ifindex)[1]
        if mode:
            raise KernelError(
                f"uplink {row.interface} has an XDP program of somebody else ({mode})",
                "Find out whose it is (bpftool net, bpftool link), then: "
                f"ip link set dev {row.interface} xdp off, or, where it is a pinned link, "
                "remove the pin",
            )
        with self._link(row, link, program) as xdp:
            xdp.pin(pin)

    def _link(self, row: UplinkRow, link: Link, program: Program) -> XdpLink:
        """Native where the driver can, unless the configuration says which."""
        if row.xdp_mode != "auto":
            return XdpLink.create(program, link.ifindex, row.xdp_mode)
        try:
            return XdpLink.create(program, link.ifindex, "native")
        except KernelError as error:
            log.warning("uplink %s: %s; using generic XDP", row.interface, error.message)
            return XdpLink.create(program, link.ifindex, "generic")

    def _forward(self, name: str) -> None:
        """VMs' own packets are forwarded by the kernel; strict reverse path
        filtering would drop answers that come in over another uplink."""
        if sysctl.write(sysctl.ROOT / "ipv4" / "ip_forward", "1"):
            log.info("set net.ipv4.ip_forward=1, for the VMs' own traffic")
        if self._strict(name) and sysctl.write(sysctl.interface("ipv4", name, "rp_filter"), "2"):
            log.info("set net.ipv4.conf.%s.rp_filter=2 (it was strict)", name)

    def _strict(self, name: str) -> bool:
        values = [sysctl.read(sysctl.interface("ipv4", of, "rp_filter")) for of in ("all", name)]
        return max(values) == "1"

    def _forwards(self, name: str) -> bool:
        forwarding = sysctl.read(sysctl.ROOT / "ipv4" / "ip_forward")
        return forwarding == "1" and not self._strict(name)

    def delete(self, name: str) -> Failure | None:
        """No longer an uplink: take both programs off."""
        try:
            (self._folder / pin_name(name)).unlink(missing_ok=True)
            link = self._link_of(name)
            if link is not None:
                self._netlink.unguard(name, link.ifindex)
        except OSError as error:
            return Failure(UplinkRow, name, f"unpin the XDP link of {name}: {error.strerror}")
        except FlyebpfError as error:
            return Failure(UplinkRow, name, error.message, error.remedy)
        self.modes.pop(name, None)
        return None
