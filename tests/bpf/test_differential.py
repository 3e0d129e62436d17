# SPDX-License-Identifier: Apache-2.0
"""Hundreds of thousands of random and mutated packets: edge_xdp and
:mod:`tests.bpf.model` must agree on each, in verdict, bytes and reason, and on
all counters at the end.

``FLYEBPF_DIFFERENTIAL_SEED`` repeats a run (a failure prints its seed),
``FLYEBPF_DIFFERENTIAL_PACKETS`` sets how many.
"""

from __future__ import annotations

import ctypes as ct
import os
import random
import secrets
import socket
import struct
from collections.abc import Callable

from flyebpf.bpf import syscalls
from flyebpf.bpf.layout import SLOT_LIVE, SLOT_VIA_TC
from flyebpf.bpf.libbpf import Map, Program
from flyebpf.bpf.syscalls import libbpf, possible_cpus
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.model import Model, Service, Slot, Verdict, checksum
from tests.bpf.rig import Rig, Xdp, ip_number, mac_bytes, u32

PACKETS = int(os.environ.get("FLYEBPF_DIFFERENTIAL_PACKETS", "200000"))
BATCH = 1000
ROOM = 2048

CLIENTS = [socket.inet_aton(a) for a in ("192.0.2.10", "192.0.2.11", "8.8.8.8", "1.0.0.1")]
ODD_SOURCES = [
    socket.inet_aton(a)
    for a in (
        "127.0.0.1",
        "0.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "172.16.0.2",
        "100.64.0.2",
        p.VIP,
    )
]
VIPS = [socket.inet_aton(a) for a in (p.VIP, p.VIP, p.VIP, p.VIP2, p.SMALL_VIP)]
ODD_TARGETS = [
    socket.inet_aton(a)
    for a in (p.FREE_VIP, "172.16.0.2", "100.64.0.2", "192.0.2.1", "198.18.5.16")
]
PORTS = [80, 443, 53, 22, 5000, 5001, 5002, 5003, 5004, 4999, 81, 82, 8443, 1, 0]
ETHER = mac_bytes(p.HOST_MAC) + mac_bytes(p.ROUTER_MAC) + b"\x08\x00"


class Fast:
    """Test runs without anything made anew."""

    def __init__(self, program: Program, drops: Map, ifindex: int) -> None:
        self._in = ct.create_string_buffer(ROOM)
        self._out = ct.create_string_buffer(ROOM)
        self._ctx = ct.create_string_buffer(24)
        self._ifindex = ifindex
        self._opts = syscalls.TestRunOpts(
            sz=ct.sizeof(syscalls.TestRunOpts),
            data_in=ct.addressof(self._in),
            data_out=ct.addressof(self._out),
            ctx_in=ct.addressof(self._ctx),
            repeat=1,
        )
        self._fd = program.fd
        self._run = libbpf().bpf_prog_test_run_opts
        self._run.argtypes = (ct.c_int, ct.c_void_p)
        self._lookup = libbpf().bpf_map_lookup_elem
        self._drops = drops
        self._key = ct.create_string_buffer(4)
        self._value = ct.create_string_buffer(drops.value_size)
        self._seen: dict[int, int] = {}

    def run(self, frame: bytes) -> tuple[int, bytes]:
        size = len(frame)
        ct.memmove(self._in, frame, size)
        struct.pack_into("=6I", self._ctx, 0, 0, size, 0, self._ifindex, 0, 0)
        opts = self._opts
        opts.data_size_in, opts.data_size_out, opts.ctx_size_in = size, ROOM, 24
        error = self._run(self._fd, ct.addressof(opts))
        assert error == 0, f"test run of {size} bytes: {os.strerror(-error)}"
        return opts.retval, self._out.raw[: opts.data_size_out]

    def dropped(self, reason: int) -> int:
        """How many packets were dropped for this since the last call."""
        struct.pack_into("=I", self._key, 0, reason)
        self._lookup(self._drops.fd, self._key, self._value)
        numbers = struct.unpack(f"={possible_cpus() * 2}Q", self._value.raw)
        now = sum(numbers[::2])
        before, self._seen[reason] = self._seen.get(reason, 0), now
        return now - before


