# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.config import MeshConfig
from flyebpf.errors import ConflictError, InvalidError, UnavailableError
from flyebpf.model.records import App, Cluster, Host, Machine, Presence
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.ops import cluster, machines, moves, orgs
from flyebpf.ops.transact import every, find, transact
from flyebpf.store.base import Entry, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def add(store: SqliteStore, interface: str = "tap0") -> None:
    machines.add(store, config(), "web", interface=interface, mac="02:00:00:00:00:01")


def test_a_restart_writes_nothing(store: SqliteStore) -> None:
    before = store.revision()
    first = cluster.ensure(store, config())
    assert cluster.ensure(store, config()) == first
    assert store.revision() == before


def test_hosts_have_numbers_of_their_own(store: SqliteStore) -> None:
    seed = cluster.ensure(store, config())[0].seed
    shared, second = cluster.ensure(store, config(host="h2", block="172.16.16.0/20"))
    first = find(store, Host, "h1")
    assert shared.seed == seed
    assert 0 <= seed < 2**64
    assert first.number >= HOST_BIT
    assert second.number >= HOST_BIT
    assert first.number != second.number


def test_several_hosts_are_the_first(tmp_path: Path) -> None:
    """Another one has registered between this one's looks at the cluster's record
    and at the hosts."""

    class Racing(SqliteStore):
        raced = False

        def list(self, kind: str) -> list[Entry]:
            if not self.raced:
                self.raced = True
                cluster.ensure(self, config(host="h2", block="172.16.16.0/20"))
            return super().list(kind)

    with closing(Racing(tmp_path / "s.db", durable=False)) as store:
        shared, host = cluster.ensure(store, config())
        assert shared.seed == find(store, Cluster, "cluster").seed
        assert {h.name: h.number - HOST_BIT for h in every(store, Host)} == {"h2": 1, "h1": 2}
        assert host.number == HOST_BIT | 2


def test_numbers_are_not_given_out_again_when_the_record_of_them_is_lost(
    store: SqliteStore,
) -> None:
    add(store)
    transact(store, lambda tx: tx.delete(Cluster, "cluster"))
    before = store.revision()
    for name, block in (("h1", "172.16.0.0/20"), ("h2", "172.16.16.0/20")):
        with pytest.raises(UnavailableError, match="no cluster record, but host 'h1'"):
            cluster.ensure(store, config(host=name, block=block))
    assert store.revision() == before


def test_a_changed_configuration_keeps_the_number(store: SqliteStore) -> None:
    before = find(store, Host, "h1")
    moved = replace(config(block="172.16.32.0/20"), region="iad")
    assert cluster.ensure(store, moved)[1] == Host("h1", before.number, "iad", "172.16.32.0/20")
    assert len(every(store, Host)) == 1


def test_blocks_of_hosts_do_not_overlap(store: SqliteStore) -> None:
    with pytest.raises(ConflictError, match=r"overlaps 172\.16\.0\.0/20 of host 'h1'"):
        cluster.ensure(store, config(host="h2", block="172.16.8.0/24"))
    assert [host.name for host in every(store, Host)] == ["h1"]


def test_records_of_others_making_stop_no_host(store: SqliteStore) -> None:
    strange = Host("h9", HOST_BIT | 99, "ams", "everything", endpoint="nowhere")
    transact(store, lambda tx: tx.put(strange))
    add(store)
    (machine,) = every(store, Machine)
    transact(store, lambda tx: tx.put(replace(machine, services_ip="none")))
    assert cluster.ensure(store, config(block="172.16.0.0/21"))[1].block == "172.16.0.0/21"


def test_a_machine_of_a_host_whose_record_is_damaged(store: SqliteStore) -> None:
    add(store)
    (machine,) = every(store, Machine)
    host = find(store, Host, "h1")
    transact(store, lambda tx: tx.put(replace(host, block="everything", number=5)))
    with pytest.raises(InvalidError, match="the record of host h1 is damaged"):
        add(store, "tap1")
    with pytest.raises(InvalidError, match=f"the record of machine {machine.id}"):
        machines.hosts_file(store, config(), machine.id)


