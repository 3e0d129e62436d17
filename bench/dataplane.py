# SPDX-License-Identifier: Apache-2.0
"""ns per packet of edge_xdp and vm_tc by BPF_PROG_TEST_RUN, beside floors.

Run as root: ``.venv/bin/python -m bench.dataplane [--json]``.
"""

from __future__ import annotations

import ctypes as ct
from ipaddress import IPv6Address

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import rig
from flyebpf.bpf import layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.config import DataplaneConfig
from flyebpf.drivers.map_vm_slots import VmSlots

FLOWS = 2_097_152  # entries: four for each of 524,288 flows
VIP = "203.0.113.10"
MAC = "02:00:00:00:00:01"
VIPS6 = DataplaneConfig().pool_addresses  # where the IPv6 pool begins in `vips`


def frame(layer: object, dst: str = VIP) -> bytes:
    built = Ether(src=MAC, dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst=dst) / layer
    return bytes(built)


TCP_ACK = frame(TCP(sport=1024, dport=80, flags="A"))
TCP_SYN = frame(TCP(sport=1024, dport=80, flags="S"))
UDP_DATA = frame(UDP(sport=1024, dport=53) / (b"x" * 10))
UDP_NO_SERVICE = frame(UDP(sport=1024, dport=54) / (b"x" * 10))
UDP_FREE_VIP = frame(UDP(sport=1024, dport=53) / (b"x" * 10), "203.0.113.11")
UDP_ELSEWHERE = frame(UDP(sport=1024, dport=53) / (b"x" * 10), "198.51.100.1")


VIP6, POOL6 = "2001:db8:f::10", "2001:db8:f::"
CLIENT6 = "2001:db8:c000:200::400:1"  # what the wrapper makes of client 0
MACHINE6 = "fdaa:0:7:8000:1:0:11:2"
NETWORK, HOST, NUMBER = 7, 0x80000001, 0x11


def frame6(layer: object, dst: str = VIP6) -> bytes:
    """The wrapper writes its clients into the source address."""
    built = Ether(src=MAC, dst="02:00:00:00:00:02") / IPv6(src=CLIENT6, dst=dst) / layer
    return bytes(built)


TCP6_ACK = frame6(TCP(sport=1024, dport=80, flags="A"))
TCP6_SYN = frame6(TCP(sport=1024, dport=80, flags="S"))
UDP6_DATA = frame6(UDP(sport=1024, dport=53) / (b"x" * 10))
UDP6_ELSEWHERE = frame6(UDP(sport=1024, dport=53) / (b"x" * 10), "2001:db8:2::1")


def answer6(layer: object, src: str = MACHINE6) -> bytes:
    gateway = "00:00:00:00:00:00"
    return bytes(Ether(src=MAC, dst=gateway) / IPv6(src=src, dst=CLIENT6) / layer)


TCP6_ANSWER = answer6(TCP(sport=8080, dport=1024, flags="A"))
UDP6_ANSWER = answer6(UDP(sport=5353, dport=1024) / (b"x" * 10))
UDP6_NO_ANSWER = answer6(UDP(sport=5354, dport=1024) / (b"x" * 10))


def answer(layer: object, src: str) -> bytes:
    """What the machine sends back to the client."""
    gateway = "00:00:00:00:00:00"
    return bytes(Ether(src=MAC, dst=gateway) / IP(src=src, dst="192.0.2.0") / layer)


TCP_ANSWER = answer(TCP(sport=8080, dport=1024, flags="A"), "172.16.0.2")
UDP_ANSWER = answer(UDP(sport=5353, dport=1024) / (b"x" * 10), "172.16.0.3")
SPOOFED = answer(UDP(sport=5353, dport=1024) / (b"x" * 10), "172.16.0.9")


def put(target: Map, index: int, value: ct.Structure) -> None:
    target.update(index.to_bytes(4, "little"), bytes(value))


def prefix(cidr: str) -> int:
    a, b, c, d = (int(part) for part in cidr.split("."))
    return a << 24 | b << 16 | c << 8 | d


