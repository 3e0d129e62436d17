# SPDX-License-Identifier: Apache-2.0
"""The netlink requests that the netlink driver makes, over pyroute2.

Foreign errors become KernelError here. How our own things are recognised:
filters by their name, routes by their protocol, interfaces by their group.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from flyebpf.bpf.program import Program
from flyebpf.drivers.netlink_dumps import Dumps
from flyebpf.errors import KernelError

GROUP = 3870
"""Link group of the VMs' interfaces; nftables rules refer to it."""

ROUTE_PROTOCOL = 0xFE
"""Protocol of our routes (rtnetlink(7)); unassigned in iproute2."""

FILTER_NAME = "flyebpf:"
INGRESS = 0xFFFFFFF2  # TC_H_CLSACT | TC_H_MIN_INGRESS
EGRESS = 0xFFFFFFF3  # TC_H_CLSACT | TC_H_MIN_EGRESS
HANDLE, ETH_P_ALL = 1, 3
SECOND, THIRD = 2, 3
"""Handles and priorities of filters that come after our first one."""
PERMANENT = 0x80  # NUD_PERMANENT
SCOPE_LINK = 253
MAIN = 254
IFF_UP = 1
XDP_MODES = {"xdp": "native", "xdpgeneric": "generic"}
"""pyroute2's words for XDP_ATTACHED_DRV and XDP_ATTACHED_SKB."""


@contextmanager
def kernel(operation: str, *ignored: int) -> Iterator[None]:
    """Errors of pyroute2 as KernelError; these errnos are no errors."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in ignored:
            raise KernelError(
                f"{operation}: {os.strerror(error.code)}", number=error.code
            ) from error
    except OSError as error:
        if error.errno not in ignored:
            raise KernelError(f"{operation}: {error}", number=error.errno or 0) from error


class Netlink:
    """Two rtnetlink sockets, one for changes and one for dumps; use it from
    one thread."""

    def __init__(self) -> None:
        self._ip = IPRoute()
        self._dumps = Dumps()

    def close(self) -> None:
        self._ip.close()
        self._dumps.close()

    def links(self) -> list[tuple[str, int, int, bool]]:
        """Every interface: name, index, group, up."""
        with kernel("list interfaces"):
            return self._dumps.links()

    def link(self, name: str, ifindex: int) -> tuple[bool, str, int]:
        """Whether it is up, the mode of an XDP program on it ("" none), group."""
        with kernel(f"read interface {name}"):
            for link in self._ip.get_links(ifindex):
                xdp = link.get_attr("IFLA_XDP")
                attached = xdp.get_attr("IFLA_XDP_ATTACHED") if xdp is not None else None
                mode = XDP_MODES.get(str(attached), "other") if attached else ""
                return bool(link["flags"] & IFF_UP), mode, link.get_attr("IFLA_GROUP") or 0
        return False, "", 0

    def set_link(self, name: str, ifindex: int, **what: Any) -> None:
        with kernel(f"configure interface {name}"):
            self._ip.link("set", index=ifindex, **what)

    def guard(
        self,
        name: str,
        ifindex: int,
        program: Program,
        role: str,
        parent: int = INGRESS,
        *,
        at: int = HANDLE,
    ) -> None:
        """Our filter at ``parent``, put in place of an older one in one step. ``at``:
        its handle and priority: HANDLE, SECOND or THIRD."""
        with kernel(f"add clsact to interface {name}", errno.EEXIST):
            self._ip.tc("add", "clsact", ifindex)
        with kernel(f"attach {role} to interface {name}"):
            self._ip.tc(
                "replace-filter",
                "bpf",
                ifindex,
                at,
                parent=parent,
                prio=at,
                protocol=ETH_P_ALL,
                fd=program.fd,
                name=filter_name(role, program),
                direct_action=True,
            )

    def unguard(self, name: str, ifindex: int, parent: int = INGRESS, at: int = HANDLE) -> None:
        """Remove our filter, if it is there."""
        if self.filter(name, ifindex, parent, at):
            with kernel(f"remove the filter of interface {name}", errno.ENOENT, errno.EINVAL):
                self._ip.tc(
                    "del-filter",
                    "bpf",
                    ifindex,
                    at,
                    parent=parent,
                    prio=at,
                    protocol=ETH_P_ALL,
                )

    def filter(self, name: str, ifindex: int, parent: int = INGRESS, at: int = HANDLE) -> str:
        """The name of our filter at ``parent``, which tells the program; or ""."""
        with kernel(f"read the filters of interface {name}", errno.EINVAL, errno.ENODEV):
            for handle, called in self._dumps.filters(ifindex, parent):
                if handle == at and called.startswith(FILTER_NAME):
                    return called
        return ""

    def routes(self) -> set[tuple[int, str]]:
        """Our host routes: interface index, address."""
        with kernel("list routes", errno.ENOENT):
            return self._dumps.host_routes(MAIN, ROUTE_PROTOCOL)
        return set()  # a table without any route does not exist

    def neighbours(self) -> set[tuple[int, str, str]]:
        """Permanent neighbours: interface index, address, MAC."""
        with kernel("list neighbours"):
            return self._dumps.neighbours(PERMANENT)

    def add_address(self, name: str, ifindex: int, address: str, mac: str) -> None:
        """A host route and a permanent neighbour."""
        with kernel(f"add neighbour {address} to interface {name}"):
            self._ip.neigh("replace", dst=address, lladdr=mac, ifindex=ifindex, state=PERMANENT)
        with kernel(f"add the route to {address} over interface {name}"):
            self._ip.route(
                "replace",
                dst=f"{address}/32",
                oif=ifindex,
                scope=SCOPE_LINK,
                proto=ROUTE_PROTOCOL,
                table=MAIN,
            )

    def drop_address(self, name: str, ifindex: int, address: str) -> None:
        gone = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
        with kernel(f"delete the route to {address} over interface {name}", *gone):
            self._ip.route(
                "del",
                dst=f"{address}/32",
                oif=ifindex,
                scope=SCOPE_LINK,
                proto=ROUTE_PROTOCOL,
                table=MAIN,
            )
        with kernel(f"delete neighbour {address} of interface {name}", *gone):
            self._ip.neigh("del", dst=address, ifindex=ifindex)


def filter_name(role: str, program: Program) -> str:
    """How our filter with this program is called."""
    return f"{FILTER_NAME}{role}:{program.id}"
