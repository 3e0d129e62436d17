# SPDX-License-Identifier: Apache-2.0
"""ns per packet of what crosses the mesh: edge_xdp for a machine of another host,
mesh_tc for one of this host, beside delivery on the host itself.

Run as root: ``.venv/bin/python -m bench.mesh [--json]``.
"""

from __future__ import annotations

import ctypes as ct
import statistics
import struct
import time
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import rig
from bench.dataplane import MAC, VIP, configure, put
from flyebpf.bpf import compiler, layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.bpf.source import ProgramSpec
from flyebpf.model.sixpn import host_address, machine_base

FLOWS = 65_536
TEMPLATE = 96
HOST, OTHER_HOST = 0x80000001, 0x80000002
NETWORK, HERE, THERE = 7, 17, 18
LOCAL_SLOT, FAR_SLOT = 3, 4
LO = 1


class Plan(ct.Structure):
    """``struct plan`` of bpf/mesh.c."""

    _fields_ = (("template", ct.c_uint8 * TEMPLATE), ("length", ct.c_uint32), ("pad", ct.c_uint32))


class Wrapper:
    """Runs programs through bench/bpf/mesh.c."""

    def __init__(self, kind: str) -> None:
        bpf = compiler.import_bcc()
        text = (rig.HERE / "bpf" / "mesh.c").read_text()
        names = [f"wrap_{kind}", f"nothing_{kind}"]
        names.append("grow_xdp" if kind == "xdp" else "shrink_tc")
        self.module: Any = compiler.compile_program(bpf, ProgramSpec(names[0], kind), {}, text)
        loaded = [compiler.load_program(self.module, ProgramSpec(name, kind)) for name in names]
        self.program, self.nothing, self.resize = loaded

    def measure(self, program: Program, frame: bytes) -> float:
        """Median ns per packet, without what the wrapper costs around an empty
        program, timed in turn with every run."""
        plan = Plan(length=len(frame))
        ct.memmove(plan.template, frame, TEMPLATE)
        plans = self.module["plans"]
        plans[ct.c_int(0)] = plans.Leaf.from_buffer_copy(bytes(plan))
        repeat = max(int(rig.SECONDS * 1e9 / self._time(program, frame, 50_000)), 50_000)
        return statistics.median(
            self._time(program, frame, repeat) - self._time(self.nothing, frame, repeat)
            for _ in range(rig.RUNS)
        )

    def _time(self, program: Program, frame: bytes, repeat: int) -> float:
        self.module["measured"][ct.c_int(0)] = ct.c_int(program.fd)
        begun = time.thread_time_ns()
        self.program.test_run(frame, repeat=repeat)
        return (time.thread_time_ns() - begun) / repeat


def client(layer: object) -> bytes:
    """A client's packet, of at least TEMPLATE bytes."""
    ip = IP(src="192.0.2.1", dst=VIP)
    return bytes(Ether(src=MAC, dst="02:00:00:00:00:02") / ip / layer / (b"x" * 60))


def carried(frame: bytes, port: int) -> bytes:
    """As the other host's edge sends it to the machine here."""
    dst = machine_base(1, HOST, HERE) & ~(0xFFFFFFFFFFFFFFFF << 48)
    mesh = 0xFDAA << 112 | HOST << 80 | dst & 0xFFFFFFFF << 16 | port
    outer = IPv6(src=host_address(OTHER_HOST), nh=4, plen=len(frame) - 14)
    header = bytes(outer)[:24] + mesh.to_bytes(16, "big")
    return frame[:12] + b"\x86\xdd" + header + frame[14:]


def sixpn() -> bytes:
    """A datagram of the other host's machine to the one here, in mesh form."""
    fields = [(OTHER_HOST, THERE), (HOST, HERE)]
    ends = [struct.pack("!HIIIH", 0xFDAA, host, NETWORK, machine, 2) for host, machine in fields]
    body = bytes(UDP(sport=9, dport=9) / (b"x" * 60))
    header = struct.pack("!IHBB", 6 << 28, len(body), 17, 63)
    return bytes(Ether(src=MAC, dst=MAC, type=0x86DD)) + header + b"".join(ends) + body


