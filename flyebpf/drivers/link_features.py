# SPDX-License-Identifier: Apache-2.0
"""What an interface's driver can do, asked by generic netlink and ioctl.

``struct genlmsghdr`` messages are made by hand: it is one request of one
family (Documentation/netlink/specs/netdev.yaml, kernel 6.3 and later).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

NETLINK_GENERIC = 16
GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
NETDEV_CMD_DEV_GET = 1
NETDEV_A_DEV_IFINDEX = 1
NETDEV_A_DEV_XDP_FEATURES = 3
NETDEV_XDP_ACT_NDO_XMIT = 4
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
GENL = struct.Struct("=BBH")
ATTR = struct.Struct("=HH")

SIOCETHTOOL = 0x8946
SIOCGIFHWADDR = 0x8927
ETHTOOL_GDRVINFO = 3
DRVINFO_SIZE = 196

TAKES_REDIRECT = frozenset(("tun",))
"""Drivers that take redirected packets in Linux 6.1 whatever else the interface
does, for kernels that cannot be asked. Not among them: virtio_net and other
NICs, which lose every such packet in silence until they run an XDP program
themselves; and veth, which takes them only when its peer, which may be in a
VM's namespace, runs NAPI."""


class Features:
    """Asks the kernel; one socket, opened at the first question. Not thread
    safe."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._family = 0  # 0: not asked yet; -1: the kernel has none
        self._ioctl = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def close(self) -> None:
        self._ioctl.close()
        if self._socket is not None:
            self._socket.close()

    def takes_redirect(self, name: str, ifindex: int) -> bool:
        """Whether XDP can redirect packets into this interface."""
        features = self.xdp_features(ifindex)
        if features is None:
            return self.driver(name) in TAKES_REDIRECT
        return bool(features & NETDEV_XDP_ACT_NDO_XMIT)

    def xdp_features(self, ifindex: int) -> int | None:
        """``enum netdev_xdp_act`` bits, or None where the kernel cannot tell."""
        if self._family == 0:
            answer = self._ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            found = answer.get(CTRL_ATTR_FAMILY_ID)
            self._family = int.from_bytes(found, "little") if found else -1
        if self._family < 0:
            return None
        index = ifindex.to_bytes(4, "little")
        answer = self._ask(self._family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, index)
        found = answer.get(NETDEV_A_DEV_XDP_FEATURES)
        return int.from_bytes(found, "little") if found else None

    def _ask(self, family: int, command: int, attribute: int, value: bytes) -> dict[int, bytes]:
        """The attributes of the answer; empty when the kernel refuses."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
            self._socket.settimeout(2.0)
        padded = value.ljust((len(value) + 3) // 4 * 4, b"\0")
        body = GENL.pack(command, 1, 0) + ATTR.pack(ATTR.size + len(value), attribute) + padded
        header = NLMSG.pack(NLMSG.size + len(body), family, NLM_F_REQUEST, 1, 0)
        try:
            self._socket.send(header + body)
            answer = self._socket.recv(16384)
        except OSError:
            self._socket.close()  # a late answer must not be taken for the next one
            self._socket = None
            return {}
        if len(answer) < NLMSG.size + GENL.size or NLMSG.unpack_from(answer)[1] == NLMSG_ERROR:
            return {}
        return attributes(answer[NLMSG.size + GENL.size :])

    def driver(self, name: str) -> str:
        """The kernel driver's name (ethtool), "" when it has none."""
        info = array.array("B", struct.pack("=I", ETHTOOL_GDRVINFO).ljust(DRVINFO_SIZE, b"\0"))
        request = struct.pack("16sQ16x", name.encode(), info.buffer_info()[0])
        try:
            fcntl.ioctl(self._ioctl, SIOCETHTOOL, request)
        except OSError:
            return ""
        return info.tobytes()[4:36].split(b"\0")[0].decode(errors="replace")

    def hardware_address(self, name: str) -> bytes:
        """The interface's MAC; zeros when it has none. Raises OSError."""
        request = struct.pack("16s24x", name.encode())
        return fcntl.ioctl(self._ioctl, SIOCGIFHWADDR, request)[18:24]


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by type."""
    found: dict[int, bytes] = {}
    at = 0
    while at + ATTR.size <= len(data):
        length, kind = ATTR.unpack_from(data, at)
        if length < ATTR.size:
            break
        found[kind & 0x3FFF] = data[at + ATTR.size : at + length]
        at += (length + 3) // 4 * 4
    return found
