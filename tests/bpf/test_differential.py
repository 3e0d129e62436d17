# SPDX-License-Identifier: Apache-2.0
"""Hundreds of thousands of random and mutated packets: edge_xdp and
:mod:`tests.bpf.model` must agree on each, in verdict, bytes and reason, and on
all counters at the end.

``FLYEBPF_DIFFERENTIAL_SEED`` repeats a run (a failure prints its seed),
``FLYEBPF_DIFFERENTIAL_PACKETS`` sets how many.
"""

from __future__ import annotations

import os
import random
import secrets
import socket

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_VIA_TC
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.fast import Fast
from tests.bpf.generate import MAKERS, mutated
from tests.bpf.model import Model, Service, Slot, Verdict
from tests.bpf.rig import Rig, Xdp, ip_number, mac_bytes, u32

PACKETS = int(os.environ.get("FLYEBPF_DIFFERENTIAL_PACKETS", "200000"))
BATCH = 1000


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
    fast = Fast.xdp(rig)
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
    mesh = {DropReason.MESH_OUTSIDE, DropReason.TOO_BIG, DropReason.NO_HOST}  # not of this world
    assert set(drops) == edge - never - mesh


R_NONE = DropReason.NONE
