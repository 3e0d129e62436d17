# SPDX-License-Identifier: Apache-2.0
"""What ``doctor`` asks machines and the proxy: connections as the proxy makes them,
segments as the host's services send them."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from flyebpf.api.probes import Edge, Fetched, Reply
from flyebpf.bpf.program import Program
from flyebpf.config import DaemonConfig
from flyebpf.daemon import probe_http
from flyebpf.daemon.probe_edge import EdgeProbe
from flyebpf.drivers.counters import Counters
from flyebpf.errors import UnavailableError
from flyebpf.model.sixpn import NAMESERVER

PATIENCE = 1.0  # seconds for a machine's answer
DNS_PORT = 53
IPV6_CHECKSUM = 7  # linux/in6.h: the kernel fills it in, at this offset
SEGMENT = struct.Struct(">HHIIBBHHH")
SYN, RST, ACK = 2, 4, 16


class HostProbes:
    """Implements :class:`flyebpf.api.probes.Probes`."""

    def __init__(self, config: DaemonConfig, program: Program, counters: Counters) -> None:
        """``program``: that of the uplink."""
        self._proxied = config.proxy.engine != "none"
        self._source = str(ip_network(config.private.block)[1])
        self._edge = EdgeProbe(config.uplinks, program, counters)

    def private(self, address: str, port: int) -> Reply:
        if not self._proxied:
            raise UnavailableError(
                "this host has no proxy, which alone connects to machines' private addresses",
                'set proxy.engine = "envoy" in the configuration',
            )
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as found:
            found.bind((self._source, 0))
            return _connect(found, address, port)

    def connect(self, address: str, port: int) -> Reply:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as found:
            reply = _connect(found, address, port)
            return Reply.CLOSED if reply is Reply.OPEN and probe_http.ends(found) else reply

    def sixpn(self, address: str, ports: Sequence[int]) -> Mapping[int, Reply]:
        """From the DNS server's address and port: that, machines may answer. The kernel
        resets what they take up, as nobody here has begun it."""
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 16)
            try:
                raw.bind((NAMESERVER, 0))
                sequence = int.from_bytes(os.urandom(4), "big")
                for port in ports:
                    syn = SEGMENT.pack(DNS_PORT, port, sequence, 0, 5 << 4, SYN, 1024, 0, 0)
                    raw.sendto(syn, (address, 0))
            except OSError as error:
                raise UnavailableError(
                    f"nothing can be sent to {address}: {error.strerror}",
                    "flyebpf status, and see what has not been applied",
                ) from error
            return _answers(raw, address, ports, (sequence + 1) & 0xFFFFFFFF)

    def fetch(self, address: str, port: int, host: str, *, tls: bool) -> Fetched:
        return probe_http.fetch(address, port, host, tls=tls)

    def handshake(self, address: str, port: int, host: str, *, postgres: bool = False) -> Fetched:
        return probe_http.handshake(address, port, host, postgres=postgres)

    def edge(self, address: str, protocol: str, port: int) -> Sequence[Edge]:
        return self._edge.ask(address, protocol, port)


def _connect(found: socket.socket, address: str, port: int) -> Reply:
    found.settimeout(PATIENCE)
    try:
        found.connect((address, port))
    except ConnectionRefusedError:
        return Reply.REFUSED
    except OSError:  # time is up, or an ICMP error
        return Reply.SILENT
    return Reply.OPEN


def _answers(
    raw: socket.socket, address: str, ports: Sequence[int], wanted: int
) -> Mapping[int, Reply]:
    """``wanted``: what an answer acknowledges."""
    found = dict.fromkeys(ports, Reply.SILENT)
    missing = set(ports)
    deadline = time.monotonic() + PATIENCE
    while missing and select.select([raw], [], [], max(deadline - time.monotonic(), 0))[0]:
        data, peer = raw.recvfrom(2048)
        if peer[0] != address or len(data) < SEGMENT.size:
            continue
        source, dest, _, acknowledged, _, flags, *_ = SEGMENT.unpack_from(data)
        if source in missing and dest == DNS_PORT and acknowledged == wanted and flags & ACK:
            found[source] = Reply.REFUSED if flags & RST else Reply.OPEN
            missing.discard(source)
    return found
