# SPDX-License-Identifier: Apache-2.0
"""Listed names are those that are answered."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from flyebpf.dns import listing, wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.view import View
from flyebpf.model.sixpn import HOST_BIT
from tests.dns_rig import WORLD, flycast, machine, view
from tests.unit.test_dns_zone import ADDRESSES

RECORDS = (
    *WORLD,
    machine(70, metadata={"long": "x" * 300, "dots": "a..b", "odd": "", "wide": "é" * 40}),
    machine(71, group="MiXed", metadata={"Key": "VALUE"}),
)


def listed(world: View, number: int) -> dict[bytes, set[bytes]]:
    names = [n for app in world.apps_of(number) for n in listing.app_names(world, number, app)]
    names += listing.network_names(world, number)
    assert len({name for name, _ in names}) == len(names)
    return {name: set(addresses) for name, addresses in names}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_answers_are_the_same(number: int) -> None:
    world = view(*RECORDS)
    asker = Asker(number, HOST_BIT | 1, 900)
    for name, addresses in listed(world, number).items():
        query = wire.Query(1, 0, name, wire.Type.AAAA, 1, name + b"\0\x1c\0\1")
        found = zone.answer(world, query, asker)
        assert found is not None
        assert (found.rcode, set(found.rdata)) == (0, addresses), name


def test_every_name_of_the_contract_is_listed() -> None:
    names = listed(view(*RECORDS), 1)
    for text in ADDRESSES:
        if "nearest" not in text and "\\" not in text and not text.startswith("_api"):
            assert wire.name_of(text) in names, text
    assert wire.name_of("mixed.process.web.internal") in names
    assert wire.name_of("value.key.kv._metadata.web.internal") in names


def test_nothing_of_others_is_listed() -> None:
    world = view(*RECORDS)
    names = b" ".join(listed(world, 1))
    assert b"secret" not in names
    assert b"spy" not in names
    assert list(listing.app_names(world, 1, "secret")) == []
    assert set(map(bytes, listed(world, 3)[wire.name_of("web.flycast")])) == {
        ip_address(flycast(3, 1)).packed
    }