def ip_packet(rng: random.Random, source: bytes, target: bytes, proto: int, body: bytes) -> bytes:
    """A frame; what is rare in it is made often enough to matter."""
    options = rng.choice((b"",) * 6 + (b"\x94\x04\0\0", b"\x01" * 8, b"\0" * 40))
    fragment = 0x4000
    if rng.random() < 0.15:
        fragment = rng.choice((0x2000, 0x2000, 0x0001, 0x2008, 0x1FFF, 0x8000))
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        rng.choice((0, 0, 0xB8)),
        20 + len(options) + len(body),
        rng.randrange(4),
        fragment,
        rng.choice((64, 64, 64, 255, 2, 1, 0)) if rng.random() < 0.2 else 57,
        proto,
        0,
        source,
        target,
    )
    header += options
    check = checksum(header)
    header = header[:10] + check.to_bytes(2, "big") + header[12:]
    padding = rng.randbytes(rng.randrange(1, 8)) if rng.random() < 0.1 else b""
    return ETHER + header + body + padding


def ends(rng: random.Random) -> tuple[bytes, bytes]:
    source = rng.choice(ODD_SOURCES if rng.random() < 0.03 else CLIENTS)
    target = rng.choice(ODD_TARGETS if rng.random() < 0.06 else VIPS)
    return source, target


def pseudo(source: bytes, target: bytes, proto: int, body: bytes) -> bytes:
    return source + target + struct.pack("!HH", proto, len(body)) + body


def tcp(rng: random.Random) -> bytes:
    source, target = ends(rng)
    options = b"\x01" * (4 * rng.choice((0, 0, 0, 1, 5, 10)))
    flags = rng.choice((2, 2, 16, 16, 24, 17, 18, 4, 20, 0, rng.randrange(256)))
    body = struct.pack(
        "!HHIIBBHHH",
        40000 + rng.randrange(12),
        rng.choice(PORTS),
        rng.getrandbits(32),
        rng.getrandbits(32),
        (5 + len(options) // 4) << 4,
        flags,
        512,
        0,
        0,
    )
    body += options + rng.randbytes(rng.randrange(12))
    check = checksum(pseudo(source, target, 6, body))
    body = body[:16] + check.to_bytes(2, "big") + body[18:]
    return ip_packet(rng, source, target, 6, body)


def udp(rng: random.Random) -> bytes:
    source, target = ends(rng)
    data = rng.randbytes(rng.randrange(12))
    ports = (40000 + rng.randrange(12), rng.choice(PORTS))
    body = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    if rng.random() < 0.8:
        check = checksum(pseudo(source, target, 17, body)) or 0xFFFF
        body = body[:6] + check.to_bytes(2, "big") + body[8:]
    return ip_packet(rng, source, target, 17, body)


def with_icmp_sum(body: bytes) -> bytes:
    return body[:2] + checksum(body[:2] + b"\0\0" + body[4:]).to_bytes(2, "big") + body[4:]


def echo(rng: random.Random) -> bytes:
    source, target = ends(rng)
    data = rng.choice((b"", b"\0" * 8, b"\xff" * 9, rng.randbytes(20)))
    kind = rng.choice((8, 8, 8, 0, 13, rng.randrange(256)))
    body = struct.pack("!BBHHH", kind, rng.choice((0, 0, 0, 1)), 0, rng.randrange(2), 0)
    return ip_packet(rng, source, target, 1, with_icmp_sum(body + data))


def icmp_error(rng: random.Random) -> bytes:
    """About a packet as a machine would have answered, more or less."""
    client, vip = rng.choice(CLIENTS), rng.choice(VIPS)
    proto = rng.choice((6, 6, 17, 17, 1))
    options = rng.choice((b"",) * 4 + (b"\x94\x04\0\0",))
    quoted = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        0,
        rng.randrange(28, 1500),
        rng.getrandbits(16),
        rng.choice((0x4000, 0x4000, 0x2000, 0x2001)),
        50,
        proto,
        0,
        vip,
        client,
    )
    quoted += options
    quoted = quoted[:10] + checksum(quoted).to_bytes(2, "big") + quoted[12:]
    quoted += struct.pack("!HH", rng.choice(PORTS), 40000 + rng.randrange(12)) + rng.randbytes(16)
    quoted = quoted[: rng.choice((len(quoted), len(quoted), 28, 27, 20, rng.randrange(44)))]
    body = struct.pack("!BBHI", rng.choice((3, 3, 11, 12, 5)), rng.randrange(5), 0, 1400)
    target = vip if rng.random() < 0.9 else rng.choice(VIPS)
    return ip_packet(rng, rng.choice(CLIENTS), target, 1, with_icmp_sum(body + quoted))


