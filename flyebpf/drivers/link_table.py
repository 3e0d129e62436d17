# SPDX-License-Identifier: Apache-2.0
"""Interfaces by name, remembered until the kernel says that they changed."""

from __future__ import annotations

import socket
import struct

from flyebpf.drivers.link import Link
from flyebpf.drivers.link_features import NLMSG, Features, attributes

NETLINK_ROUTE = 0
RTMGRP_LINK = 1
RTM_NEWLINK, RTM_DELLINK = 16, 17
IFINFO = struct.Struct("=BxHiII")
IFLA_IFNAME = 3


class LinkTable:
    """Look-ups cost two system calls and a netlink question, once."""

    def __init__(self) -> None:
        self._features = Features()
        self._known: dict[str, Link | None] = {}

    def get(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        if name not in self._known:
            self._known[name] = self._look(name)
        return self._known[name]

    def peek(self, name: str) -> Link | None:
        """What is remembered of it; asks nobody, so any thread may call it."""
        return self._known.get(name)

    def _look(self, name: str) -> Link | None:
        try:
            ifindex = socket.if_nametoindex(name)
            mac = self._features.hardware_address(name)
        except OSError:
            return None
        return Link(ifindex, mac, self._features.takes_redirect(name, ifindex))

    def forget(self, name: str | None = None) -> None:
        """Ask again for this interface, or for all."""
        if name is None:
            self._known.clear()
        else:
            self._known.pop(name, None)

    def refresh(self, names: set[str]) -> set[str]:
        """Look again; those of ``names`` that are not what they were."""
        before = {name: self._known.pop(name, None) for name in names}
        return {name for name, link in before.items() if self.get(name) != link}

    def close(self) -> None:
        self._features.close()


class LinkMonitor:
    """Names of interfaces that came, went or changed. ``fileno`` for a loop."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, RTMGRP_LINK))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> set[str] | None:
        """What happened since the last call; None: too much to tell."""
        names: set[str] = set()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return names
            except OSError:  # ENOBUFS: messages were lost
                return None
            names |= link_names(data)


def link_names(data: bytes) -> set[str]:
    """The interfaces that a datagram of link messages names."""
    names: set[str] = set()
    at = 0
    while at + NLMSG.size <= len(data):
        length, kind = NLMSG.unpack_from(data, at)[:2]
        if length < NLMSG.size:
            break
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            found = attributes(data[at + NLMSG.size + IFINFO.size : at + length])
            name = found.get(IFLA_IFNAME, b"").split(b"\0")[0].decode(errors="replace")
            names.add(name)
        at += (length + 3) // 4 * 4
    return names
