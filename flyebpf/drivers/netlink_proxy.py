# SPDX-License-Identifier: Apache-2.0
"""The netlink requests about the proxy's addresses: pools that are local to the
host, and the address that machines see. Both are the loopback interface's; routes
are ours by their protocol, the address by its scope and place.
"""

from __future__ import annotations

import errno
from typing import Any

from pyroute2 import IPRoute

from flyebpf.drivers.netlink_dumps import AF_INET, AF_INET6
from flyebpf.drivers.netlink_io import ROUTE_PROTOCOL, SCOPE_LINK, kernel

LOOPBACK = 1  # its ifindex in every network namespace
LOCAL_TABLE, LOCAL_TYPE, SCOPE_HOST = 255, 2, 254
GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)


class ProxyNetlink:
    """One rtnetlink socket; use it from one thread. Raises KernelError."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def close(self) -> None:
        self._ip.close()

    def locals(self) -> set[str]:
        """Prefixes that we have made local."""
        found = set()
        for family in (AF_INET, AF_INET6):
            with kernel("list local routes", errno.ENOENT):
                for route in self._ip.get_routes(
                    family=family, table=LOCAL_TABLE, proto=ROUTE_PROTOCOL
                ):
                    if route["proto"] == ROUTE_PROTOCOL and route["type"] == LOCAL_TYPE:
                        found.add(f"{route.get_attr('RTA_DST')}/{route['dst_len']}")
        return found

    def add_local(self, cidr: str) -> None:
        with kernel(f"make {cidr} local"):
            self._ip.route("replace", **_route(cidr))

    def drop_local(self, cidr: str) -> None:
        with kernel(f"make {cidr} no longer local", *GONE):
            self._ip.route("del", **_route(cidr))

    def sources(self) -> set[str]:
        """IPv4 addresses of the loopback interface with the scope of ours: nobody's
        connections but those that name one come from there."""
        with kernel("list the addresses of the loopback interface"):
            return {
                str(message.get_attr("IFA_LOCAL"))
                for message in self._ip.get_addr(family=AF_INET, index=LOOPBACK)
                if message["scope"] == SCOPE_LINK and message["index"] == LOOPBACK
            }
        return set()

    def add_source(self, address: str) -> None:
        with kernel(f"add address {address}", errno.EEXIST):
            self._ip.addr("add", index=LOOPBACK, address=address, prefixlen=32, scope=SCOPE_LINK)

    def drop_source(self, address: str) -> None:
        with kernel(f"delete address {address}", *GONE):
            self._ip.addr("del", index=LOOPBACK, address=address, prefixlen=32)


def _route(cidr: str) -> dict[str, Any]:
    six = ":" in cidr
    return {
        "dst": cidr,
        "oif": LOOPBACK,
        "table": LOCAL_TABLE,
        "type": LOCAL_TYPE,
        "proto": ROUTE_PROTOCOL,
        "scope": 0 if six else SCOPE_HOST,
        "family": AF_INET6 if six else AF_INET,
    }