def services(maps: dict[str, Map]) -> None:
    """TCP 80 and UDP 53 of bench.dataplane are here; TCP 90 and UDP 90 far away."""
    raw = maps["settings"].lookup(bytes(4))
    assert raw is not None
    settings = layout.Settings.from_buffer_copy(raw)
    settings.host, settings.mesh_mtu = HOST, 1420
    settings.mesh_flags = layout.MESH_ETHERNET  # a test run has an Ethernet header
    put(maps["settings"], 0, settings)
    raw = maps["slots"].lookup(LOCAL_SLOT.to_bytes(4, "little"))
    assert raw is not None
    slot = layout.Slot.from_buffer_copy(raw)
    slot.network, slot.host, slot.machine = NETWORK, HOST, HERE
    put(maps["slots"], LOCAL_SLOT, slot)
    for network in (0, NETWORK):
        key = layout.SixpnKey(network, HERE)
        maps["sixpn"].update(bytes(key), LOCAL_SLOT.to_bytes(4, "little"))
    flags = layout.SLOT_LIVE | layout.SLOT_REMOTE
    far = layout.Slot(generation=1, flags=flags, host=OTHER_HOST, machine=THERE)
    put(maps["slots"], FAR_SLOT, far)
    put(maps["tables"], 2, layout.Table(1, 1))
    maps["maglev"].update((1).to_bytes(4, "little"), FAR_SLOT.to_bytes(4, "little"))
    for ident, proto in ((3, 6), (4, 17)):
        service = layout.Service(id=ident, table=2, internal_port=9090)
        maps["services"].update(bytes(layout.ServiceKey(10, 90, proto, 0)), bytes(service))
    host = layout.Host(ifindex=LO)
    maps["hosts"].update(OTHER_HOST.to_bytes(4, "little"), bytes(host))


Row = tuple[str, float, float]


def edge_rows(edge: Program) -> list[Row]:
    wrapper = Wrapper("xdp")
    restored = wrapper.measure(wrapper.resize, client(UDP(sport=1024, dport=53))) / 2
    rows: list[Row] = [("a header's room made, or taken back", restored, 0.0)]
    for name, layer, near, far in (
        ("UDP", UDP, 53, 90),
        ("TCP", TCP, 80, 90),
    ):
        options = {"flags": "A"} if layer is TCP else {}
        here = wrapper.measure(edge, client(layer(sport=1024, dport=near, **options)))
        there = wrapper.measure(edge, client(layer(sport=1024, dport=far, **options)))
        rows.append((f"edge_xdp, {name} of a flow to a machine here", here, 1.0))
        there -= restored
        rows.append((f"edge_xdp, {name} of a flow to another host", there, there / here))
    return rows


def mesh_rows(mesh: Program, here: float) -> list[Row]:
    """``here``: ns of a local delivery by edge_xdp."""
    wrapper = Wrapper("tc")
    udp = carried(client(UDP(sport=1024, dport=53)), 5353)
    tcp = carried(client(TCP(sport=1024, dport=80, flags="A")), 8080)
    restored = wrapper.measure(wrapper.resize, udp) / 2
    rows: list[Row] = [("the header taken off, or put back", restored, 0.0)]
    for name, frame in (("UDP", udp), ("TCP", tcp)):
        took = wrapper.measure(mesh, frame) - restored
        rows.append((f"mesh_tc, {name} of a flow from an edge", took, took / here))
    took = wrapper.measure(mesh, sixpn())
    rows.append(("mesh_tc, 6PN from another host", took, took / here))
    forged = bytearray(udp)
    forged[27] ^= 1  # the sender's number
    took = wrapper.measure(mesh, bytes(forged))
    return [*rows, ("mesh_tc, from no host: dropped", took, took / here)]


def main() -> None:
    rig.require_root()
    with rig.programs(FLOWS) as generation:
        configure(generation.maps, FLOWS // layout.FLOW_WAYS)
        services(generation.maps)
        edge = edge_rows(generation.programs["edge_xdp"])
        mesh = mesh_rows(generation.programs["mesh_tc"], edge[1][1])
    header = ("case", "ns", "of delivery here")
    for title, rows in (("XDP, ns per packet", edge), ("tc, ns per packet", mesh)):
        rig.report(title, header, [(name, round(a, 1), round(b, 2)) for name, a, b in rows])


if __name__ == "__main__":
    main()
