# SPDX-License-Identifier: Apache-2.0
"""Devices without Ethernet headers, as WireGuard's are: what a program sends
there is read here, what is written here arrives there."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import time

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
VNET_HEADER = struct.Struct("=BBHHHH")
"""Flags, GSO type, header length, GSO size, checksum's start and offset."""
NEEDS_CSUM = 1
GSO_TCP4, GSO_TCP6 = 1, 4
WAIT = 2.0  # seconds; a packet takes microseconds


class Tun:
    """A device of the namespace that the caller is in; gone after :meth:`close`.

    ``offload``: packets have a virtio header before them, in both directions,
    and may be trains of segments.
    """

    def __init__(self, name: str, *, offload: bool = False) -> None:
        self.offload = offload
        self._fd = os.open("/dev/net/tun", os.O_RDWR)
        flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if offload else 0)
        fcntl.ioctl(self._fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
        if offload:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
        os.set_blocking(self._fd, False)
        subprocess.run(["ip", "link", "set", name, "up", "mtu", "1420"], check=True)
        self.ifindex = socket.if_nametoindex(name)

    def arrive(self, packet: bytes, header: bytes = b"") -> None:
        """A packet comes in on the device. ``header``: virtio's, with offload."""
        if self.offload:
            packet = (header or bytes(VNET_HEADER.size)) + packet
        assert os.write(self._fd, packet) == len(packet)

    def sent(self) -> bytes:
        """The next packet that was sent to the device."""
        ready, _, _ = select.select([self._fd], [], [], WAIT)
        assert ready, "nothing was sent to the device"
        return os.read(self._fd, 1 << 17)

    def nothing(self) -> None:
        """Nothing (more) is sent to the device."""
        time.sleep(0.05)
        ready, _, _ = select.select([self._fd], [], [], 0)
        assert not ready, f"also sent: {os.read(self._fd, 1 << 17).hex()}"

    def close(self) -> None:
        os.close(self._fd)
