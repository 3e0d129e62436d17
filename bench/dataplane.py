# SPDX-License-Identifier: Apache-2.0
"""ns per packet of edge_xdp and vm_tc by BPF_PROG_TEST_RUN, beside floors.

Run as root: ``.venv/bin/python -m bench.dataplane [--json]``.
"""

from __future__ import annotations

import ctypes as ct

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from bench import rig
from flyebpf.bpf import layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.drivers.map_vm_slots import VmSlots

FLOWS = 2_097_152  # entries: four for each of 524,288 flows
VIP = "203.0.113.10"
MAC = "02:00:00:00:00:01"


def frame(layer: object, dst: str = VIP) -> bytes:
    built = Ether(src=MAC, dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst=dst) / layer
    return bytes(built)


TCP_ACK = frame(TCP(sport=1024, dport=80, flags="A"))
TCP_SYN = frame(TCP(sport=1024, dport=80, flags="S"))
UDP_DATA = frame(UDP(sport=1024, dport=53) / (b"x" * 10))
UDP_NO_SERVICE = frame(UDP(sport=1024, dport=54) / (b"x" * 10))
UDP_FREE_VIP = frame(UDP(sport=1024, dport=53) / (b"x" * 10), "203.0.113.11")
UDP_ELSEWHERE = frame(UDP(sport=1024, dport=53) / (b"x" * 10), "198.51.100.1")


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
    settings.uplink[0] = 1
    put(maps["settings"], 0, settings)
    put(maps["vips"], 10, layout.Vip(layout.VIP_ALLOCATED, 0))
    put(maps["tables"], 1, layout.Table(0, 1))
    maps["maglev"].update(bytes(4), (3).to_bytes(4, "little"))
    slot = layout.Slot(
        generation=1,
        flags=layout.SLOT_LIVE,
        ifindex=1,
        private_ip=prefix("172.16.0.2"),
        services_ip=prefix("172.16.0.3"),
    )
    slot.mac[:] = bytes.fromhex(MAC.replace(":", ""))
    put(maps["slots"], 3, slot)
    VmSlots(maps["vm_slots"], settings.vm_buckets).write([(1, 3)])
    for ident, port, internal, proto in ((1, 80, 8080, 6), (2, 53, 5353, 17)):
        service = layout.Service(id=ident, table=1, internal_port=internal)
        maps["services"].update(bytes(layout.ServiceKey(10, port, proto, 0)), bytes(service))
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
        floor_one = dict(rows)["floor_rewrite, 1 flow"]
        floor_many = dict(rows)["floor_rewrite, 524,288 flows"]
        table = []
        for name, took in rows:
            many_flows = "288 flows" in name or "304 tuples" in name
            table.append(
                (name, round(took, 1), round(took / (floor_many if many_flows else floor_one), 2))
            )
        for established in (TCP_ACK, UDP_DATA):
            wrapper.measure(generation.programs["edge_xdp"], established)
        tc = rig.Wrapper("tc", floors["floor_nothing_tc"][0])
        answers = vm_rows(generation.programs["vm_tc"], tc)
        rig.report("XDP, ns per packet", ("case", "ns", "of the floor"), table)
        rig.report("tc, ns per packet", ("case", "ns"), answers)


if __name__ == "__main__":
    main()
