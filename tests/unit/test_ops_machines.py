# SPDX-License-Identifier: Apache-2.0
"""Machines, and what they see of the platform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyebpf import flytoml
from flyebpf.config import MeshConfig
from flyebpf.errors import ConflictError, ExhaustedError, FlyebpfError, InvalidError, NotFoundError
from flyebpf.model.codec import encode
from flyebpf.model.records import (
    Cluster,
    Interface,
    Machine,
    MachineState,
    PrivateAddress,
)
from flyebpf.ops import cluster, deploy, machines, power
from flyebpf.ops.transact import every
from flyebpf.store.base import Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

MAC = "02:00:00:00:00:01"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def add(store: SqliteStore, interface: str = "tap0", app: str = "web", **more: Any) -> Machine:
    return machines.add(store, config(), app, interface=interface, **{"mac": MAC, **more})


def test_add_gives_addresses_number_and_defaults(store: SqliteStore) -> None:
    machine = add(store)
    assert machine == Machine(
        id=machine.id,
        app="web",
        host="h1",
        region="ams",
        interface="tap0",
        mac=MAC,
        private_ip="172.16.0.2",
        services_ip="172.16.0.3",
        number=16,
    )
    assert len(machine.id) == 14
    assert machines.get(store, machine.id) == machine
    assert machine.state is MachineState.STARTED


def test_add_takes_everything_that_is_given(store: SqliteStore) -> None:
    machine = add(
        store,
        mac="02-AA-00-00-00-01",
        name="front",
        group="web",
        region="iad",
        metadata={"k": "v"},
        id="00000000000001",
    )
    assert machine.mac == "02:aa:00:00:00:01"
    assert (machine.name, machine.group, machine.region) == ("front", "web", "iad")
    assert (machine.metadata, machine.id) == ({"k": "v"}, "00000000000001")


def test_no_two_machines_share_anything(store: SqliteStore) -> None:
    made = [add(store, f"tap{n}") for n in range(20)]
    addresses = [a for m in made for a in (m.private_ip, m.services_ip)]
    assert len(set(addresses)) == 40
    assert len({m.id for m in made}) == len({m.number for m in made}) == 20


def test_adding_again_with_equal_arguments_changes_nothing(store: SqliteStore) -> None:
    machine = add(store, metadata={"k": "v"})
    power.request(store, machine.id, "stopped")
    before = store.revision()
    again = add(store, mac=MAC.upper(), metadata={"k": "v"}, id=machine.id)
    assert again.id == machine.id
    assert again.state is MachineState.STOPPED
    assert store.revision() == before


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"app": "db"}, "app"),
        ({"mac": "02:00:00:00:00:02"}, "mac"),
        ({"name": "x"}, "name"),
        ({"group": "worker"}, "group"),
        ({"region": "iad"}, "region"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"id": "00000000000009"}, "id"),
    ],
)
def test_an_interface_belongs_to_one_machine(
    store: SqliteStore, more: dict[str, Any], key: str
) -> None:
    machine = add(store)
    before = store.revision()
    with pytest.raises(ConflictError, match=f"'tap0' of host 'h1' belongs to .* whose {key}"):
        add(store, **more)
    with pytest.raises(ConflictError) as caught:
        add(store, **more)
    assert machine.id in caught.value.message
    assert f"machines remove {machine.id}" in caught.value.remedy
    assert store.revision() == before


def test_interfaces_of_two_hosts_may_have_one_name(store: SqliteStore) -> None:
    other = config(host="h2", block="172.16.16.0/20")
    cluster.ensure(store, other)
    here = add(store)
    there = machines.add(store, other, "web", interface="tap0", mac=MAC)
    assert (here.host, there.host) == ("h1", "h2")
    assert there.private_ip == "172.16.16.2"


def test_a_full_block(tmp_path: Path) -> None:
    small = config(block="172.16.0.0/29")
    with region(tmp_path, small) as store:
        for number in range(2):
            machines.add(store, small, "web", interface=f"tap{number}", mac=MAC)
        before = store.revision()
        with pytest.raises(ExhaustedError, match=r"172\.16\.0\.0/29 of host 'h1'") as caught:
            machines.add(store, small, "web", interface="tap2", mac=MAC)
        assert "private.block" in caught.value.remedy
        assert store.revision() == before


def test_machine_numbers_end(store: SqliteStore) -> None:
    last = Cluster(seed=1, next_machine=2**32 - 1)
    store.commit(Transaction(writes=(Put("cluster", "cluster", encode(last)),)))
    assert add(store, "tap0").number == 2**32 - 1
    with pytest.raises(ExhaustedError, match="machine numbers"):
        add(store, "tap1")


def test_remove_frees_everything_but_the_number(store: SqliteStore) -> None:
    machine = add(store)
    assert machines.remove(store, machine.id) == machine
    assert every(store, Machine) == []
    assert every(store, Interface) == []
    assert every(store, PrivateAddress) == []
    again = add(store)
    assert again.number != machine.number
    assert {again.private_ip, again.services_ip}.isdisjoint(
        {machine.private_ip, machine.services_ip}
    )


def test_remove_frees_nothing_of_another_machine(store: SqliteStore) -> None:
    one = add(store)
    intruder = replace(one, id=MISSING, number=99)
    store.commit(Transaction(writes=(Put("machine", MISSING, encode(intruder)),)))
    machines.remove(store, MISSING)
    assert every(store, Machine) == [one]
    assert [record.machine for record in every(store, Interface)] == [one.id]
    assert {record.machine for record in every(store, PrivateAddress)} == {one.id}
    assert len(every(store, PrivateAddress)) == 2


def test_list_all(store: SqliteStore) -> None:
    one, two = add(store, "tap0"), add(store, "tap1", "db")
    assert machines.list_all(store) == sorted([one, two], key=lambda m: m.id)
    assert machines.list_all(store, "db") == [two]


def test_state_and_cordon(store: SqliteStore) -> None:
    machine = add(store)
    assert power.request(store, machine.id, "suspended").state is MachineState.SUSPENDED
    assert machines.set_cordoned(store, machine.id, True).cordoned
    before = store.revision()
    machines.set_cordoned(store, machine.id, True)
    power.request(store, machine.id, MachineState.SUSPENDED)
    assert store.revision() == before
    assert not machines.set_cordoned(store, machine.id, False).cordoned


def test_metadata(store: SqliteStore) -> None:
    machine = add(store, metadata={"a": "1"})
    assert machines.set_metadata(store, machine.id, {"b": "2", "a": "3"}).metadata == {
        "a": "3",
        "b": "2",
    }
    with pytest.raises(NotFoundError, match="no metadata key 'c'"):
        machines.unset_metadata(store, machine.id, ["a", "c"])
    assert machines.get(store, machine.id).metadata == {"a": "3", "b": "2"}
    assert machines.unset_metadata(store, machine.id, ["a"]).metadata == {"b": "2"}


MISSING = "0123456789abcd"


@pytest.mark.parametrize(
    ("operation", "error", "match"),
    [
        (lambda s: add(s, app="wbe"), NotFoundError, "app 'wbe'"),
        (lambda s: add(s, "eth0"), InvalidError, "'eth0' is an uplink"),
        (lambda s: add(s, "lo"), InvalidError, "loopback"),
        (lambda s: add(s, "a/b"), InvalidError, "interface name 'a/b'"),
        (lambda s: add(s, mac="x"), InvalidError, "MAC address 'x'"),
        (lambda s: add(s, id="x"), InvalidError, "machine id 'x'"),
        (lambda s: add(s, id=""), InvalidError, "machine id ''"),
        (lambda s: add(s, region="A"), InvalidError, "region 'A'"),
        (lambda s: add(s, group=""), InvalidError, "process group ''"),
        (lambda s: add(s, metadata={"": "x"}), InvalidError, "metadata key ''"),
        (lambda s: machines.get(s, MISSING), NotFoundError, f"machine '{MISSING}'"),
        (lambda s: machines.get(s, "zz"), InvalidError, "machine id 'zz'"),
        (lambda s: machines.list_all(s, "wbe"), NotFoundError, "app 'wbe'"),
        (lambda s: machines.remove(s, MISSING), NotFoundError, MISSING),
        (lambda s: power.request(s, MISSING, "started"), NotFoundError, MISSING),
        (lambda s: power.request(s, MISSING, "startd"), InvalidError, "'startd'"),
        (lambda s: machines.set_metadata(s, MISSING, {}), NotFoundError, MISSING),
        (lambda s: machines.environment(s, config(), MISSING), NotFoundError, MISSING),
        (lambda s: machines.hosts_file(s, config(), MISSING), NotFoundError, MISSING),
        (lambda s: machines.resolv_conf(s, config(), MISSING), NotFoundError, MISSING),
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


def test_an_id_that_is_taken(store: SqliteStore) -> None:
    machine = add(store)
    with pytest.raises(ConflictError, match=f"{machine.id} exists already, on 'tap0'"):
        add(store, "tap1", id=machine.id)


def test_what_the_machine_sees(store: SqliteStore) -> None:
    machine = add(store, app="db", group="web", id=MISSING)
    assert machines.environment(store, config(), machine.id) == {
        "FLY_APP_NAME": "db",
        "FLY_MACHINE_ID": MISSING,
        "FLY_REGION": "ams",
        "FLY_PRIVATE_IP": "fdaa:0:2:8000:1:0:10:2",
        "FLY_PROCESS_GROUP": "web",
        "PRIMARY_REGION": "",
    }
    hosts = machines.hosts_file(store, config(), machine.id).splitlines()
    by_name = {name: line.split()[0] for line in hosts for name in line.split()[1:]}
    assert hosts[0].split() == ["127.0.0.1", "localhost"]
    assert by_name["fly-local-6pn"] == "fdaa:0:2:8000:1:0:10:2"
    assert by_name["fly-global-services"] == machine.services_ip
    assert by_name[MISSING] == machine.private_ip
    assert machines.resolv_conf(store, config(), machine.id) == "nameserver fdaa::3\n"


@pytest.mark.parametrize(
    ("mesh", "mtu"),
    [
        (MeshConfig(), 0),
        (MeshConfig(underlay="wireguard", mtu=1420), 1420),
        (MeshConfig(underlay="wireguard", mtu=1420, return_path="edge"), 1380),
        (MeshConfig(underlay="plain", mtu=9000), 1500),
    ],
)
def test_with_a_mesh_the_machine_is_told_its_mtu(
    store: SqliteStore, mesh: MeshConfig, mtu: int
) -> None:
    machine = add(store)
    given = replace(config(), mesh=mesh)
    assert machines.mtu(given) == mtu
    told = machines.environment(store, given, machine.id).get("FLY_MTU")
    assert told == (str(mtu) if mtu else None)


def test_the_primary_region_is_that_of_the_deployment(store: SqliteStore) -> None:
    machine = add(store)
    deploy.deploy(store, config(), "web", flytoml.parse('primary_region = "iad"'))
    assert machines.environment(store, config(), machine.id)["PRIMARY_REGION"] == "iad"
