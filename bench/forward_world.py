# SPDX-License-Identifier: Apache-2.0
"""What bench.forward runs in: VMs and two hosts as namespaces, the programs' maps,
and the kernel's routes and filters for the same.

The filter is what a careful administrator would write, and generous: one map
says which network (interface, MAC, address) of a sender is, one set which
(network, interface, address) may be reached: two hash lookups, no connection
tracking, exact addresses where the programs take a whole /112. The kernel itself
looks at the hop limit.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from bench.chain import sh
from bench.dataplane import put
from flyebpf.bpf import layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.drivers.map_vm_slots import VmSlots
from flyebpf.lab.net import inside
from flyebpf.model.sixpn import machine_address

NETWORK = 7
HOST, OTHER = 0x80000001, 0x80000002
SENDER, FIRST = 17, 1024  # machine numbers
MACHINES = 64
FLOWS = 1024
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MESH = "fly0"
NAMES = ("a", "host", "b", "other", "c")


def mac(kind: int, number: int = 0) -> str:
    return f"02:00:00:00:{kind:02x}:{number:02x}"


VM_A, VIF_A, VM_B, VIF_B, UNDER, UNDER2, VM_C, VIF_C = range(1, 9)
"""What the MACs belong to: VMs' interfaces, their hosts' sides, the underlay."""


def pair(host: str, device: str, macs: tuple[str, str], vm: str, peer: str) -> None:
    sh(
        f"ip -n {host} link add {device} address {macs[0]} type veth"
        f" peer name {peer} netns {vm} address {macs[1]}"
    )
    for name, end in ((host, device), (vm, peer)):
        sh(f"ip netns exec {name} ethtool -K {end} gro on")  # NAPI, for XDP's frames
        sh(f"ip -n {name} link set {end} up")


@contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """a -- host -- b (MACHINES interfaces), host -- other -- c."""
    names = {role: f"bench-{role}-{os.getpid()}" for role in NAMES}
    try:
        for name in names.values():
            sh(f"ip netns add {name}")
            sh(f"ip netns exec {name} sysctl -qw net.ipv6.conf.all.forwarding=1")
        host, other = names["host"], names["other"]
        pair(host, "vma", (mac(VIF_A), mac(VM_A)), names["a"], "eth0")
        for i in range(MACHINES):
            pair(host, f"vmb{i}", (mac(VIF_B, i), mac(VM_B, i)), names["b"], f"eth{i}")
        pair(host, "under", (mac(UNDER), mac(UNDER2)), other, "under")
        pair(other, "vmc", (mac(VIF_C), mac(VM_C)), names["c"], "eth0")
        sh(f"ip -n {host} neigh add fe80::2 lladdr {mac(UNDER2)} dev under")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def mesh_device(host: str) -> Iterator[None]:
    """As WireGuard's: no Ethernet header."""
    with inside(host):
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", MESH.encode(), IFF_TUN | IFF_NO_PI))
    sh(f"ip -n {host} link set {MESH} up mtu 1420")
    yield
    os.close(fd)


def index(namespace: str, device: str) -> int:
    with inside(namespace), IPRoute() as ipr:
        return int(ipr.link_lookup(ifname=device)[0])


@contextmanager
def filters(namespace: str, wanted: list[tuple[str, int, Program]]) -> Iterator[None]:
    """tc programs on devices, at hooks."""
    with inside(namespace), IPRoute() as ipr:
        indexes = {device: ipr.link_lookup(ifname=device)[0] for device, _, _ in wanted}
        for ifindex in indexes.values():
            ipr.tc("add", "clsact", ifindex)
        for device, parent, program in wanted:
            ipr.tc(
                "add-filter",
                "bpf",
                indexes[device],
                ":1",
                fd=program.fd,
                name=program.name,
                parent=parent,
                classid=1,
                direct_action=True,
            )
    yield
    with inside(namespace), IPRoute() as ipr:
        for ifindex in indexes.values():
            ipr.tc("del", "clsact", ifindex)


