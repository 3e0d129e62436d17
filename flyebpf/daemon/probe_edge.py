# SPDX-License-Identifier: Apache-2.0
"""Clients' first packets at the uplink, and what becomes of them.

The attached program is run on a frame that looks as if a client had sent it; its
verdict and the frame that it makes say where the packet goes. One that goes to a
machine of this host is then really sent (BPF_F_TEST_XDP_LIVE_FRAMES), and the answer
seen where it leaves, at the uplink. The client's address is one of documentation
(RFC 5737, RFC 3849): nobody has it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

from flyebpf.api.probes import Edge, Reply, Way
from flyebpf.bpf.program import Program
from flyebpf.daemon import probe_frames as frames
from flyebpf.daemon.probe_frames import Probe
from flyebpf.drivers.counters import Counters
from flyebpf.errors import UnavailableError
from flyebpf.model.reasons import DropReason
from flyebpf.model.sixpn import HOST_BIT, PREFIX

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
XDP_MD = struct.Struct("=6I")
PATIENCE = 1.0  # seconds for a machine's answer
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
PACKET_ROOM = 65536
FIRST_PORT, PORTS = 49152, 16384
CLIENTS = 16
"""Ports that are asked from, so that several machines are met."""


class EdgeProbe:
    """For any thread."""

    def __init__(self, uplinks: Sequence[str], program: Program, counters: Counters) -> None:
        self._uplinks = uplinks
        self._program = program
        self._counters = counters

    def ask(self, address: str, protocol: str, port: int) -> Sequence[Edge]:
        """Raises UnavailableError where there is no uplink, KernelError."""
        try:
            ifindex = socket.if_nametoindex(self._uplinks[0])
        except (OSError, IndexError) as error:
            raise UnavailableError(
                "this host has no uplink now", "flyebpf status shows the uplinks"
            ) from error
        first = int.from_bytes(os.urandom(2), "big") % PORTS
        found: dict[tuple[Way, str, int], Edge] = {}
        for more in range(CLIENTS):
            source = FIRST_PORT + (first + more) % PORTS
            probe = Probe(ip_address(address), frames.PROTOCOLS[protocol], port, source)
            context = XDP_MD.pack(0, len(probe.first()), 0, ifindex, 0, 0)
            edge = self._dry(probe, context)
            key = (edge.way, edge.address, edge.host)
            if key not in found:
                found[key] = edge
                if edge.way is Way.MACHINE:
                    found[key] = replace(edge, reply=self._really(probe, context))
            if edge.way not in (Way.MACHINE, Way.HOST):
                break
        return list(found.values())

    def _dry(self, probe: Probe, context: bytes) -> Edge:
        """Where it would go."""
        before = self._counters.drops()
        run = self._program.test_run(probe.first(), context=context)
        start = XDP_MD.unpack(run.context)[0]  # behind what edge_tc is told (via_tc.h)
        edge = _read(probe, run.verdict, run.data[start:])
        if edge.way is Way.DROPPED:
            return replace(edge, reasons=_grown(before, self._counters.drops()))
        return edge

    def _really(self, probe: Probe, context: bytes) -> Reply:
        """Send it, and wait for what leaves for the client at any uplink."""
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        with seen:
            seen.setblocking(False)
            program = frames.filter_of(probe)
            seen.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program.value)
            self._program.test_run_live(probe.first(), 1, context=context)
            reply = self._wait(seen, probe)
        if reply is Reply.OPEN and probe.protocol == frames.TCP:
            self._program.test_run_live(probe.reset(), 1, context=context)
        return reply

    def _wait(self, seen: socket.socket, probe: Probe) -> Reply:
        """What has come is looked at, however late this thread gets its turn."""
        deadline = time.monotonic() + PATIENCE
        while select.select([seen], [], [], max(deadline - time.monotonic(), 0))[0]:
            reply = probe.reply(seen.recv(PACKET_ROOM))
            if reply is not None:
                return reply
        return Reply.SILENT


def _read(probe: Probe, verdict: int, data: bytes) -> Edge:
    """Where the frame that the program has made goes."""
    if verdict == XDP_TX:
        return Edge(Way.RESET)
    if verdict not in (XDP_PASS, XDP_REDIRECT):
        return Edge(Way.DROPPED)
    to = frames.destination(data)
    if to is None or to == probe.vip:
        return Edge(Way.STACK)
    if host := _mesh_host(data):
        return Edge(Way.HOST, host=host)
    return Edge(Way.MACHINE, str(to))


def _mesh_host(data: bytes) -> int:
    """The host's number, of a packet in mesh form (bpf/include/sixpn.h): the field
    after the prefix is a host's there, a network's else."""
    to = frames.destination(data)
    if not isinstance(to, IPv6Address) or int(to) >> 112 != PREFIX:
        return 0
    number = int(to) >> 80 & 0xFFFFFFFF
    return number if number & HOST_BIT else 0


Drops = dict[int, tuple[int, int]]


def _grown(before: Drops, after: Drops) -> tuple[str, ...]:
    return tuple(
        DropReason(reason).label
        for reason, (packets, _) in after.items()
        if packets > before.get(reason, (0, 0))[0]
    )