def configure(maps: dict[str, Map], buckets: int) -> None:
    """One pool, one VIP with TCP 80 and UDP 53, one machine on lo."""
    settings = layout.Settings(
        pool_count=1,
        private_prefix=prefix("172.16.0.0"),
        private_mask=0xFFF00000,
        alias_prefix=prefix("100.64.0.0"),
        uplink_count=1,
        flow_buckets=buckets,
        vm_buckets=maps["vm_slots"].shape.max_entries,
        seed=0x1234567890ABCDEF,
    )
    settings.pool[0] = layout.Pool(prefix("203.0.113.0"), 0xFFFFFF00, 0, 0)
    settings.pool6_count = 1
    settings.pool6[0].prefix[:] = IPv6Address(POOL6).packed
    settings.pool6[0].mask[:] = bytes([0xFF] * 6 + [0] * 10)
    settings.pool6[0].vip_base = VIPS6
    settings.pool6[0].size = 32
    settings.uplink[0] = 1
    put(maps["settings"], 0, settings)
    for vip in (10, VIPS6 + 0x10):
        put(maps["vips"], vip, layout.Vip(layout.VIP_ALLOCATED, 0))
    put(maps["tables"], 1, layout.Table(0, 1))
    maps["maglev"].update(bytes(4), (3).to_bytes(4, "little"))
    slot = layout.Slot(
        generation=1,
        flags=layout.SLOT_LIVE,
        ifindex=1,
        private_ip=prefix("172.16.0.2"),
        services_ip=prefix("172.16.0.3"),
        network=NETWORK,
        host=HOST,
        machine=NUMBER,
    )
    slot.mac[:] = bytes.fromhex(MAC.replace(":", ""))
    put(maps["slots"], 3, slot)
    VmSlots(maps["vm_slots"], settings.vm_buckets).write([(1, 3)])
    for ident, port, internal, proto in ((1, 80, 8080, 6), (2, 53, 5353, 17)):
        service = layout.Service(id=ident, table=1, internal_port=internal)
        maps["services"].update(bytes(layout.ServiceKey(10, port, proto, 0)), bytes(service))
        service = layout.Service(ident + 8, 1, internal, layout.SERVICE_REVERSE)
        key = layout.ServiceKey(VIPS6 + 0x10, port, proto, 0)
        maps["services"].update(bytes(key), bytes(service))
        reply = layout.Reply(layout.Addr(*IPv6Address(VIP6).packed), ident + 8, port)
        reply_key = layout.ReplyKey(3, internal, proto, layout.REPLY_IPV6)
        maps["replies"].update(bytes(reply_key), bytes(reply))
        reply = layout.Reply(rig.addr(VIP), ident, port, layout.REPLY_UNIQUE)
        maps["replies"].update(bytes(layout.ReplyKey(3, internal, proto, 0)), bytes(reply))


def fill_floor(module: object, clients: int) -> None:
    """The floor's hash table, with the same flows."""
    table = module["floor_flows"]
    for i in range(clients):
        source = 0xC0000200 + (i << 10) & 0xFFFFFFFF
        net = int.from_bytes(source.to_bytes(4, "big"), "little")
        port = int.from_bytes((1024 + (i & 0x3FFF)).to_bytes(2, "big"), "little")
        vip = int.from_bytes(bytes((203, 0, 113, 10)), "little")
        dport = int.from_bytes((53).to_bytes(2, "big"), "little")
        key = table.Key(
            (ct.c_uint64 * 5)(
                0, net << 32 | 0xFFFF, 0, vip << 32 | 0xFFFF, port << 32 | dport << 16 | 17
            )
        )
        table[key] = table.Leaf(ifindex=1)


def edge_rows(edge: Program, wrapper: rig.Wrapper) -> list[tuple[str, float]]:
    m = wrapper.measure
    many = 524_288
    return [
        ("not for the pools", m(edge, UDP_ELSEWHERE)),
        ("pool address of nobody: dropped", m(edge, UDP_FREE_VIP)),
        ("no service on the port: dropped", m(edge, UDP_NO_SERVICE)),
        ("UDP, established, 1 flow", m(edge, UDP_DATA, warm=10)),
        ("TCP, established, 1 flow", m(edge, TCP_ACK, warm=10)),
        ("UDP, established, 524,288 flows", m(edge, UDP_DATA, clients=many, warm=2 * many)),
        ("TCP, established, 524,288 flows", m(edge, TCP_ACK, clients=many, warm=2 * many)),
        ("TCP, new (SYN), 4,194,304 tuples", m(edge, TCP_SYN, clients=1 << 22)),
        (
            "UDP, new, 4,194,304 tuples, table full",
            m(edge, UDP_DATA, clients=1 << 22, warm=1 << 22),
        ),
    ]


