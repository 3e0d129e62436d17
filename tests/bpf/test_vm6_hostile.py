# SPDX-License-Identifier: Apache-2.0
"""Hundreds of thousands of packets of a hostile machine: vm_tc decides as
:mod:`tests.bpf.model6` does, and nothing gets where it must not, whatever the
two think of it.

``FLYEBPF_HOSTILE_SEED`` repeats a run (a failure prints its seed),
``FLYEBPF_HOSTILE_PACKETS`` sets how many.
"""

from __future__ import annotations

import os
import random
import secrets
import struct
from collections import Counter

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.fast import SK_BUFF, Fast
from tests.bpf.generate6 import SENDERS, anything
from tests.bpf.model6 import Fields, Machine, Model6, Verdict, fields_of
from tests.bpf.rig import Rig, Tc, mac_bytes

PACKETS = int(os.environ.get("FLYEBPF_HOSTILE_PACKETS", "60000"))
DISTURB = 200
SECOND_LOOK = 0.1
"""Of what is delivered, how much vm_out sees on every machine's interface."""
GSO_SIZES = (0, 0, 0, 1200, 1400)
R = DropReason


def build_model(rig: Rig) -> Model6:
    """The machines of :mod:`tests.bpf.world` once more."""
    machines = {
        number: Machine(
            mac_bytes(p.vm_mac(number)),
            mac_bytes(p.gateway_mac(number)),
            p6.network_of(number),
            p6.machine_of(number),
        )
        for number in (1, 2, 3, 4)
    }
    return Model6(p6.HOST, rig.settings.mesh_mtu, machines, {p6.OTHER_HOST})


def disturb(rng: random.Random, rig: Rig, model: Model6) -> None:
    """Something that the daemon might do."""
    if rng.random() < 0.5:
        number = rng.choice((2, 3))
        model.machines[number].live ^= True
        rig.slot(number, flags=int(model.machines[number].live))
        return
    model.peers ^= True
    rig.settings.peers = rig.ifindex["lan0"] if model.peers else 0
    rig.write_settings()


def context_of(rig: Rig, number: int, size: int) -> bytes:
    """``struct __sk_buff`` of machine ``number``'s interface, segments of ``size``."""
    context = bytearray(SK_BUFF)
    struct.pack_into("=I", context, 40, rig.ifindex[f"vm{number}"])
    struct.pack_into("=I", context, 164, 2 if size else 0)
    struct.pack_into("=I", context, 176, size)
    return bytes(context)


def programs(rig: Rig) -> dict[tuple[int, int], Fast]:
    """vm_tc by sender and size of segments."""
    return {
        (number, size): Fast(rig, "vm_tc", context_of(rig, number, size))
        for number in SENDERS
        for size in set(GSO_SIZES)
    }


NAMESERVER = 0xFDAA << 112 | 3


def is_allowed(model: Model6, number: int, sent: bytes, frame: bytes) -> bool:
    """Whether a frame that goes on may: back to its sender from its gateway, or
    from the sender's own addresses to others of its network."""
    me = model.machines[number]
    source = int.from_bytes(frame[22:38], "big")
    target = int.from_bytes(frame[38:54], "big")
    if frame[:12] == me.mac + me.gateway_mac and source == 0xFE80 << 112 | 1:
        return frame[38:54] == sent[22:38]
    if source >> 112 != 0xFDAA or target >> 112 != 0xFDAA:
        return False
    src, dst = fields_of(source), fields_of(target)
    if src.network >> 31:  # mesh form: network and host have changed places
        mine = (src.host, src.network, src.machine) == (me.network, model.host, me.number)
        return mine and dst.host == me.network and dst.network in model.hosts
    mine = (src.network, src.host, src.machine) == (me.network, model.host, me.number)
    if target == NAMESERVER:  # as it came, for the next program
        return mine and frame == sent and frame[20] in (6, 17) and frame[56:58] == b"\0\x35"
    return mine and dst[:2] == (me.network, model.host) and reaches(model, dst, frame)