def test_a_block_contains_what_its_machines_have(store: SqliteStore) -> None:
    add(store)
    with pytest.raises(ConflictError, match=r"does not contain 172\.16\.0\.2 of machine"):
        cluster.ensure(store, config(block="172.16.32.0/20"))
    cluster.ensure(store, config(block="172.16.0.0/24"))
    assert find(store, Host, "h1").block == "172.16.0.0/24"


def test_a_machine_that_comes_while_the_block_is_changed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move writes neither the cluster's record nor the host's."""
    elsewhere = config(host="h2", block="172.16.16.0/20")
    cluster.ensure(store, elsewhere)
    machine = machines.add(store, elsewhere, "web", interface="tap0", mac="02:00:00:00:00:01")
    commit = store.commit

    def late(transaction: Transaction) -> int:
        monkeypatch.setattr(store, "commit", commit)
        moves.move(store, config(), machine.id, interface="tap0")
        return commit(transaction)

    monkeypatch.setattr(store, "commit", late)
    with pytest.raises(ConflictError, match=r"does not contain 172\.16\.0\.2 of machine"):
        cluster.ensure(store, config(block="172.16.32.0/20"))
    assert find(store, Host, "h1").block == "172.16.0.0/20"


def test_nothing_works_before_a_daemon_was_started(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "empty.db", durable=False)
    with pytest.raises(UnavailableError, match="no cluster record"):
        orgs.create(store, "acme")
    store.close()


def test_machines_need_their_host(store: SqliteStore) -> None:
    with pytest.raises(UnavailableError, match="host 'h9' is not registered"):
        machines.add(store, config(host="h9"), "web", interface="tap0", mac="02:00:00:00:00:01")
    assert find(store, App, "web").org == "acme"


def mesh(number: int, endpoint: str) -> Host:
    return Host(f"h{number}", 0, "ams", f"172.16.{16 * number}.0/20", "wireguard", endpoint, 51820)


def test_two_hosts_never_have_one_endpoint(store: SqliteStore) -> None:
    transact(store, lambda tx: cluster.register(tx, mesh(2, "192.0.2.2")))
    before = store.revision()
    with pytest.raises(ConflictError, match=r"mesh.endpoint 192\.0\.2\.2 of host 'h3' is that of"):
        transact(store, lambda tx: cluster.register(tx, mesh(3, "192.0.2.2")))
    assert store.revision() == before
    transact(store, lambda tx: cluster.register(tx, mesh(3, "192.0.2.3")))


def test_what_operators_said_of_a_host_survives_its_restart(store: SqliteStore) -> None:
    kept = replace(find(store, Host, "h1"), drained=True, keys={"0": "k"})
    transact(store, lambda tx: tx.put(kept))
    assert cluster.ensure(store, config())[1] == kept


def test_an_endpoint_is_kept_in_one_form(store: SqliteStore) -> None:
    host = cluster.host_of(replace(config(), mesh=MeshConfig(endpoint="2001:DB8:0::7", port=7)))
    assert (host.endpoint, host.port) == ("2001:db8::7", 7)
    assert cluster.host_of(config()).port == 0  # nobody can reach it


def test_two_machines_never_run_as_one_host(store: SqliteStore) -> None:
    cluster.ensure(store, config(), "first")
    transact(store, lambda tx: tx.put(Presence("h1")))
    assert cluster.ensure(store, config(), "first")[1].identity == "first"  # a restart
    before = store.revision()
    with pytest.raises(ConflictError, match="another machine runs as host 'h1'"):
        cluster.ensure(store, config(), "second")
    assert store.revision() == before
    transact(store, lambda tx: tx.delete(Presence, "h1"))  # the first one is gone
    assert cluster.ensure(store, config(), "second")[1].identity == "second"
    assert cluster.ensure(store, config())[1].identity == "second"
