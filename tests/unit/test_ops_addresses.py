# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf import flytoml
from flyebpf.config import DataplaneConfig, PoolsConfig, ProxyConfig
from flyebpf.errors import (
    ExhaustedError,
    FlyebpfError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from flyebpf.model.records import AddressKind
from flyebpf.ops import addresses, apps, deploy
from flyebpf.ops.transact import Tx
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


SHARED = config(shared="198.51.100.0/30", engine="envoy")


def deployed(store: SqliteStore, text: str, app: str = "web") -> None:
    deploy.deploy(store, SHARED, app, flytoml.parse(text), public_ips=False)


def test_a_shared_address_has_many_apps(store: SqliteStore) -> None:
    """An app has one of them; asking again gives the same."""
    for number in range(20):
        apps.create(store, f"a{number}", "acme")
    given = [addresses.allocate_shared_v4(store, SHARED, f"a{n}") for n in range(20)]
    assert {a.type for a in given} == {AddressKind.SHARED_V4}
    used = {a.address for a in given}
    assert used == {f"198.51.100.{n}" for n in range(4)}, "spread over the pool"
    assert addresses.allocate_shared_v4(store, SHARED, "a7") == given[7]
    assert len(addresses.list_all(store)) == 20
    freed = addresses.release(store, "a7", [given[7].address])
    assert freed == [given[7]]
    assert len(addresses.list_all(store)) == 19, "the others keep it"
    apps.destroy(store, "a8")
    assert len(addresses.list_all(store)) == 18
    assert addresses.allocate_shared_v4(store, SHARED, "a7").address == given[7].address


def test_another_pool_moves_nobody(store: SqliteStore) -> None:
    first = addresses.allocate_shared_v4(store, SHARED, "web")
    larger = replace(SHARED, pools=PoolsConfig(shared_v4=("192.0.2.0/24", "198.51.100.0/30")))
    assert addresses.allocate_shared_v4(store, larger, "web") == first


def test_a_shared_address_cannot_be_released_by_who_has_it_not(store: SqliteStore) -> None:
    shared = addresses.allocate_shared_v4(store, SHARED, "web")
    with pytest.raises(NotFoundError, match="app 'db' does not have"):
        addresses.release(store, "db", [shared.address])
    assert addresses.list_all(store) == [shared]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[services]]\nports = ['25']\n", "services[0] (tcp port 25 to 8080): only the handler"),
        ("[[services]]\nports = ['80']\n", "services[0] (tcp port 80 to 8080): port 80 must"),
        ("[[services]]\nprotocol = 'udp'\nports = ['53']\n", "services[0] (udp port 53 to 8080)"),
    ],
)
def test_an_app_whose_services_it_cannot_carry_gets_none(
    store: SqliteStore, text: str, message: str
) -> None:
    deployed(store, text)
    before = store.revision()
    with pytest.raises(InvalidError) as caught:
        addresses.allocate_shared_v4(store, SHARED, "web")
    assert "carries no service of app web: " + message in caught.value.message
    assert "ips allocate-v4 -a web" in caught.value.remedy
    assert store.revision() == before


def test_one_service_that_it_carries_is_enough(store: SqliteStore) -> None:
    deployed(store, "[http_service]\n[[services]]\nports = ['25']\n")
    assert addresses.allocate_shared_v4(store, SHARED, "web").app == "web"


SIX = replace(SMALL, pools=PoolsConfig(anycast_v6=("2001:db8:f::/48",)))


def test_allocate_v6(store: SqliteStore) -> None:
    """In order, the first address of the pool last; as many as the data plane knows."""
    few = replace(SIX, dataplane=DataplaneConfig(pool6_addresses=3))
    given = [addresses.allocate_v6(store, few, "web") for _ in range(3)]
    assert [a.address for a in given] == ["2001:db8:f::1", "2001:db8:f::2", "2001:db8:f::"]
    assert {a.type for a in given} == {AddressKind.V6}
    with pytest.raises(ExhaustedError, match=r"pools\.anycast_v6 \(2001:db8:f::/48\)"):
        addresses.allocate_v6(store, few, "web")
    assert addresses.release(store, "web", ["2001:DB8:F:0::2"]) == [given[1]]


def test_a_full_pool_is_named(store: SqliteStore) -> None:
    for _ in range(4):
        addresses.allocate_v4(store, SMALL, "web")
    before = store.revision()
    with pytest.raises(ExhaustedError, match=r"pools\.anycast_v4 \(203\.0\.113\.4/30\)") as caught:
        addresses.allocate_v4(store, SMALL, "web")
    assert "ips release" in caught.value.remedy
    assert store.revision() == before


def test_an_address_that_changes_hands_meanwhile_is_not_released(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what ``release`` reads and its commit, another one releases it, and
    another app gets it."""
    mine = addresses.allocate_v4(store, SMALL, "web").address
    for _ in range(3):
        addresses.allocate_v4(store, SMALL, "db")
    commit, came = Tx.commit, threading.Event()

    def delayed(tx: Tx) -> None:
        if not came.is_set():
            came.set()
            addresses.release(store, "web", [mine])
            assert addresses.allocate_v4(store, SMALL, "db").address == mine
        commit(tx)

    monkeypatch.setattr(Tx, "commit", delayed)
    with pytest.raises(NotFoundError, match="does not have"):
        addresses.release(store, "web", [mine])
    assert len(addresses.list_all(store, "db")) == 4


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
        (
            lambda s: addresses.allocate_shared_v4(s, config(engine="envoy"), "web"),
            UnavailableError,
            "no pool of shared IPv4",
        ),
        (
            lambda s: addresses.allocate_shared_v4(s, replace(SHARED, proxy=ProxyConfig()), "web"),
            UnavailableError,
            "a shared IPv4 address needs the proxy",
        ),
        (lambda s: addresses.allocate_shared_v4(s, SHARED, "wbe"), NotFoundError, "app 'wbe'"),
        (
            lambda s: addresses.allocate_v6(s, SMALL, "web"),
            UnavailableError,
            "no pool of Anycast IPv6",
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
