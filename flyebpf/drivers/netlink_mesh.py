# SPDX-License-Identifier: Apache-2.0
"""The netlink requests about mesh devices, over pyroute2.

A device that flyebpf made is in our link group from the moment it exists;
routes are recognised by their protocol.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from pyroute2 import IPRoute

from flyebpf.drivers.netlink_dumps import AF_INET, AF_INET6, DeviceRoute, Dumps
from flyebpf.drivers.netlink_io import IFF_UP, MAIN, ROUTE_PROTOCOL, kernel
from flyebpf.errors import KernelError

MESH_GROUP = 3871
"""Link group of the WireGuard devices that the daemon makes."""

HOSTS = ip_network("fdaa:8000::/17")
"""Where addresses of hosts on the mesh are (model/sixpn.py)."""

NODAD = 2  # IFA_F_NODAD
SCOPE_UNIVERSE, SCOPE_ANY = 0, 255  # RT_SCOPE_NOWHERE: of any, in a deletion
WIREGUARD_OVERHEAD = 80  # IPv6, UDP, WireGuard's header and tag
GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know of an interface. ``kind``: the kernel's word for
    its driver, ``wireguard``, ``tun`` or another, ``""`` for real hardware.
    ``queue``: packets that may wait to be sent."""

    ifindex: int
    up: bool
    mtu: int
    group: int
    kind: str
    queue: int = 0


class MeshNetlink:
    """Two rtnetlink sockets; use it from one thread. Raises KernelError."""

    def __init__(self) -> None:
        self._ip = IPRoute()
        self._dumps = Dumps()

    def close(self) -> None:
        self._ip.close()
        self._dumps.close()

    def look(self, name: str) -> Facts | None:
        """The interface of that name, or None."""
        try:
            ifindex = socket.if_nametoindex(name)
        except OSError:
            return None
        with kernel(f"read interface {name}", errno.ENODEV):
            for link in self._ip.get_links(ifindex):
                info = link.get_attr("IFLA_LINKINFO")
                kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
                return Facts(
                    ifindex,
                    bool(link["flags"] & IFF_UP),
                    link.get_attr("IFLA_MTU") or 0,
                    link.get_attr("IFLA_GROUP") or 0,
                    kind or "",
                    link.get_attr("IFLA_TXQLEN") or 0,
                )
        return None

    def of_group(self) -> set[str]:
        """The interfaces in our link group."""
        with kernel("list interfaces"):
            return {name for name, _, group, _ in self._dumps.links() if group == MESH_GROUP}
        return set()

    def create_wireguard(self, name: str) -> bool:
        """A device of the kernel's WireGuard; False when the kernel has none."""
        try:
            with kernel(f"create WireGuard device {name}"):
                self._ip.link("add", ifname=name, kind="wireguard", group=MESH_GROUP)
        except KernelError as error:
            if error.number == errno.EOPNOTSUPP:
                return False
            raise
        return True

    def delete(self, name: str) -> None:
        facts = self.look(name)
        if facts is not None:
            with kernel(f"delete interface {name}", *GONE):
                self._ip.link("del", index=facts.ifindex)

    def configure(self, name: str, ifindex: int, **what: Any) -> None:
        with kernel(f"configure interface {name}"):
            self._ip.link("set", index=ifindex, **what)

    def addresses(self, ifindex: int) -> set[str]:
        """Its addresses as CIDRs, but for link-local ones."""
        with kernel(f"list the addresses of interface {ifindex}"):
            found = {
                f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}"
                f"/{message['prefixlen']}"
                for message in self._ip.get_addr(index=ifindex)
            }
        return {cidr for cidr in found if not ip_interface(cidr).is_link_local}

    def own_addresses(self, ifindex: int) -> set[str]:
        """Those of its addresses that only a host of the mesh has."""
        return {cidr for cidr in self.addresses(ifindex) if ip_interface(cidr) in HOSTS}

    def mesh_addressed(self) -> set[str]:
        """Interfaces with such an address."""
        with kernel("list addresses"):
            found = {
                message["index"]
                for message in self._ip.get_addr(family=AF_INET6)
                if ip_address(message.get_attr("IFA_ADDRESS")) in HOSTS
            }
        with kernel("list interfaces"):
            return {name for name, ifindex, _, _ in self._dumps.links() if ifindex in found}
        return set()

    def add_address(self, name: str, ifindex: int, cidr: str) -> None:
        address, _, prefix = cidr.partition("/")
        flags = {"flags": NODAD} if ":" in address else {}
        with kernel(f"add address {cidr} to interface {name}", errno.EEXIST):
            self._ip.addr(
                "add",
                index=ifindex,
                address=address,
                prefixlen=int(prefix),
                family=AF_INET6 if ":" in address else AF_INET,
                **flags,
            )

    def drop_address(self, name: str, ifindex: int, cidr: str) -> None:
        address, _, prefix = cidr.partition("/")
        with kernel(f"delete address {cidr} of interface {name}", *GONE):
            self._ip.addr("del", index=ifindex, address=address, prefixlen=int(prefix))

    def routes(self) -> dict[int, set[DeviceRoute]]:
        """Our routes, by interface index."""
        found: dict[int, set[DeviceRoute]] = {}
        for family in (AF_INET, AF_INET6):
            with kernel("list routes", errno.ENOENT):
                for route in self._dumps.device_routes(family, MAIN, ROUTE_PROTOCOL):
                    found.setdefault(route.ifindex, set()).add(route)
        return found

    def add_route(self, name: str, route: DeviceRoute) -> None:
        with kernel(f"add the route to {route.cidr} over interface {name}"):
            self._ip.route("replace", **route_words(route))

    def drop_route(self, name: str, route: DeviceRoute) -> None:
        with kernel(f"delete the route to {route.cidr} over interface {name}", *GONE):
            self._ip.route("del", **route_words(route) | {"scope": SCOPE_ANY})

    def gateway(self, ifindex: int, address: str) -> str:
        """The router on the way to ``address`` over the interface, "" when it is
        on the link itself."""
        with kernel(f"find the way to {address}"):
            for route in self._ip.route("get", dst=address, oif=ifindex):
                return route.get_attr("RTA_GATEWAY") or ""
        return ""

    def underlay_mtu(self, address: str) -> int | None:
        """MTU of the interface that has this address; None when none has it."""
        wanted = ip_address(address)
        with kernel("list addresses"):
            for message in self._ip.get_addr():
                found = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                if found and ip_address(found) == wanted:
                    for link in self._ip.get_links(message["index"]):
                        return link.get_attr("IFLA_MTU") or None
        return None


def route_words(route: DeviceRoute) -> dict[str, Any]:
    words: dict[str, Any] = {
        "dst": route.cidr,
        "oif": route.ifindex,
        "proto": ROUTE_PROTOCOL,
        "table": MAIN,
        "priority": route.metric,
        "scope": SCOPE_UNIVERSE,
        "family": AF_INET6 if ":" in route.cidr else AF_INET,
    }
    if route.via:
        words["gateway"] = route.via
    return words
