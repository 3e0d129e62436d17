# SPDX-License-Identifier: Apache-2.0
"""The whole chain on one core: client's veth, host, VM's veth.

Once steered by edge_xdp, once by nftables DNAT with conntrack, in turn, in the
same namespaces. Frames are made in the kernel (BPF_PROG_TEST_RUN with live
frames) and counted in the VM; everything between runs in the softirqs of one
CPU, so wall time divided by packets is their cost. The VM counts either in its
driver (XDP: what the host does ends there, as it does at a tap) or in its
kernel (tc: then the VM's own work of making a socket buffer counts too).

Run as root: ``.venv/bin/python -m bench.chain [--json]``.
"""

from __future__ import annotations

import ctypes as ct
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bench import rig
from bench.dataplane import configure, prefix, put
from flyebpf.bpf import compiler, layout
from flyebpf.bpf.program import Program, XdpLink
from flyebpf.bpf.source import ProgramSpec
from flyebpf.lab.net import inside

LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
SOURCE_PORT = 34  # offset in the frame
PACKETS = 500_000
ROUNDS = 7
CLIENT_MAC, UPLINK_MAC, VM_MAC = (f"02:00:00:00:01:0{i}" for i in (1, 2, 3))
VIP, PRIVATE = "203.0.113.10", "172.16.0.2"
NFT = f"""
table ip bench_chain {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {VIP} udp dport 53 dnat to {PRIVATE}:5353
  }}
}}
"""


def sh(command: str, stdin: str | None = None) -> None:
    subprocess.run(command, shell=True, check=True, input=stdin, text=True)


@contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """client -- host -- vm, with neighbours and routes in place."""
    names = {role: f"bench-{role}-{os.getpid()}" for role in ("client", "host", "vm")}
    client, host, vm = names.values()
    try:
        for name in names.values():
            sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(
            f"ip -n {host} link add uplink address {UPLINK_MAC} type veth"
            f" peer name eth0 netns {client} address {CLIENT_MAC}"
        )
        sh(f"ip -n {host} link add vm type veth peer name eth0 netns {vm} address {VM_MAC}")
        for name, device in ((client, "eth0"), (host, "uplink"), (host, "vm"), (vm, "eth0")):
            sh(f"ip -n {name} link set {device} up")
            sh(f"ip netns exec {name} ethtool -K {device} gro on")
        sh(f"ip -n {host} addr add 192.0.2.254/24 dev uplink")
        sh(f"ip -n {host} neigh add 192.0.2.1 lladdr {CLIENT_MAC} dev uplink")
        sh(f"ip -n {host} route add {PRIVATE}/32 dev vm")
        sh(f"ip -n {host} neigh add {PRIVATE} lladdr {VM_MAC} dev vm")
        sh(f"ip netns exec {host} sysctl -qw net.ipv4.ip_forward=1")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)


class Chain:
    """The two ends."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        bpf = compiler.import_bcc()
        text = (rig.HERE / "bpf" / "chain.c").read_text()
        source = ProgramSpec("chain_source", "xdp")
        self.module: Any = compiler.compile_program(bpf, source, {}, text)
        self.source, self.source_alone, self.sink_tc, self.sink_xdp = (
            compiler.load_program(self.module, ProgramSpec(name, kind))
            for name, kind in (
                ("chain_source", "xdp"),
                ("chain_source_alone", "xdp"),
                ("chain_sink_tc", "tc"),
                ("chain_sink_xdp", "xdp"),
            )
        )

    @contextmanager
    def sink(self, where: str) -> Iterator[None]:
        """Count arrivals in the VM's "driver" or its "kernel"."""
        with inside(self.names["vm"]), IPRoute() as ipr:
            index = ipr.link_lookup(ifname="eth0")[0]
            if where == "driver":
                link = XdpLink.create(self.sink_xdp, index, "native")
            else:
                ipr.tc("add", "clsact", index)
                ipr.tc(
                    "add-filter",
                    "bpf",
                    index,
                    ":1",
                    fd=self.sink_tc.fd,
                    name="sink",
                    parent=0xFFFFFFF2,
                    classid=1,
                    direct_action=True,
                )
        yield
        if where == "driver":
            link.close()

    def run(self, clients: int) -> tuple[float, float]:
        """ns per packet that arrived, without those of making it, and the part
        (0 to 1) that arrived."""
        alone = self.timed(self.source_alone, clients)
        before = self.received()
        took = self.timed(self.source, clients)
        arrived = self.received() - before
        return (took - alone) / max(arrived, 1), arrived / PACKETS

    def timed(self, source: Program, clients: int) -> int:
        """ns that PACKETS frames of a source take."""
        frame = bytes(
            Ether(src=CLIENT_MAC, dst=UPLINK_MAC)
            / IP(src="192.0.2.1", dst=VIP)
            / UDP(sport=1024, dport=53, chksum=0)
            / (b"x" * 22)
        )
        leaf = self.module["traffics"].Leaf(clients=clients, varied=SOURCE_PORT)
        ct.memmove(ct.addressof(leaf), frame, rig.TEMPLATE)
        with inside(self.names["client"]), IPRoute() as ipr:
            leaf.ifindex = ipr.link_lookup(ifname="eth0")[0]
            self.module["traffics"][ct.c_int(0)] = leaf
            begun = time.perf_counter_ns()
            source.test_run_live(frame, PACKETS)
            return time.perf_counter_ns() - begun

    def received(self) -> int:
        return int(self.module["received"][ct.c_int(0)].value)


def attach_edge(names: dict[str, str], generation: Any) -> XdpLink:
    """edge_xdp on the uplink, its machine behind the VM's interface."""
    with inside(names["host"]), IPRoute() as ipr:
        uplink = ipr.link_lookup(ifname="uplink")[0]
        vm = ipr.link_lookup(ifname="vm")[0]
        slot = layout.Slot(
            generation=1,
            flags=layout.SLOT_LIVE,
            ifindex=vm,
            private_ip=prefix(PRIVATE),
            services_ip=prefix(PRIVATE),
        )
        slot.mac[:] = bytes.fromhex(VM_MAC.replace(":", ""))
        put(generation.maps["slots"], 3, slot)
        return XdpLink.create(generation.programs["edge_xdp"], uplink, "native")


def rounds(chain: Chain, names: dict[str, str], generation: Any, clients: int) -> list[Any]:
    """Both ways in turn, so that a drift of the machine hits both."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        link = attach_edge(names, generation)
        ours.append(chain.run(clients))
        link.close()
        sh(f"ip netns exec {names['host']} nft -f -", NFT)
        theirs.append(chain.run(clients))
        sh(f"ip netns exec {names['host']} nft flush ruleset")
    row = []
    for results in (ours, theirs):
        row += [statistics.median(r[0] for r in results), min(r[1] for r in results)]
    return [clients, *row, row[2] / row[0]]


def main() -> None:
    rig.require_root()
    os.sched_setaffinity(0, {0})
    with namespaces() as names, rig.programs(262_144) as generation:
        configure(generation.maps, 262_144 // layout.FLOW_WAYS)
        chain = Chain(names)
        rows = []
        for where in ("driver", "kernel"):
            with chain.sink(where):
                rows += [
                    [where, *rounds(chain, names, generation, clients)]
                    for clients in (1, 1024, 32768)
                ]
    rig.report(
        "client veth -> host -> VM veth on one core, ns per packet (median of rounds)",
        (
            "counted in the VM's",
            "flows",
            "edge_xdp",
            "arrived",
            "nftables DNAT",
            "arrived",
            "times",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
