# SPDX-License-Identifier: Apache-2.0
"""inject KIND …: sends one forged frame from this VM's eth0, as root in it could.

ip SOURCE DESTINATION        UDP with a forged source address
mac SOURCE-MAC DESTINATION   UDP with a forged source MAC
arp-reply ADDRESS            claims to have ADDRESS
arp-request SENDER TARGET    asks with a forged sender
ethertype NUMBER             a frame that is neither IP nor ARP
ipv6                         to a public IPv6 address
router                       a router solicitation with a forged source
"""

from __future__ import annotations

import socket
import sys

from scapy.arch import get_if_addr, get_if_addr6, get_if_hwaddr
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

GATEWAY_MAC = "02:00:00:00:00:01"


def frame(kind: str, *arguments: str) -> Packet:  # noqa: PLR0911 (one a kind)
    own_mac, own_ip = get_if_hwaddr("eth0"), get_if_addr("eth0")
    ether = Ether(src=own_mac, dst=GATEWAY_MAC)
    payload = UDP(sport=4000, dport=9) / Raw(b"forged")
    match kind, arguments:
        case "ip", (source, destination):
            return ether / IP(src=source, dst=destination) / payload
        case "mac", (mac, destination):
            return Ether(src=mac, dst=GATEWAY_MAC) / IP(src=own_ip, dst=destination) / payload
        case "arp-reply", (address,):
            claim = ARP(op="is-at", hwsrc=own_mac, psrc=address, pdst=address)
            return Ether(src=own_mac, dst="ff:ff:ff:ff:ff:ff") / claim
        case "arp-request", (sender, target):
            ask = ARP(op="who-has", hwsrc=own_mac, psrc=sender, pdst=target)
            return Ether(src=own_mac, dst="ff:ff:ff:ff:ff:ff") / ask
        case "ethertype", (number,):
            return Ether(src=own_mac, dst=GATEWAY_MAC, type=int(number, 0)) / Raw(bytes(46))
        case "ipv6", ():
            return ether / IPv6(src=get_if_addr6("eth0"), dst="2001:db8::1") / payload
        case "router", ():
            return ether / IPv6(src="fe80::1", dst="ff02::2") / ICMPv6ND_RS()
        case _:
            raise SystemExit(f"unknown: {kind} {' '.join(arguments)}")


def main() -> None:
    data = bytes(frame(*sys.argv[1:]))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        sender.send(data)
    print("null")


main()
