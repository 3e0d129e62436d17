# SPDX-License-Identifier: Apache-2.0
"""Hundreds of thousands of random and mutated frames from the mesh: mesh_tc and
:mod:`tests.bpf.model_mesh` must agree on each, in verdict, bytes and reason, and
on all counters at the end.

``FLYEBPF_DIFFERENTIAL_SEED`` repeats a run (a failure prints its seed),
``FLYEBPF_DIFFERENTIAL_PACKETS`` sets how many.
"""

from __future__ import annotations

import os
import random
import secrets
import socket

from flyebpf.bpf.layout import MESH_ETHERNET, MESH_RETURN_EDGE, SLOT_LIVE
from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import world as w
from tests.bpf.arithmetic import Raw
from tests.bpf.far import MSS
from tests.bpf.fast import Fast
from tests.bpf.generate import CLIENTS, mutated
from tests.bpf.generate_mesh import MESH_MAKERS, OTHER
from tests.bpf.model_mesh import Mesh, Reply, Verdict
from tests.bpf.rig import Rig, Tc, u32
from tests.bpf.test_differential import build_model, forget

PACKETS = int(os.environ.get("FLYEBPF_DIFFERENTIAL_PACKETS", "150000"))
BATCH = 1000
R = DropReason
REPLIES = (
    (1, 6, 8080, w.WEB, p.VIP, 80),
    (1, 17, 5353, w.DNS, p.VIP, 53),
    (1, 6, 443, w.BIG, p.VIP, 443),
    (2, 6, 443, w.BIG, p.VIP, 443),
    (2, 17, 6000, w.GAME, "", 0),
    (1, 6, 2222, w.SSH, "", 0),
    (2, 6, 80, w.TINY, p.SMALL_VIP, 80),
    (3, 6, 82, w.SLOW, p.VIP, 82),
    (3, 17, 82, w.SLOW, p.VIP, 82),
)


def build(rig: Rig) -> Mesh:
    """The worlds of the rig once more."""
    edge = build_model(rig)
    vip = rig.vip_index(p.VIP)
    for proto, port, service in ((6, 90, 10), (17, 90, 11), (6, 92, 12)):
        edge.services[vip, proto, port] = type(edge.services[vip, 6, 80])(service, 0, b"", 0)
        edge.generations[service] = 1
    edge.services[rig.vip_index(p.VIP2), 6, 92] = edge.services[vip, 6, 92]
    return Mesh(
        number=p6.HOST,
        edge=edge,
        hosts={p6.OTHER_HOST, OTHER},
        machines={
            (network, p6.machine_of(n)): n
            for n in (1, 2, 3, 4)
            for network in (0, p6.network_of(n))
        },
        replies={
            (slot, port, proto): Reply(service, socket.inet_aton(vip or "0.0.0.0"), at, bool(vip))
            for slot, proto, port, service, vip, at in REPLIES
        },
        dialled={},
        far=p6.OTHER_HOST,
        mss=MSS,
    )


def reopen(rig: Rig, model: Mesh) -> None:
    """No flows on either side but those of this host's own clients."""
    forget(rig, model.edge)
    for kept in (model.flows, model.fragments, model.returned, model.dialled):
        kept.clear()  # type: ignore[attr-defined]
    vip = socket.inet_aton(p.VIP)
    for port in range(40000, 40003):
        pair = (port.to_bytes(2, "big"), (90).to_bytes(2, "big"))
        client = socket.inet_ntoa(CLIENTS[0])
        rig.programs["edge_xdp"].test_run(bytes(p.client_tcp(90, "S", src=client, sport=port)))
        model.dialled[Raw(CLIENTS[0], vip, *pair, 6)] = 0
        machine = {"src": p.private_ip(4), "dst": p.VIP, "dport": 90}
        for proto, packet in (
            (6, p.vm_tcp(4, port, "S", **machine)),
            (17, p.vm_udp(4, port, **machine)),
        ):
            rig.vm(4, packet)
            model.dialled[Raw(socket.inet_aton(p.alias_ip(4)), vip, *pair, proto)] = 4


