# SPDX-License-Identifier: Apache-2.0
"""How far the regions are: ICMPv6 echoes (RFC 4443) to the other hosts' addresses
on the mesh, and what of it is worth telling the others."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from statistics import median

REQUEST, REPLY = 128, 129
HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
PAYLOAD = struct.Struct("!8sI")  # ours, and the number of the echo
SAMPLES = 5  # of each host; the median leaves out one that was late
ENOUGH = 3
LOST = 4  # rounds without an answer until a host is as far as unknown
WAIT = 1.0  # seconds for the last answers of a round
RATE = 200  # echoes a second
ICMP6_FILTER = 1
CHANGE = 0.2
"""The part by which a time has to change to be published anew."""


class Times:
    """What was measured, by host. Added to by one thread."""

    def __init__(self) -> None:
        self._samples: dict[str, tuple[float, ...]] = {}  # replaced whole: others read it
        self._missed: dict[str, int] = {}

    def add(self, asked: Iterable[str], answers: Mapping[str, float]) -> None:
        """A round: the hosts asked, and the seconds that answers took."""
        names = set(asked)
        for name in names:
            if name in answers:
                self._samples[name] = (*self._samples.get(name, ()), answers[name])[-SAMPLES:]
                self._missed.pop(name, None)
            else:
                self._missed[name] = self._missed.get(name, 0) + 1
        gone = {name for name, missed in self._missed.items() if missed >= LOST}
        for name in gone | (self._samples.keys() - names):
            self._samples.pop(name, None)
            self._missed.pop(name, None)

    def medians(self) -> dict[str, float]:
        """Seconds, of hosts that answered often enough."""
        found = list(self._samples.items())
        return {name: median(times) for name, times in found if len(times) >= ENOUGH}


def by_region(times: Mapping[str, float], regions: Mapping[str, str]) -> dict[str, int]:
    """Microseconds to each region: the median over its hosts. ``regions``: of
    the hosts, by name."""
    found: dict[str, list[float]] = {}
    for name, seconds in times.items():
        if name in regions:
            found.setdefault(regions[name], []).append(seconds)
    return {region: max(1, round(median(all_) * 1e6)) for region, all_ in sorted(found.items())}


def worth_telling(published: Mapping[str, int], measured: Mapping[str, int]) -> bool:
    """Whether a region is new or gone, or a fifth nearer or farther."""
    if published.keys() != measured.keys():
        return True
    return any(abs(measured[r] - published[r]) >= CHANGE * published[r] for r in measured)


class Echo:
    """A socket for echoes from this host's address on the mesh. A ping socket
    where the kernel allows those, else a raw one. Raises OSError."""

    def __init__(self, source: str) -> None:
        self._mark = os.urandom(8)
        self._number = 0
        try:
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
        except PermissionError:
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            only_replies = bytearray(b"\xff" * 32)
            only_replies[REPLY // 8] ^= 1 << REPLY % 8
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(only_replies))
        try:
            self._socket.setblocking(False)
            self._socket.bind((source, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def round(self, targets: Mapping[str, str]) -> dict[str, float]:
        """One echo to each target (name to address); seconds that answers took.
        Returns after at most WAIT beyond the time that sending takes."""
        sent: dict[int, tuple[str, str, float]] = {}
        answers: dict[str, float] = {}
        for name, address in targets.items():
            self._number = self._number + 1 & 0xFFFFFFFF
            sent[self._number] = (name, address, time.perf_counter())
            message = HEADER.pack(REQUEST, 0, 0, os.getpid() & 0xFFFF, self._number & 0xFFFF)
            try:
                payload = PAYLOAD.pack(self._mark, self._number)
                self._socket.sendto(message + payload, (address, 0))
            except OSError:
                del sent[self._number]  # no way there now
            self._collect(sent, answers, 1 / RATE)
        deadline = time.perf_counter() + WAIT
        while sent and (left := deadline - time.perf_counter()) > 0:
            self._collect(sent, answers, left)
        return answers

    def _collect(
        self, sent: dict[int, tuple[str, str, float]], answers: dict[str, float], wait: float
    ) -> None:
        """Wait for answers; return after some, or after ``wait`` seconds."""
        if not select.select([self._socket], [], [], wait)[0]:
            return
        now = time.perf_counter()
        try:
            data, sender = self._socket.recvfrom(2048)
        except OSError:
            return
        number = read_reply(data, self._mark)
        if number in sent and sent[number][1] == sender[0]:
            name, _, at = sent.pop(number)
            answers[name] = now - at


def read_reply(data: bytes, mark: bytes) -> int:
    """The number of the echo that this message answers; -1 for any other one."""
    if len(data) != HEADER.size + PAYLOAD.size or data[0] != REPLY:
        return -1
    found, number = PAYLOAD.unpack_from(data, HEADER.size)
    return int(number) if found == mark else -1
