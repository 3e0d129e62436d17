# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyebpf.errors import ConflictError, FlyebpfError, InvalidError, NotFoundError
from flyebpf.model.records import Interface, Machine, PrivateAddress
from flyebpf.ops import machines, moves
from flyebpf.ops.transact import every
from flyebpf.store.sqlite import SqliteStore
from tests.stores import add_host, config, region

MAC = "02:00:00:00:00:01"
MISSING = "0123456789abcd"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        add_host(store, 2)
        yield store


def add(store: SqliteStore, interface: str = "tap0", **more: Any) -> Machine:
    return machines.add(store, config(), "web", interface=interface, mac=MAC, **more)


def check_books(store: SqliteStore) -> None:
    """What guards interfaces and addresses says the same as the machines."""
    found = every(store, Machine)
    assert {(i.host, i.interface, i.machine) for i in every(store, Interface)} == {
        (m.host, m.interface, m.id) for m in found
    }
    assert {(a.address, a.machine) for a in every(store, PrivateAddress)} == {
        (address, m.id) for m in found for address in (m.private_ip, m.services_ip)
    }


def test_to_another_host(store: SqliteStore) -> None:
    machine = add(store, name="front", metadata={"a": "b"})
    before = machines.environment(store, config(), machine.id)["FLY_PRIVATE_IP"]
    moved = moves.move(store, config(), machine.id, host="h2", interface="tap7")
    assert moved == replace(
        machine,
        host="h2",
        region="r2",
        interface="tap7",
        private_ip="172.16.32.2",
        services_ip="172.16.32.3",
    )
    assert machines.get(store, machine.id) == moved
    after = machines.environment(store, config(), machine.id)["FLY_PRIVATE_IP"]
    assert before == "fdaa:0:1:8000:1:0:10:2"
    assert after == "fdaa:0:1:8000:2:0:10:2"
    assert f"{after}\tfly-local-6pn" in machines.hosts_file(store, config(), machine.id)
    check_books(store)
    assert add(store, "tap0").id != machine.id  # what it left is free


def test_and_back(store: SqliteStore) -> None:
    machine = add(store)
    moves.move(store, config(), machine.id, host="h2", interface="tap0")
    back = moves.move(store, config(), machine.id, interface="tap0")
    assert (back.host, back.region, back.number) == ("h1", "ams", machine.number)
    assert {back.private_ip, back.services_ip}.isdisjoint({machine.private_ip, machine.services_ip})
    check_books(store)


def test_to_another_interface_of_its_host(store: SqliteStore) -> None:
    machine = add(store)
    moved = moves.move(store, config(), machine.id, interface="tap1", mac="02:00:00:00:00:02")
    assert moved == replace(machine, interface="tap1", mac="02:00:00:00:00:02")
    check_books(store)


def test_where_it_is_changes_nothing(store: SqliteStore) -> None:
    machine = add(store)
    before = store.revision()
    assert moves.move(store, config(), machine.id, host="h1", interface="tap0") == machine
    assert store.revision() == before


@pytest.mark.parametrize(
    ("id", "more", "error", "match"),
    [
        (MISSING, {}, NotFoundError, MISSING),
        ("zz", {}, InvalidError, "machine id 'zz'"),
        ("00000000000001", {"host": "h9"}, NotFoundError, "host 'h9'"),
        ("00000000000001", {"host": "h 9"}, InvalidError, "host name 'h 9'"),
        ("00000000000001", {"interface": "tap1"}, ConflictError, "belongs to machine 0+2"),
        ("00000000000001", {"interface": "eth0"}, InvalidError, "an uplink"),
        ("00000000000001", {"interface": "lo"}, InvalidError, "loopback"),
        ("00000000000001", {"interface": "lo", "host": "h2"}, InvalidError, "loopback"),
        ("00000000000001", {"interface": "a/b", "host": "h2"}, InvalidError, "interface name"),
        ("00000000000001", {"mac": "x"}, InvalidError, "MAC address 'x'"),
    ],
)
def test_wrong_input_changes_nothing(
    store: SqliteStore, id: str, more: dict[str, str], error: type[FlyebpfError], match: str
) -> None:
    add(store, "tap0", id="00000000000001")
    add(store, "tap1", id="00000000000002")
    before = store.revision()
    with pytest.raises(error, match=match) as caught:
        moves.move(store, config(), id, **{"interface": "tap5", **more})
    assert caught.value.remedy
    assert store.revision() == before


def test_many_at_once_share_nothing(store: SqliteStore) -> None:
    made = [add(store, f"tap{number}") for number in range(24)]

    def there_and_back(machine: Machine) -> None:
        moves.move(store, config(), machine.id, host="h2", interface=machine.interface)
        moves.move(store, config(), machine.id, host="h1", interface=f"new{machine.interface}")
        moves.move(store, config(), machine.id, host="h2", interface=f"b{machine.interface}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(there_and_back, made))
    found = every(store, Machine)
    addresses = [address for m in found for address in (m.private_ip, m.services_ip)]
    assert len(set(addresses)) == 48
    assert {m.host for m in found} == {"h2"}
    assert {m.number for m in found} == {m.number for m in made}
    check_books(store)