def disturb(rng: random.Random, rig: Rig, model: Mesh) -> None:
    """Something that the daemon might do."""
    number, kind = rng.choice((1, 2, 3, 4)), rng.randrange(5)
    slot = model.edge.slots[number]
    if kind == 0:
        slot.flags ^= SLOT_LIVE
        rig.change_slot(number, flags=slot.flags)
    elif kind == 1 and number != 4:
        slot.generation += 1
        rig.change_slot(number, generation=slot.generation)
    elif kind == 2:
        service = rng.choice((w.WEB, w.BIG, w.SSH, w.GAME, w.DNS))
        model.edge.generations[service] += 1
        rig.service_generation(service, model.edge.generations[service])
    elif kind == 3:
        model.hosts ^= {OTHER}
        if OTHER in model.hosts:
            rig.host(OTHER, "lan0")
        else:
            rig.maps["hosts"].delete(u32(OTHER))
    else:
        model.return_edge = not model.return_edge
        flags = MESH_ETHERNET | (MESH_RETURN_EDGE if model.return_edge else 0)
        rig.settings.mesh_flags = flags
        rig.settings.peers = rig.ifindex["up1"] if rng.random() < 0.7 else 0
        model.peers = bool(rig.settings.peers)
        rig.write_settings()


def same(want: Verdict, verdict: int, data: bytes) -> bool:
    """0 and ffff are one number where a checksum was changed."""
    if verdict != want.verdict or len(data) != len(want.frame):
        return False
    at = want.place
    values = {bytes(2), b"\xff\xff"}
    if at and {data[at : at + 2], want.frame[at : at + 2]} <= values:
        data = data[:at] + want.frame[at : at + 2] + data[at + 2 :]
    return data == want.frame


def describe(number: int, frame: bytes, want: Verdict, verdict: int, data: bytes) -> str:
    return (
        f"packet {number}\npacket  {frame.hex()}\n"
        f"model   {want.verdict!r} {want.reason!r}\n        {want.frame.hex()}\n"
        f"kernel  {Tc(verdict)!r}\n        {data.hex()}"
    )


def test_mesh_is_as_its_model(far: Rig) -> None:
    seed = int(os.environ.get("FLYEBPF_DIFFERENTIAL_SEED", "0")) or secrets.randbits(32)
    print(f"FLYEBPF_DIFFERENTIAL_SEED={seed}")
    rng = random.Random(seed)
    far.settings.flow_buckets = 1024
    far.settings.peers = far.ifindex["up1"]
    far.host(OTHER, "lan0")
    far.write_settings()
    model, fast = build(far), Fast.mesh(far)
    drops: dict[DropReason, int] = {}
    opened: dict[object, int] = {}
    before = far._counters()
    last = bytes(p.SYN)
    for number in range(PACKETS):
        if number % BATCH == 0:
            at = far._counters()
            reopen(far, model)
            _, counts, _ = far._counters().since(at)
            for what, times in counts.items():
                opened[what] = opened.get(what, 0) + times
        if number % 50 == 0:
            disturb(rng, far, model)
        frame = rng.choice(MESH_MAKERS)(rng) if rng.random() < 0.9 else last
        last = frame
        if rng.random() < 0.25:
            frame = mutated(rng, frame)
        frame = frame.ljust(54, b"\0")  # a test run takes no shorter IPv6
        want = model.decide(frame)
        verdict, data = fast.run(frame)
        right = True
        if want.reason is not None:
            drops[want.reason] = drops.get(want.reason, 0) + 1
            right = fast.dropped(want.reason) == 1
        assert right, describe(number, frame, want, verdict, data)
        assert same(want, verdict, data), describe(number, frame, want, verdict, data)
    got_drops, counts, _ = far._counters().since(before)
    assert {reason: packets for reason, (packets, _) in got_drops.items()} == drops
    assert {
        what: times - opened.get(what, 0)
        for what, times in counts.items()
        if times != opened.get(what, 0)
    } == model.counts
    mesh = {reason for reason in DropReason if R.MESH_FORM <= reason < R.PEER_SOURCE}
    others = {R.TRUNCATED, R.NO_SERVICE, R.FRAG_NO_FIRST, R.ICMP_NO_FLOW}
    assert set(drops) == mesh | others | {R.VM_NOT_PUBLIC, R.VM_NO_ROUTE, R.VM_TO_HOST}