# -- the programs' maps ----------------------------------------------------------


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def fill(maps: dict[str, Map], host: int, ends: list[tuple[int, int, str, str]]) -> None:
    """Machines of a host: number, ifindex, MACs of the VM and of its gateway."""
    buckets = maps["vm_slots"].shape.max_entries
    settings = layout.Settings(
        flow_buckets=FLOWS // layout.FLOW_WAYS, host=host, mesh_mtu=1420, vm_buckets=buckets
    )
    put(maps["settings"], 0, settings)
    for i, (number, ifindex, vm_mac, host_mac) in enumerate(ends):
        slot = layout.Slot(
            generation=1,
            flags=layout.SLOT_LIVE,
            ifindex=ifindex,
            network=NETWORK,
            host=host,
            machine=number,
        )
        slot.mac[:] = bytes.fromhex(vm_mac.replace(":", ""))
        slot.host_mac[:] = bytes.fromhex(host_mac.replace(":", ""))
        put(maps["slots"], i, slot)
        maps["sixpn"].update(bytes(layout.SixpnKey(NETWORK, number)), u32(i))
    VmSlots(maps["vm_slots"], buckets).write((end[1], i) for i, end in enumerate(ends))


def mesh_by(maps: dict[str, Map], number: int, ifindex: int, next_hop: bytes = bytes(16)) -> None:
    """Another host is reached over a device; over one with Ethernet headers, if
    there is a next hop."""
    raw = maps["settings"].lookup(bytes(4))
    assert raw is not None
    settings = layout.Settings.from_buffer_copy(raw)
    settings.mesh_flags = layout.MESH_ETHERNET if any(next_hop) else 0
    put(maps["settings"], 0, settings)
    host = layout.Host(ifindex=ifindex)
    host.next_hop[:] = next_hop
    maps["hosts"].update(u32(number), bytes(host))


# -- the kernel's way --------------------------------------------------------------


def ruleset(
    owners: list[tuple[str, str, str]], machines: list[tuple[str, str]], chain: str = "forward"
) -> str:
    """``owners``: interface, MAC, address of senders; ``machines``: interface and
    address of those they may reach."""
    members = ", ".join(f'"{dev}" . {m} . {ip} : {NETWORK}' for dev, m, ip in owners)
    reached = ", ".join(f'{NETWORK} . "{dev}" . {ip}' for dev, ip in machines)
    return f"""
table ip6 bench {{
  map owners {{
    typeof iif . ether saddr . ip6 saddr : meta mark
    elements = {{ {members} }}
  }}
  set machines {{
    typeof meta mark . oif . ip6 daddr
    elements = {{ {reached} }}
  }}
  chain {chain} {{
    type filter hook {chain} priority filter; policy drop
    meta mark set iif . ether saddr . ip6 saddr map @owners
    meta mark . oif . ip6 daddr @machines accept
  }}
}}
"""


SOURCE = machine_address(NETWORK, HOST, SENDER)
FAR = machine_address(NETWORK, OTHER, FIRST)
HERE = [machine_address(NETWORK, HOST, FIRST + i) for i in range(MACHINES)]
HOST_RULES = ruleset(
    [("vma", mac(VM_A), SOURCE)],
    [*((f"vmb{i}", ip) for i, ip in enumerate(HERE)), ("under", FAR), (MESH, FAR)],
)
OTHER_RULES = ruleset([("under", mac(UNDER), SOURCE)], [("vmc", FAR)])


def routes(names: dict[str, str]) -> None:
    host, other = names["host"], names["other"]
    lines = []
    for i, ip in enumerate(HERE):
        lines.append(f"route add {ip}/128 dev vmb{i}")
        lines.append(f"neigh add {ip} lladdr {mac(VM_B, i)} dev vmb{i}")
    sh(f"ip -6 -n {host} -batch -", "\n".join(lines) + "\n")
    sh(f"ip -6 -n {other} route add {FAR}/128 dev vmc")
    sh(f"ip -6 -n {other} neigh add {FAR} lladdr {mac(VM_C)} dev vmc")


@contextmanager
def routed(names: dict[str, str], way: str) -> Iterator[None]:
    """``way``: to other hosts, what follows the prefix in a route."""
    host, other = names["host"], names["other"]
    sh(f"ip -6 -n {host} route replace {FAR}/128 {way}")
    for name, rules in ((host, HOST_RULES), (other, OTHER_RULES)):
        sh(f"ip netns exec {name} nft -f -", rules)
    yield
    for name in (host, other):
        sh(f"ip netns exec {name} nft flush ruleset")
