# SPDX-License-Identifier: Apache-2.0
"""Every name of the contract's section 8."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from flyebpf.dns import wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.view import View
from flyebpf.model.sixpn import HOST_BIT
from tests.dns_rig import (
    ALICE,
    ID,
    WORLD,
    ask,
    at,
    flycast,
    machine,
    nibbles,
    question,
    view,
)

WEB = [at(16), at(17, "h2"), at(18, "h3")]


@pytest.fixture(scope="module")
def world() -> View:
    return view()


def peer_text(number: int, network: int = 1) -> str:
    return f"fdaa:0:{network}:8000:1:0:a:{number}02"


ADDRESSES = {
    "web.internal": WEB,
    "global.web.internal": WEB,
    "ams.web.internal": [at(16), at(17, "h2")],
    "fra.web.internal": [at(18, "h3")],
    f"{ID(17)}.vm.web.internal": [at(17, "h2")],
    "app.process.web.internal": [at(16), at(18, "h3")],
    "worker.process.web.internal": [at(17, "h2")],
    "primary.role.kv._metadata.web.internal": [at(16)],
    "replica.role.kv._metadata.web.internal": [at(17, "h2"), at(18, "h3")],
    "1.2.3.version.kv._metadata.web.internal": [at(16)],
    r"1\.2\.3.version.kv._metadata.web.internal": [at(16)],
    "yes.app.kubernetes.kv._metadata.web.internal": [at(18, "h3")],
    "laptop._peer.internal": [peer_text(1)],
    "desk.top._peer.internal": [peer_text(2)],
    "interactive-1._peer.internal": [peer_text(3)],
    "_api.internal": ["fdaa:0:1::3"],
    "web.flycast": [flycast(1, 1)],
    "top2.nearest.of.web.internal": [at(16), at(17, "h2")],
    "top9.nearest.of.web.internal": WEB,
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses(world: View, name: str) -> None:
    found = ask(world, name)
    assert (found.rcode, sorted(found.data)) == ("NOERROR", sorted(ADDRESSES[name]))
    assert found.soa == ""
    assert all(rrset.ttl == 5 for rrset in found.message.answer)


@pytest.mark.parametrize("name", ADDRESSES)
def test_case_does_not_matter_and_is_kept(world: View, name: str) -> None:
    shouted = "".join(random.choice((c.upper(), c.lower())) for c in name)
    found = ask(world, shouted)
    assert sorted(found.data) == sorted(ADDRESSES[name])
    assert str(found.message.question[0].name) == str(found.message.answer[0].name)
    assert str(found.message.answer[0].name).replace("\\", "") == shouted.replace("\\", "") + "."


TEXTS = {
    "vms.web.internal": f"{ID(16)} ams,{ID(17)} ams,{ID(18)} fra",
    "all.vms.web.internal": f"{ID(16)} ams,{ID(17)} ams,{ID(18)} fra,{ID(19)} lhr",
    "regions.web.internal": "ams,fra",
    "all.regions.web.internal": "ams,fra,lhr",
    "all.regions.db.internal": "fra",
    "_apps.internal": "db,empty,web",
    "_peer.internal": "Desk.Top,laptop",
    "_instances.internal": ";".join(
        f"instance={ID(number)},app=web,ip={at(number, where)},region={region}"
        for number, where, region in ((16, "h1", "ams"), (17, "h2", "ams"), (18, "h3", "fra"))
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(world: View, name: str) -> None:
    found = ask(world, name, "TXT")
    assert found.text == TEXTS[name]
    assert found.message.answer[0].ttl == 5


def test_all_instances_are_those_that_do_not_run_too(world: View) -> None:
    listed = ask(world, "all._instances.internal", "TXT").text.split(";")
    assert [item.partition(",")[0] for item in listed] == [
        f"instance={ID(number)}" for number in (30, 16, 17, 18, 19)
    ]
    assert f"instance={ID(30)},app=db,ip={at(30, 'h3')},region=fra" in listed


def zone_of(name: str) -> str:
    return "a.a.d.f.ip6.arpa." if name.endswith(".arpa") else name.rpartition(".")[2] + "."


NO_DATA = (
    "internal", "flycast", "a.a.d.f.ip6.arpa",
    "db.internal", "global.db.internal", "fra.db.internal", "top1.nearest.of.db.internal",
    "empty.internal", "lhr.web.internal", "cron.process.web.internal",
    f"{ID(19)}.vm.web.internal",
    "vms.web.internal", "regions.web.internal", "all.vms.web.internal",
    "_apps.internal", "_peer.internal", "_instances.internal", "all._instances.internal",
    # What only ends longer names (RFC 8020).
    "vm.web.internal", "process.web.internal", "of.web.internal", "nearest.of.web.internal",
    "_metadata.web.internal", "kv._metadata.web.internal", "role.kv._metadata.web.internal",
    "kubernetes.kv._metadata.web.internal", "3.version.kv._metadata.web.internal",
)  # fmt: skip


@pytest.mark.parametrize("name", NO_DATA)
def test_names_without_addresses(world: View, name: str) -> None:
    found = ask(world, name)
    assert (found.rcode, found.data) == ("NOERROR", [])
    assert found.soa == zone_of(name)
    assert found.message.authority[0].ttl <= 5


UNKNOWN = (
    "nobody.internal", "web.web.internal", "iad.web.internal", "sub.empty.internal",
    f"{ID(16)}.vm.db.internal", f"{ID(99)}.vm.web.internal", f"x.{ID(16)}.vm.web.internal",
    "none.process.web.internal", "secondary.role.kv._metadata.web.internal",
    "primary.kv._metadata.web.internal", "x.primary.role.kv._metadata.web.internal",
    "primary.role.vk._metadata.web.internal",
    "nobody._peer.internal", "x._apps.internal", "x._api.internal", "every._instances.internal",
    "_nothing.internal", "all._apps.internal", "all.web.internal", "all.ams.web.internal",
    "top0.nearest.of.web.internal", "top.nearest.of.web.internal", "top01.nearest.of.web.internal",
    "topx.nearest.of.web.internal", "x.top1.nearest.of.web.internal", "top1.of.web.internal",
    "db.flycast", "nobody.flycast", "x.web.flycast", "internal.internal", "flycast.internal",
    "xn--web.internal", "\\000.internal", "\\255\\254.web.internal", "\\008internal.internal",
    "b.a.a.d.f.ip6.arpa", "g.a.a.d.f.ip6.arpa",
)  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("type", ["AAAA", "TXT", "ANY"])
def test_unknown_names(world: View, name: str, type: str) -> None:
    found = ask(world, name, type)
    assert (found.rcode, found.data) == ("NXDOMAIN", [])
    assert (
        found.soa == "a.a.d.f.ip6.arpa." if name.endswith("arpa") else name.rpartition(".")[2] + "."
    )


@pytest.mark.parametrize("name", ["web.internal", "_api.internal", "laptop._peer.internal"])
@pytest.mark.parametrize("type", ["A", "TXT", "MX", "HTTPS", "PTR", "SOA", "NS", "TYPE65000"])
def test_other_types_have_no_data(world: View, name: str, type: str) -> None:
    found = ask(world, name, type)
    assert (found.rcode, found.data, found.soa) == ("NOERROR", [], "internal.")


def test_any_is_answered_with_what_there_is(world: View) -> None:
    assert sorted(ask(world, "web.internal", "ANY").data) == sorted(WEB)
    assert ask(world, "regions.web.internal", "ANY").data == ['"ams,fra"']


@pytest.mark.parametrize("apex", ["internal", "flycast", "a.a.d.f.ip6.arpa"])
def test_apexes_are_zones(world: View, apex: str) -> None:
    soa = ask(world, apex, "SOA")
    assert soa.data == ["_api.internal. hostmaster.internal. 1 3600 600 86400 1"]
    assert str(soa.message.answer[0].name) == f"{apex}."
    assert ask(world, apex, "NS").data == ["_api.internal."]


POINTERS = {
    at(16): f"{ID(16)}.vm.web.internal.",
    at(18, "h3"): f"{ID(18)}.vm.web.internal.",
    peer_text(1): "laptop._peer.internal.",
    flycast(1, 1): "web.flycast.",
    "fdaa:0:1::3": "_api.internal.",
}


@pytest.mark.parametrize("address", POINTERS)
def test_pointers(world: View, address: str) -> None:
    assert ask(world, nibbles(address), "PTR").data == [POINTERS[address]]
    assert ask(world, nibbles(address).upper(), "PTR").data == [POINTERS[address]]


def test_pointers_of_machines_that_do_not_run(world: View) -> None:
    found = ask(world, nibbles(at(19, "h4")), "PTR")
    assert (found.rcode, found.data) == ("NOERROR", [])


@pytest.mark.parametrize(
    "address",
    [
        at(16)[:-1] + "3",
        at(16, "h2"),
        at(99),
        at(50, network=3),
        "fdaa::3",
        "fdaa:0:3::3",
        flycast(1, 9),
        flycast(3, 1),
        peer_text(9),
        peer_text(4, 3),
    ],
)
def test_pointers_that_do_not_exist(world: View, address: str) -> None:
    assert ask(world, nibbles(address), "PTR").rcode == "NXDOMAIN"


def test_reverse_names_within_the_own_network_may_have_others_below(world: View) -> None:
    whole = nibbles(at(16)).split(".")
    for cut in range(1, 28):
        assert ask(world, ".".join(whole[cut:]), "PTR").rcode == "NOERROR"
    other = nibbles(at(50, network=3)).split(".")
    for cut in range(1, 21):
        assert ask(world, ".".join(other[cut:]), "PTR").rcode == "NXDOMAIN"


@pytest.mark.parametrize(
    "name", ["example.com", "com", "ip6.arpa", "d.f.ip6.arpa", "internal.com", "xinternal"]
)
def test_names_of_the_world(world: View, name: str) -> None:
    query = wire.parse(question(name))
    assert isinstance(query, wire.Query)
    assert zone.answer(world, query, ALICE) is None


def test_a_label_that_looks_like_a_zone_is_not_one(world: View) -> None:
    name = b"\x15evil.example\x08internal\0"
    query = wire.Query(1, 0, name, 28, 1, name + b"\0\x1c\0\1")
    assert name.endswith(zone.INTERNAL)
    assert zone.answer(world, query, ALICE) is None


# Order.


def test_addresses_come_in_random_order(world: View) -> None:
    firsts = Counter(ask(world, "web.internal").data[0] for _ in range(300))
    assert set(firsts) == set(WEB)
    assert min(firsts.values()) > 50


def test_nearest_prefers_host_then_region_then_latency() -> None:
    here = view(*WORLD, machine(19, host="h4"), machine(20, host="h5"), machine(21, host="h2"))
    order = ask(here, "top9.nearest.of.web.internal").data
    assert order[0] == at(16)  # the asker's host
    assert set(order[1:3]) == {at(17, "h2"), at(21, "h2")}  # its region
    assert order[3:] == [at(19, "h4"), at(18, "h3"), at(20, "h5")]  # 5 ms, 8 ms, unknown
    elsewhere = Asker(1, HOST_BIT | 4, 500)
    assert ask(here, "top1.nearest.of.web.internal", asker=elsewhere).data == [at(19, "h4")]
    for count in range(1, 7):
        found = ask(here, f"top{count}.nearest.of.web.internal").data
        assert len(found) == count
        assert found[0] == at(16)


def test_equally_near_ones_change_places() -> None:
    here = view(*WORLD, machine(20, host="h2"), machine(21, host="h2"))
    asker = Asker(1, HOST_BIT | 3, 500)  # in fra
    seconds = {ask(here, "top2.nearest.of.web.internal", asker=asker).data[1] for _ in range(100)}
    assert seconds == {at(16), at(17, "h2"), at(20, "h2"), at(21, "h2")}


def test_configured_latencies_override_measured_ones() -> None:
    here = View(("ams fra 1", "ams lhr 2.5"))
    for record in (*WORLD, machine(19, host="h4")):
        here.put(record)
    assert ask(here, "top9.nearest.of.web.internal").data[2:] == [at(18, "h3"), at(19, "h4")]
    assert here.distances.from_region("ams")["lhr"] == 2500


# Long lists.


def test_long_lists_are_several_strings() -> None:
    here = view(*WORLD, *(machine(100 + number) for number in range(100)))
    found = ask(here, "all.vms.web.internal", "TXT")
    (rdata,) = found.message.answer[0]
    assert [len(string) for string in rdata.strings[:-1]] == [255] * (len(rdata.strings) - 1)
    assert len(found.text.split(",")) == 104


def test_lists_that_no_message_can_carry_are_cut_between_items() -> None:
    here = view(*WORLD, *(machine(1000 + number) for number in range(2000)))
    found = ask(here, "_instances.internal", "TXT")
    assert 60_000 < found.size < 65_536
    assert all(
        item.startswith("instance=") and item.endswith(("=ams", "=fra"))
        for item in found.text.split(";")
    )


def test_more_addresses_than_fit_are_a_random_part() -> None:
    here = view(*WORLD, *(machine(1000 + number) for number in range(3000)))
    one, two = (set(ask(here, "web.internal").data) for _ in range(2))
    assert 2300 < len(one) < 3003
    assert one != two
    by_udp = ask(here, "web.internal", tcp=False)
    assert by_udp.truncated
    assert by_udp.size <= 1232
    assert len(by_udp.data) > 30