def other(rng: random.Random) -> bytes:
    """No IPv4, another protocol, or noise."""
    choice = rng.randrange(4)
    if choice == 0:
        return rng.randbytes(rng.randrange(14, 80))
    if choice == 1:
        frame = tcp(rng)
        return (
            frame[:12] + rng.choice((b"\x81\0", b"\x86\xdd", b"\x08\x06", b"\0\x2e")) + frame[14:]
        )
    source, target = ends(rng)
    return ip_packet(rng, source, target, rng.randrange(256), rng.randbytes(rng.randrange(40)))


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """A few bytes changed, cut off, or added."""
    changed = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(5)
        at = rng.randrange(12, min(len(changed), 80)) if len(changed) > 12 else 0
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            del changed[rng.randrange(14, len(changed) + 1) :]
        else:
            changed += rng.randbytes(rng.randrange(20))
        if len(changed) < 14:
            changed += bytes(14 - len(changed))
    return bytes(changed)


MAKERS: tuple[Callable[[random.Random], bytes], ...] = (
    *(tcp,) * 5,
    *(udp,) * 5,
    *(echo,) * 1,
    *(icmp_error,) * 3,
    *(other,) * 1,
)


def build_model(rig: Rig) -> Model:
    """The services of :mod:`tests.bpf.world` once more."""
    model = Model(
        seed=rig.settings.seed,
        pools=[
            (ip_number("203.0.113.0"), 0xFFFFFF00, 0),
            (ip_number("198.18.5.0"), 0xFFFFFFF0, 256),
        ],
        private=(ip_number("172.16.0.0"), 0xFFF00000),
        alias=ip_number("100.64.0.0"),
    )
    first, second, small = (rig.vip_index(vip) for vip in (p.VIP, p.VIP2, p.SMALL_VIP))
    model.vips = {first: 3, second: 1, small: 1}
    model.tables = {0: [1], 1: [2], 2: [1, 2] * 8, 3: [3], 4: []}
    for number in (1, 2, 3, 4):
        model.slots[number] = Slot(
            1,
            SLOT_LIVE | (SLOT_VIA_TC if number == 3 else 0),
            socket.inet_aton(p.private_ip(number)),
            socket.inet_aton(p.services_ip(number)),
            mac_bytes(p.vm_mac(number)),
            mac_bytes(p.gateway_mac(number)),
        )
    rows = (
        (first, 6, 80, w.WEB, 0, 8080, 0),
        (first, 17, 53, w.DNS, 0, 5353, 0),
        (first, 6, 443, w.BIG, 2, 443, 0),
        (first, 6, 22, w.SSH, 0, 2222, 1),
        (second, 6, 22, w.SSH, 0, 2222, 1),
        (first, 6, 81, w.NONE, 4, 81, 0),
        (first, 17, 81, w.NONE, 4, 81, 0),
        (first, 6, 82, w.SLOW, 3, 82, 0),
        (first, 17, 82, w.SLOW, 3, 82, 0),
        (first, 6, 8443, w.WALL, 0, 8443, 4),
        (small, 6, 80, w.TINY, 1, 80, 0),
    )
    for vip, proto, port, service, table, internal, flags in rows:
        value = Service(service, table, internal.to_bytes(2, "big"), flags)
        model.services[vip, proto, port] = value
    game = Service(w.GAME, 1, (6000).to_bytes(2, "big"), 1)
    model.ranges = [(first, 17, range(5000, 5004), game)]
    model.generations = dict.fromkeys(range(1, 10), 1)
    return model