def edge6_rows(edge: Program, wrapper: rig.Wrapper) -> list[tuple[str, float]]:
    m = wrapper.measure
    many = 524_288
    return [
        ("IPv6, not for the pools", m(edge, UDP6_ELSEWHERE)),
        ("IPv6, UDP, established, 1 flow", m(edge, UDP6_DATA, warm=10)),
        ("IPv6, TCP, established, 1 flow", m(edge, TCP6_ACK, warm=10)),
        ("IPv6, UDP, established, 524,288 flows", m(edge, UDP6_DATA, clients=many, warm=2 * many)),
        ("IPv6, TCP, established, 524,288 flows", m(edge, TCP6_ACK, clients=many, warm=2 * many)),
        ("IPv6, TCP, new (SYN), 4,194,304 tuples", m(edge, TCP6_SYN, clients=1 << 22)),
    ]


def vm6_rows(programs: dict[str, Program], wrapper: rig.Wrapper) -> list[tuple[str, float]]:
    """Three filters see an answer, one after the other."""
    rows = []
    for name, packet in (
        ("TCP answer of an established flow", TCP6_ANSWER),
        ("UDP answer of an established flow", UDP6_ANSWER),
        ("no answer: dropped", UDP6_NO_ANSWER),
    ):
        for program in ("vm_tc", "dns", "vm6_tc"):
            took = wrapper.measure(programs[program], packet)
            rows.append((f"IPv6, {name}, {program}", round(took, 1)))
    return rows


def vm_rows(vm: Program, wrapper: rig.Wrapper) -> list[tuple[str, float]]:
    """Answers of the flows that edge_rows has left: client 0 is in all."""
    return [
        ("TCP answer of an established flow", round(wrapper.measure(vm, TCP_ANSWER), 1)),
        ("UDP answer of an established flow", round(wrapper.measure(vm, UDP_ANSWER), 1)),
        ("spoofed source: dropped", round(wrapper.measure(vm, SPOOFED), 1)),
    ]


def main() -> None:
    rig.require_root()
    with rig.programs(FLOWS) as generation:
        configure(generation.maps, FLOWS // layout.FLOW_WAYS)
        floors = rig.floors()
        wrapper = rig.Wrapper("xdp", floors["floor_nothing"][0])
        fill_floor(floors["floor_rewrite"][1], 524_288)
        rows: list[tuple[str, float]] = []
        for name in ("floor_parse", "floor_lookup", "floor_rewrite"):
            rows.append((f"{name}, 1 flow", wrapper.measure(floors[name][0], UDP_DATA)))
        many = 524_288
        for name in ("floor_lookup", "floor_rewrite"):
            took = wrapper.measure(floors[name][0], UDP_DATA, clients=many, warm=many)
            rows.append((f"{name}, 524,288 flows", took))
        rows += edge_rows(generation.programs["edge_xdp"], wrapper)
        rows += edge6_rows(generation.programs["edge_xdp"], wrapper)
        floor_one = dict(rows)["floor_rewrite, 1 flow"]
        floor_many = dict(rows)["floor_rewrite, 524,288 flows"]
        table = []
        for name, took in rows:
            many_flows = "288 flows" in name or "304 tuples" in name
            table.append(
                (name, round(took, 1), round(took / (floor_many if many_flows else floor_one), 2))
            )
        for established in (TCP_ACK, UDP_DATA, TCP6_ACK, UDP6_DATA):
            wrapper.measure(generation.programs["edge_xdp"], established)
        tc = rig.Wrapper("tc", floors["floor_nothing_tc"][0])
        answers = vm_rows(generation.programs["vm_tc"], tc)
        answers += vm6_rows(generation.programs, tc)
        rig.report("XDP, ns per packet", ("case", "ns", "of the floor"), table)
        rig.report("tc, ns per packet", ("case", "ns"), answers)


if __name__ == "__main__":
    main()