def reaches(model: Model6, dst: Fields, frame: bytes) -> bool:
    """Whether the frame is for the peer or the one machine that has the address."""
    if dst.machine == 10:
        return model.peers
    to = [m for m in model.machines.values() if m.mac == frame[:6]]
    return [(m.network, m.number) for m in to] == [(dst.network, dst.machine)]


def difference(frame: bytes, size: int, want: Verdict, verdict: int, data: bytes) -> str:
    return "\n".join(
        (
            f"packet  {frame.hex()} gso_size {size}",
            f"model   {want.verdict!r} {want.reason!r}",
            f"        {want.frame.hex()}",
            f"kernel  {Tc(verdict)!r}",
            f"        {data.hex()}",
        )
    )


def test_a_hostile_machine(rig: Rig) -> None:
    seed = int(os.environ.get("FLYEBPF_HOSTILE_SEED", "0")) or secrets.randbits(32)
    print(f"FLYEBPF_HOSTILE_SEED={seed}")
    rng = random.Random(seed)
    model, runs = build_model(rig), programs(rig)
    looks = {n: Fast(rig, "vm_out", context_of(rig, n, 0)) for n in model.machines}
    drops: Counter[DropReason] = Counter()
    counts: Counter[Count] = Counter()
    before = rig._counters()
    for number in range(PACKETS):
        if number % DISTURB == 0:
            disturb(rng, rig, model)
        sender, size = rng.choice(SENDERS), rng.choice(GSO_SIZES)
        frame = anything(rng, sender)
        want = model.vm(sender, frame, size)
        verdict, data = runs[sender, size].run(frame)
        if want.reason == R.TOO_BIG and verdict == Tc.SHOT:
            limited = want.verdict == Tc.REDIRECT
            want = Verdict(Tc.SHOT, frame, R.TOO_BIG, (Count.ICMP_LIMITED,) if limited else ())
        same = (verdict, data) == (want.verdict, want.frame)
        assert same, f"packet {number}\n" + difference(frame, size, want, verdict, data)
        ended = verdict == Tc.SHOT
        assert ended or is_allowed(model, sender, frame, data), f"packet {number} {data.hex()}"
        if Count.SIXPN_LOCAL in want.counts and rng.random() < SECOND_LOOK:
            takers = [n for n, look in looks.items() if look.run(data)[0] == Tc.UNSPEC]
            assert [model.machines[n].mac for n in takers] == [data[:6]]
            drops[R.NOT_FOR_VM] += len(looks) - 1
        drops.update([want.reason] if want.reason else [])
        counts.update(want.counts)
    got_drops, got_counts, stats = rig._counters().since(before)
    assert {reason: packets for reason, (packets, _) in got_drops.items()} == drops
    assert got_counts == counts
    assert stats == {}
    assert set(drops) == REACHED
    assert set(counts) - {Count.ICMP_LIMITED} == set(COUNTED)


REACHED = {
    R.TRUNCATED, R.SPOOFED_MAC, R.IPV6_HEADER, R.SPOOFED_IP, R.FRAG_TINY, R.BAD_L4_HEADER,
    R.ND_TYPE, R.SPOOFED_ND, R.LINK_LOCAL, R.VM_MULTICAST, R.IPV6, R.VM_TO_HOST, R.TTL, R.PROTO,
    R.SIXPN_ADDRESS, R.SIXPN_NETWORK, R.SIXPN_MACHINE, R.SIXPN_HOST, R.NEEDS_PROXY, R.TOO_BIG,
    R.NOT_FOR_VM, R.VM_FRAGMENT,
}  # fmt: skip
COUNTED = (
    Count.ND, Count.ECHO, Count.SIXPN_LOCAL, Count.SIXPN_OUT, Count.PEER_OUT, Count.MSS,
    Count.TOO_BIG,
)  # fmt: skip
