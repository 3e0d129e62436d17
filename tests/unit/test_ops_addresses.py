# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyebpf.errors import (
    ExhaustedError,
    FlyebpfError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from flyebpf.model.records import AddressKind
from flyebpf.ops import addresses
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

SMALL = config(pool="203.0.113.4/30")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def test_allocate(store: SqliteStore) -> None:
    address = addresses.allocate_v4(store, SMALL, "web")
    assert (address.address, address.app) == ("203.0.113.5", "web")
    assert (address.type, address.region) == (AddressKind.V4, "global")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", address.created)
    other = addresses.allocate_v4(store, SMALL, "db")
    assert addresses.list_all(store) == [address, other]
    assert addresses.list_all(store, "db") == [other]


def test_a_full_pool_is_named(store: SqliteStore) -> None:
    for _ in range(4):
        addresses.allocate_v4(store, SMALL, "web")
    before = store.revision()
    with pytest.raises(ExhaustedError, match=r"pools\.anycast_v4 \(203\.0\.113\.4/30\)") as caught:
        addresses.allocate_v4(store, SMALL, "web")
    assert "ips release" in caught.value.remedy
    assert store.revision() == before


def test_release_is_all_or_nothing(store: SqliteStore) -> None:
    mine = addresses.allocate_v4(store, SMALL, "web")
    others = addresses.allocate_v4(store, SMALL, "db")
    before = store.revision()
    with pytest.raises(NotFoundError, match=f"does not have the address {others.address}"):
        addresses.release(store, "web", [mine.address, others.address])
    assert store.revision() == before
    assert addresses.release(store, "web", [mine.address, mine.address]) == [mine]
    assert addresses.list_all(store) == [others]


def test_a_released_address_rests_while_there_are_others(store: SqliteStore) -> None:
    first = addresses.allocate_v4(store, SMALL, "web")
    addresses.release(store, "web", [first.address])
    given = [addresses.allocate_v4(store, SMALL, "db").address for _ in range(4)]
    assert given == ["203.0.113.6", "203.0.113.7", "203.0.113.4", first.address]


@pytest.mark.parametrize(
    ("operation", "error", "match"),
    [
        (lambda s: addresses.allocate_v4(s, SMALL, "wbe"), NotFoundError, "app 'wbe'"),
        (lambda s: addresses.allocate_v4(s, SMALL, "W"), InvalidError, "app name 'W'"),
        (
            lambda s: addresses.allocate_v4(s, config(pool=""), "web"),
            UnavailableError,
            "no pool of Anycast IPv4",
        ),
        (lambda s: addresses.list_all(s, "wbe"), NotFoundError, "app 'wbe'"),
        (lambda s: addresses.release(s, "wbe", ["203.0.113.4"]), NotFoundError, "app 'wbe'"),
        (lambda s: addresses.release(s, "web", ["203.0.113"]), InvalidError, "'203.0.113'"),
        (lambda s: addresses.release(s, "web", []), InvalidError, "no address"),
        (lambda s: addresses.release(s, "web", ["203.0.113.4"]), NotFoundError, "203.0.113.4"),
    ],
)
def test_wrong_input_changes_nothing(
    store: SqliteStore,
    operation: Callable[[SqliteStore], object],
    error: type[FlyebpfError],
    match: str,
) -> None:
    before = store.revision()
    with pytest.raises(error, match=match) as caught:
        operation(store)
    assert caught.value.remedy
    assert store.revision() == before