def disturb(rng: random.Random, rig: Rig, model: Model) -> None:
    """Something that the daemon might do."""
    number = rng.choice((1, 2, 3))
    kind = rng.randrange(4)
    if kind == 0:
        table = [rng.choice((1, 2)) for _ in range(rng.choice((0, 1, 5, 16)))]
        rig._maglev = 64
        rig.table(table, 2)
        model.tables[2] = table
    elif kind == 1:
        flags = model.slots[number].flags ^ SLOT_LIVE
        rig.slot(number, flags=flags, generation=model.slots[number].generation)
        model.slots[number].flags = flags
    elif kind == 2:
        model.slots[number].generation += 1
        slot = model.slots[number]
        rig.slot(number, flags=slot.flags, generation=slot.generation)
    else:
        service = rng.choice((w.WEB, w.BIG, w.SSH, w.GAME))
        model.generations[service] += 1
        rig.service_generation(service, model.generations[service])


def forget(rig: Rig, model: Model) -> None:
    """No flows on either side, so that no bucket ever fills up."""
    for name in ("flows", "reverse"):
        empty = bytes(rig.maps[name].value_size)
        size = rig.settings.flow_buckets
        rig.maps[name].update_batch([(u32(i), empty) for i in range(size)])
    for key in list(rig.maps["fragments"].keys()):
        rig.maps["fragments"].delete(key)
    model.forget()


def difference(frame: bytes, want: Verdict, verdict: int, data: bytes, right: bool) -> str:
    lines = [
        f"packet  {frame.hex()}",
        f"model   {want.verdict!r} {want.reason!r}",
        f"        {want.frame.hex()}",
        f"kernel  {Xdp(verdict)!r}" + ("" if right else ", not counted for that reason"),
        f"        {data.hex()}",
    ]
    return "\n".join(lines)


def test_edge_is_as_its_model(rig: Rig) -> None:
    seed = int(os.environ.get("FLYEBPF_DIFFERENTIAL_SEED", "0")) or secrets.randbits(32)
    print(f"FLYEBPF_DIFFERENTIAL_SEED={seed}")
    rng = random.Random(seed)
    rig.settings.flow_buckets = 1024
    rig.write_settings()
    model = build_model(rig)
    fast = Fast(rig.programs["edge_xdp"], rig.maps["drops"], rig.ifindex["up0"])
    before = rig._counters()
    drops: dict[DropReason, int] = {}
    last = p.SYN.build()
    for number in range(PACKETS):
        if number % BATCH == 0:
            forget(rig, model)
        if number % 50 == 0:
            disturb(rng, rig, model)
        frame = rng.choice(MAKERS)(rng) if rng.random() < 0.9 else last
        last = frame
        if rng.random() < 0.25:
            frame = mutated(rng, frame)
        want = model.edge(frame)
        verdict, data = fast.run(frame)
        right = True
        if want.reason is not None:
            drops[want.reason] = drops.get(want.reason, 0) + 1
            right = fast.dropped(want.reason) == 1
        same = verdict == want.verdict and metadata_removed(verdict, data, frame) == want.frame
        assert (same, right) == (True, True), f"packet {number}\n" + difference(
            frame, want, verdict, data, right
        )
    compare_counters(rig, model, drops, before)


def metadata_removed(verdict: int, data: bytes, frame: bytes) -> bytes:
    """A packet passed to tc has 8 bytes of metadata before it."""
    longer = verdict == Xdp.PASS and len(data) == len(frame) + 8
    return data[8:] if longer else data


def compare_counters(rig: Rig, model: Model, drops: dict[DropReason, int], before: object) -> None:
    """Every counter, in the end."""
    got_drops, counts, stats = rig._counters().since(before)  # type: ignore[arg-type]
    assert {reason: packets for reason, (packets, _) in got_drops.items()} == drops
    assert counts == model.counts
    assert {
        service: [s.in_packets, s.in_bytes, s.flows] for service, s in stats.items()
    } == model.stats
    assert Count.VIA_TC in counts
    edge = {reason for reason in DropReason if reason < DropReason.UNKNOWN_VM}
    never = {R_NONE, DropReason.REDIRECT, DropReason.REWRITE}
    assert set(drops) == (edge - never) | {DropReason.FLOW_CONFLICT}


R_NONE = DropReason.NONE
