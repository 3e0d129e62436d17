# SPDX-License-Identifier: Apache-2.0
"""Runs in a host guest: a tap whose other end is a NIC of the guest.

``python -m tests.qemu.inside.relay NIC TAP MAC`` does for a VM that runs beside
this guest what QEMU does for one inside of it: frames that the host puts into
the tap leave by the NIC, to which the VM is cabled, and the other way round.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_IGNORE_OUTGOING = 23
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 2, 0x1000
TP_STATUS_VLAN_VALID = 0x10


def main() -> None:
    nic, name, mac = sys.argv[1:]
    tap = open_tap(name)
    subprocess.run(["ip", "link", "set", name, "address", mac], check=True)
    subprocess.run(["ip", "link", "set", nic, "promisc", "on", "up"], check=True)
    end = open_nic(nic)
    print("ready", flush=True)
    poll = select.poll()
    poll.register(tap, select.POLLIN)
    poll.register(end, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            try:
                if ready == tap:
                    end.send(os.read(tap, 65536))
                else:
                    os.write(tap, receive(end))
            except OSError as error:  # e.g. the tap is down: the frame is lost
                print(f"lost a frame: {error}", flush=True)


def open_tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def open_nic(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.bind((name, 0))
    return end


def receive(end: socket.socket) -> bytes:
    """A frame as it was on the cable: the kernel has taken a VLAN tag off."""
    frame, control, _, _ = end.recvmsg(65536, 256)
    for level, kind, data in control:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            # struct tpacket_auxdata: u32 status, len, snaplen; u16 mac, net, tci, tpid
            status, tci, tpid = struct.unpack("=I8x4xHH", data[:20])
            if status & TP_STATUS_VLAN_VALID:
                return frame[:12] + struct.pack("!HH", tpid or 0x8100, tci) + frame[12:]
    return frame


if __name__ == "__main__":
    main()
