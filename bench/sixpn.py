# SPDX-License-Identifier: Apache-2.0
"""ns per packet of vm_tc and vm_out for machines of one network (6PN), beside
"parse and one hash lookup".

Run as root: ``.venv/bin/python -m bench.sixpn [--json]``.
"""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import rig
from bench.dataplane import put
from flyebpf.bpf import layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.model.sixpn import machine_address

NETWORK, OTHER_NETWORK = 7, 8
HOST, OTHER_HOST = 0x80000001, 0x80000002
MACHINE, PEER = 17, 18
MAC = "02:00:00:00:00:01"
LO = 1
FLOWS = 1024
MANY = 8_192


def frame(dst: str, layer: object, src: str = "") -> bytes:
    src = src or machine_address(NETWORK, HOST, MACHINE)
    built = Ether(src=MAC, dst="02:00:00:00:00:02") / IPv6(src=src, dst=dst, hlim=64) / layer
    return bytes(built)


SAME_HOST = machine_address(NETWORK, HOST, PEER)
OTHER = machine_address(NETWORK, OTHER_HOST, PEER)
FOREIGN = machine_address(OTHER_NETWORK, HOST, PEER)
SEGMENT = TCP(sport=40000, dport=5432, flags="A")
DATAGRAM = UDP(sport=40000, dport=5432) / (b"x" * 10)


def configure(maps: dict[str, Map]) -> None:
    """The sender and MANY machines of its network behind lo, and another host
    behind it too."""
    settings = layout.Settings(
        flow_buckets=FLOWS // layout.FLOW_WAYS,
        host=HOST,
        mesh_mtu=1420,
        vm_buckets=maps["vm_slots"].shape.max_entries,
    )
    put(maps["settings"], 0, settings)
    numbers = [MACHINE, *range(PEER, PEER + MANY)]
    maps["slots"].update_batch([(u32(i), slot_of(number)) for i, number in enumerate(numbers)])
    entries = ((layout.SixpnKey(NETWORK, number), i) for i, number in enumerate(numbers))
    maps["sixpn"].update_batch([(bytes(key), u32(index)) for key, index in entries])
    maps["hosts"].update(u32(OTHER_HOST), bytes(layout.Host(ifindex=LO)))


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def slot_of(number: int) -> bytes:
    slot = layout.Slot(
        generation=1,
        flags=layout.SLOT_LIVE,
        ifindex=LO,
        network=NETWORK,
        host=HOST,
        machine=number,
    )
    slot.mac[:] = bytes.fromhex(MAC.replace(":", ""))
    return bytes(slot)


def behind(maps: dict[str, Map], slot: int) -> None:
    """Whose interface lo is."""
    bucket = layout.VmSlotBucket()
    bucket.way[0].ifindex, bucket.way[0].slot = LO, slot
    put(maps["vm_slots"], LO % maps["vm_slots"].shape.max_entries, bucket)


def fill_floor(module: Any) -> None:
    """The floors' hash table, with the same machines."""
    table = module["floor_machines"]
    leaf = table.Leaf(ifindex=LO)
    for number in range(PEER, PEER + MANY):
        table[table.Key(NETWORK, number)] = leaf


Row = tuple[str, float, float]


def few(tc: rig.Wrapper, programs: dict[str, Program], maps: dict[str, Map]) -> list[Row]:
    """One flow, all in the first-level cache."""
    delivered = frame(SAME_HOST, SEGMENT)
    floor = tc.measure(programs["floor_sixpn_tc"], delivered)
    cases = (
        ("parse, one hash lookup, deliver", "floor_deliver_tc", delivered),
        ("spoofed source: dropped", "vm_tc", frame(SAME_HOST, SEGMENT, FOREIGN)),
        ("another network: dropped", "vm_tc", frame(FOREIGN, SEGMENT)),
        ("TCP to a machine of this host", "vm_tc", delivered),
        ("UDP to a machine of this host", "vm_tc", frame(SAME_HOST, DATAGRAM)),
        ("TCP to another host", "vm_tc", frame(OTHER, SEGMENT)),
    )
    rows: list[Row] = [("parse, one hash lookup", floor, 1.0)]
    for name, program, sent in cases:
        took = tc.measure(programs[program], sent)
        rows.append((name, took, took / floor))
    behind(maps, 1)
    took = tc.measure(programs["vm_out"], delivered)
    behind(maps, 0)
    return [*rows, ("vm_out, at delivery", took, took / floor)]


def many(tc: rig.Wrapper, programs: dict[str, Program], machines: int) -> list[Row]:
    """Packets to so many machines in turn."""
    sent = frame(SAME_HOST, SEGMENT)
    took = {
        name: tc.measure(programs[name], sent, clients=machines, machine=PEER, warm=2 * machines)
        for name in ("floor_sixpn_tc", "floor_deliver_tc", "vm_tc")
    }
    floor = took["floor_sixpn_tc"]
    return [
        (f"parse, one hash lookup; {machines:,} machines", floor, 1.0),
        ("the same, deliver", took["floor_deliver_tc"], took["floor_deliver_tc"] / floor),
        ("vm_tc, TCP to them", took["vm_tc"], took["vm_tc"] / floor),
    ]


def main() -> None:
    rig.require_root()
    with rig.programs(FLOWS) as generation:
        configure(generation.maps)
        behind(generation.maps, 0)
        floors = rig.floors()
        fill_floor(floors["floor_sixpn_tc"][1])
        tc = rig.Wrapper("tc", floors["floor_nothing_tc"][0])
        programs = {**generation.programs, **{name: made for name, (made, _) in floors.items()}}
        rows = few(tc, programs, generation.maps)
        for machines in (1024, MANY):
            rows += many(tc, programs, machines)
        table = [(name, round(took, 1), round(times, 2)) for name, took, times in rows]
        rig.report("6PN, ns per packet", ("case", "ns", "of the floor"), table)


if __name__ == "__main__":
    main()
