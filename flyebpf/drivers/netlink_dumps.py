# SPDX-License-Identifier: Apache-2.0
"""rtnetlink dumps, read without a library: a full pass asks one question for
each interface of a VM, and of routes the kernel sends ours only (a host may have
a million of others).

Layouts: linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from flyebpf.drivers.link_features import NLM_F_REQUEST, NLMSG, attributes

NETLINK_ROUTE = 0
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETLINK, RTM_GETROUTE, RTM_GETNEIGH, RTM_GETTFILTER = 18, 26, 30, 46
AF_INET, AF_INET6 = 2, 10
IFF_UP = 1
IFF_ALLMULTI = 0x200

IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
IFLA_IFNAME, IFLA_LINKINFO, IFLA_GROUP, IFLA_EXT_MASK = 3, 18, 27, 29
IFLA_INFO_KIND = 1
SKIP_STATS = struct.pack("=HHI", 8, IFLA_EXT_MASK, 1 << 3)  # RTEXT_FILTER_SKIP_STATS

ROUTE = struct.Struct("=8BI")  # family, dst_len, src_len, tos, table, protocol, …
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 1, 4, 5, 6

NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
NDA_DST, NDA_LLADDR = 1, 2

FILTER = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
TCA_OPTIONS, TCA_BPF_NAME = 2, 7


SIZE = {AF_INET: 4, AF_INET6: 16}


class DeviceRoute(NamedTuple):
    """``via``: the next hop, "" for none."""

    ifindex: int
    cidr: str
    via: str
    metric: int


class Dumps:
    """One rtnetlink socket; use it from one thread. Raises OSError with the
    kernel's errno."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.settimeout(5.0)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def _dump(self, kind: int, request: bytes) -> Iterator[bytes]:
        """The messages of the answer, after their netlink header. To be read to
        the end: until then the kernel takes no other request for a dump."""
        self._sequence += 1
        length = NLMSG.size + len(request)
        self._socket.send(NLMSG.pack(length, kind, REQUEST_DUMP, self._sequence, 0) + request)
        while True:
            data = self._socket.recv(1 << 16)
            at = 0
            while at + NLMSG.size <= len(data):
                length, kind, _, sequence, _ = NLMSG.unpack_from(data, at)
                body = data[at + NLMSG.size : at + length]
                at += max((length + 3) // 4 * 4, NLMSG.size)
                if sequence != self._sequence:
                    continue  # of an answer that was given up
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    raise_error(body)
                    return
                yield body

    def links(self) -> list[tuple[str, int, int, bool]]:
        """Every interface: name, index, group, up."""
        found = []
        for body in self._dump(RTM_GETLINK, IFINFO.pack(0, 0, 0, 0, 0) + SKIP_STATS):
            _, _, ifindex, flags, _ = IFINFO.unpack_from(body)
            facts = attributes(body[IFINFO.size :])
            name = facts.get(IFLA_IFNAME, b"").split(b"\0")[0].decode(errors="replace")
            group = int.from_bytes(facts.get(IFLA_GROUP, b""), "little")
            found.append((name, ifindex, group, bool(flags & IFF_UP)))
        return found

    def filters(self, ifindex: int, parent: int) -> list[tuple[int, str]]:
        """The filters at ``parent``: handle, and the name of a bpf filter."""
        found = []
        for body in self._dump(RTM_GETTFILTER, FILTER.pack(0, ifindex, 0, parent, 0)):
            handle = FILTER.unpack_from(body)[2]
            options = attributes(body[FILTER.size :]).get(TCA_OPTIONS, b"")
            name = attributes(options).get(TCA_BPF_NAME, b"")
            found.append((handle, name.split(b"\0")[0].decode(errors="replace")))
        return found

    def host_routes(self, table: int, protocol: int) -> set[tuple[int, str]]:
        """IPv4 routes to one address: interface index, address."""
        found = set()
        request = ROUTE.pack(AF_INET, 0, 0, 0, table, protocol, 0, 0, 0)
        for body in self._dump(RTM_GETROUTE, request):
            _, prefix, _, _, of, made_by, *_ = ROUTE.unpack_from(body)
            facts = attributes(body[ROUTE.size :])
            if (prefix, of, made_by) == (32, table, protocol) and RTA_OIF in facts:
                ifindex = int.from_bytes(facts[RTA_OIF], "little")
                found.add((ifindex, socket.inet_ntoa(facts[RTA_DST])))
        return found

    def device_routes(self, family: int, table: int, protocol: int) -> set[DeviceRoute]:
        """Routes of either family that have one next hop."""
        found = set()
        request = ROUTE.pack(family, 0, 0, 0, table, protocol, 0, 0, 0)
        for body in self._dump(RTM_GETROUTE, request):
            of_family, prefix, _, _, of, made_by, *_ = ROUTE.unpack_from(body)
            facts = attributes(body[ROUTE.size :])
            if (of_family, of, made_by) != (family, table, protocol) or RTA_OIF not in facts:
                continue
            destination = socket.inet_ntop(family, facts.get(RTA_DST, bytes(16))[: SIZE[family]])
            via = facts.get(RTA_GATEWAY)
            found.add(
                DeviceRoute(
                    int.from_bytes(facts[RTA_OIF], "little"),
                    f"{destination}/{prefix}",
                    socket.inet_ntop(family, via) if via else "",
                    int.from_bytes(facts.get(RTA_PRIORITY, b""), "little"),
                )
            )
        return found

    def neighbours(self, state: int) -> set[tuple[int, str, str]]:
        """IPv4 neighbours in this state: interface index, address, MAC."""
        found = set()
        for body in self._dump(RTM_GETNEIGH, NEIGHBOUR.pack(AF_INET, 0, 0, 0, 0)):
            _, ifindex, is_in, _, _ = NEIGHBOUR.unpack_from(body)
            facts = attributes(body[NEIGHBOUR.size :])
            if is_in & state and NDA_DST in facts:
                mac = facts.get(NDA_LLADDR, b"").hex(":")
                found.add((ifindex, socket.inet_ntoa(facts[NDA_DST]), mac))
        return found


def link_kind(name: str) -> str:
    """What kind of virtual interface it is, as ``ip link add type`` calls it; ""
    for another one, or for none. With a socket of its own: for any thread."""
    try:
        ifindex = socket.if_nametoindex(name)
        request = IFINFO.pack(0, 0, ifindex, 0, 0) + SKIP_STATS
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as asking:
            asking.settimeout(5.0)
            length = NLMSG.size + len(request)
            asking.send(NLMSG.pack(length, RTM_GETLINK, NLM_F_REQUEST, 1, 0) + request)
            answer = asking.recv(1 << 16)
    except OSError:
        return ""
    if NLMSG.unpack_from(answer)[1] == NLMSG_ERROR:
        return ""
    facts = attributes(answer[NLMSG.size + IFINFO.size :])
    kind = attributes(facts.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")
    return kind.split(b"\0")[0].decode(errors="replace")


def raise_error(body: bytes) -> None:
    """OSError for the end of an answer that says one; it starts with -errno."""
    number = -int.from_bytes(body[:4], "little", signed=True)
    if number > 0:
        raise OSError(number, "the kernel refused a netlink dump")
