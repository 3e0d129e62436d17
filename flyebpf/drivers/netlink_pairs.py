# SPDX-License-Identifier: Apache-2.0
"""The netlink requests about the host port's pair of devices, over pyroute2."""

from __future__ import annotations

from pyroute2 import IPRoute

from flyebpf.drivers.netlink_io import kernel
from flyebpf.drivers.netlink_mesh import Facts, MeshNetlink

HOST_GROUP = 3872
"""Link group of the pair."""
IFF_NOARP = 0x80


class PairNetlink(MeshNetlink):
    """Use it from one thread. Raises KernelError."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs = IPRoute()

    def close(self) -> None:
        super().close()
        self._pairs.close()

    def create_pair(self, name: str, far: str) -> None:
        """Both are in our group from the moment they exist, and down."""
        with kernel(f"create the devices {name} and {far}"):
            peer = {"ifname": far, "group": HOST_GROUP}
            self._pairs.link("add", ifname=name, kind="veth", group=HOST_GROUP, peer=peer)

    def flags(self, facts: Facts) -> int:
        """``IFF_*`` of an interface."""
        with kernel(f"read interface {facts.ifindex}"):
            for link in self._pairs.get_links(facts.ifindex):
                return int(link["flags"])
        return 0

    def without_arp(self, name: str, facts: Facts) -> None:
        """No neighbour is ever looked for."""
        with kernel(f"configure interface {name}"):
            self._pairs.link("set", index=facts.ifindex, flags=IFF_NOARP, change=IFF_NOARP)
