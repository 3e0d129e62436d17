# SPDX-License-Identifier: Apache-2.0
"""Whatever a VM sends, what leaves its interface obeys the rules.

Random and mutated frames; each is checked against what must hold of any frame,
not against what should become of this one. Seed and number as in
:mod:`tests.bpf.test_differential`.
"""

from __future__ import annotations

import ipaddress
import os
import random
import secrets
import socket
from collections import Counter

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf.arithmetic import checksum, get16
from tests.bpf.fast import Fast
from tests.bpf.generate import CLIENTS, PORTS, Ends, echo, mutated, pseudo, tcp, udp
from tests.bpf.rig import Rig, Tc, mac_bytes

PACKETS = int(os.environ.get("FLYEBPF_DIFFERENTIAL_PACKETS", "200000")) // 2
SENDER = 1
PRIVATE = socket.inet_aton(p.private_ip(SENDER))
SERVICES = socket.inet_aton(p.services_ip(SENDER))
MAC = mac_bytes(p.vm_mac(SENDER))
VIPS = [socket.inet_aton(vip) for vip in (p.VIP, p.VIP2, p.SMALL_VIP)]
ALIAS = socket.inet_aton(p.alias_ip(SENDER))
MACHINES = {
    socket.inet_aton(address(number)): mac_bytes(p.vm_mac(number))
    for number in (1, 2, 3, 4)
    for address in (p.private_ip, p.services_ip)
}
ELSEWHERE = [
    socket.inet_aton(address)
    for address in (
        p.private_ip(2),
        p.alias_ip(4),
        p.alias_ip(1),
        p.FREE_VIP,
        "192.0.2.1",
        "10.1.2.3",
        "127.0.0.1",
        "192.88.99.1",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
    )
]
FORBIDDEN = [
    ipaddress.IPv4Network(net)
    for net in (
        p.POOL,
        p.SMALL_POOL,
        p.PRIVATE,
        p.ALIAS,
        "10.0.0.0/8",
        "127.0.0.0/8",
        "224.0.0.0/4",
    )
]
POOLS = [ipaddress.IPv4Network(net) for net in (p.POOL, p.SMALL_POOL)]
SERVICE_PORTS = (8080, 5353, 443, 2222, 6000, 50000)


def vm_ends(rng: random.Random) -> Ends:
    source = rng.choice((PRIVATE, PRIVATE, SERVICES, SERVICES, *VIPS[:1], *ELSEWHERE[:1]))
    kind = rng.random()
    target = rng.choice(CLIENTS if kind < 0.4 else VIPS if kind < 0.7 else ELSEWHERE)
    port = rng.choice(PORTS) if target in VIPS else 40000 + rng.randrange(4)
    return source, target, rng.choice(SERVICE_PORTS), port


def icmp_about(rng: random.Random) -> bytes:
    """An error that quotes what the VM may have received."""
    source, target, port, other = vm_ends(rng)
    quoted = rng.choice((tcp, udp))(rng, lambda _: (target, source, other, port))[14:]
    frame = echo(rng, lambda _: (source, target, 0, 0))
    body = bytes((3, rng.randrange(5), 0, 0)) + bytes(4) + quoted[: rng.choice((28, 60))]
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    header = bytearray(frame[14 : 14 + (frame[14] & 15) * 4])
    header[2:4] = (len(header) + len(body)).to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    return frame[:14] + bytes(header) + body


def arp(rng: random.Random) -> bytes:
    asked = rng.choice((p.private_ip(1), p.private_ip(2), p.VIP, "0.0.0.0"))
    return bytes(p.vm_arp(1, asked, psrc=rng.choice((p.private_ip(1), p.private_ip(2), "0.0.0.0"))))


def make(rng: random.Random) -> bytes:
    kind = rng.randrange(20)
    if kind == 0:
        return arp(rng)
    frame = icmp_about(rng) if kind < 3 else rng.choice((tcp, tcp, udp, udp, echo))(rng, vm_ends)
    destination = rng.choice((mac_bytes(p.gateway_mac(1)),) * 9 + (b"\xff" * 6,))
    return destination + MAC + frame[12:]


def l4_sum_is_right(frame: bytes) -> bool:
    """Of TCP, UDP and ICMP; of a fragment it cannot be told."""
    header, total = (frame[14] & 15) * 4, get16(frame, 16)
    if get16(frame, 20) & 0x3FFF:
        return True
    body = frame[14 + header : 14 + total]
    if frame[23] == 1:
        return checksum(body) == 0
    if frame[23] == 17 and body[6:8] == b"\0\0":
        return True
    return checksum(pseudo(frame[26:30], frame[30:34], frame[23], body)) == 0


def check_own(frame: bytes, out: bytes) -> None:
    """Passed to the host's stack: its own, to somewhere public, as it was."""
    assert out == frame
    assert out[6:12] == MAC
    assert out[26:30] == PRIVATE
    target = ipaddress.IPv4Address(out[30:34])
    assert not any(target in net for net in FORBIDDEN)


def check_redirected(frame: bytes, out: bytes) -> str:
    """What it was redirected as."""
    if out[12:14] == b"\x08\x06":
        assert out[20:22] == b"\0\x02"
        assert out[:6] == MAC
        return "arp"
    source, target = out[26:30], out[30:34]
    assert len(out) == len(frame)
    assert out[14] >> 4 == 4
    if source == ALIAS:
        assert frame[30:34] in VIPS
        assert out[:6] == MACHINES[target]
        assert out[22] == frame[22] - 1
        return "hairpin"
    assert source in VIPS
    if target == PRIVATE and frame[30:34] == source:
        assert out[:6] == MAC
        return "echo"
    assert out[22] == frame[22] - 1
    assert target not in MACHINES or out[:6] == MACHINES[target]
    client = ipaddress.IPv4Address(target)
    assert not any(client in net for net in POOLS)
    assert target in MACHINES or not any(client in net for net in FORBIDDEN)
    return "answer"


def test_what_leaves_obeys_the_rules(rig: Rig) -> None:
    seed = int(os.environ.get("FLYEBPF_DIFFERENTIAL_SEED", "0")) or secrets.randbits(32)
    print(f"FLYEBPF_DIFFERENTIAL_SEED={seed}")
    rng = random.Random(seed)
    fast = Fast.vm(rig, SENDER)
    kinds: Counter[str] = Counter()
    shot = 0
    for number in range(PACKETS):
        frame = make(rng)
        changed = rng.random() < 0.3
        if changed:
            frame = mutated(rng, frame)
            frame += bytes(max(0, 54 - len(frame)))  # the kernel tests no shorter ones
        verdict, out = fast.run(frame)
        where = f"packet {number}: {frame.hex()}\n{out.hex()}"
        if verdict == Tc.SHOT:
            shot += 1
        elif verdict == Tc.OK:
            check_own(frame, out)
            kinds["own"] += 1
        else:
            assert verdict == Tc.REDIRECT, where
            kinds[kind := check_redirected(frame, out)] += 1
            if not changed and kind != "arp":
                assert checksum(out[14 : 14 + (out[14] & 15) * 4]) == 0, where
                assert l4_sum_is_right(out), where
    counted = sum(rig.drops(reason) for reason in DropReason)
    assert shot - kinds_of_silence(rig, kinds) == counted
    assert set(kinds) == {"own", "arp", "hairpin", "echo", "answer"}


def kinds_of_silence(rig: Rig, kinds: Counter[str]) -> int:
    """ARP that needs no answer ends without a reason."""
    return rig.count(Count.ARP) - kinds["arp"]
