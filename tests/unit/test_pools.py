# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flyebpf.model.records import Pool, PrivateAddress, Released
from flyebpf.ops import pools
from flyebpf.ops.transact import Tx, find, transact
from flyebpf.store.base import Transaction
from flyebpf.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db", durable=False)
    yield store
    store.close()


def take(store: SqliteStore, *cidrs: str) -> str | None:
    def action(tx: Tx) -> str | None:
        blocks = [pools.routed(cidr) for cidr in cidrs]
        address = pools.take(tx, "test", blocks, PrivateAddress)
        if address is not None:
            tx.put(PrivateAddress(address, "m"))
        return address

    return transact(store, action)


def release(store: SqliteStore, address: str) -> None:
    def action(tx: Tx) -> None:
        tx.delete(PrivateAddress, address)
        pools.give_back(tx, "test", address)

    transact(store, action)


def test_all_addresses_of_a_routed_pool_are_usable(store: SqliteStore) -> None:
    taken = [take(store, "192.0.2.0/30", "198.51.100.7/32") for _ in range(5)]
    assert taken == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.0", "198.51.100.7"]
    assert take(store, "192.0.2.0/30", "198.51.100.7/32") is None


def test_a_linked_pool_keeps_network_gateway_and_broadcast() -> None:
    block = pools.linked("172.16.0.0/29")
    inside = [n for n in range(8) if f"172.16.0.{n}" in block]
    assert inside == [2, 3, 4, 5, 6]
    assert pools.linked("172.16.0.0/31").count == 0
    assert "2001:db8::1" not in block


def test_released_addresses_come_back_last_and_longest_released_first(
    store: SqliteStore,
) -> None:
    first, second, third = (take(store, "192.0.2.0/29") for _ in range(3))
    assert first
    assert second
    assert third
    for address in (second, first, third):
        release(store, address)
    assert [take(store, "192.0.2.0/29") for _ in range(8)] == [
        *(f"192.0.2.{n}" for n in (4, 5, 6, 7, 0)),
        second,
        first,
        third,
    ]
    assert take(store, "192.0.2.0/29") is None


def test_a_pool_that_grows(store: SqliteStore) -> None:
    assert [take(store, "192.0.2.0/31") for _ in range(3)] == ["192.0.2.1", "192.0.2.0", None]
    assert [take(store, "192.0.2.0/30") for _ in range(3)] == ["192.0.2.2", "192.0.2.3", None]


def test_addresses_of_a_pool_that_was_away_are_found_again(store: SqliteStore) -> None:
    one, other = "192.0.2.0/31", "198.51.100.0/31"
    assert [take(store, one) for _ in range(2)] == ["192.0.2.1", "192.0.2.0"]
    release(store, "192.0.2.0")
    assert [take(store, other) for _ in range(3)] == ["198.51.100.1", "198.51.100.0", None]
    assert take(store, one) == "192.0.2.0"
    assert take(store, one) is None


def test_a_queue_of_what_is_in_no_pool_any_more_fits_into_a_transaction(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd takes 125 guards at once; a host's block may have been changed."""
    old, new = "198.51.100.0/24", "192.0.2.0/31"
    for address in [take(store, old) for _ in range(256)]:
        assert address
        release(store, address)
    for address in [take(store, new) for _ in range(2)]:
        assert address
        release(store, address)
    sizes: list[tuple[int, int]] = []

    def commit(transaction: Transaction) -> int:
        sizes.append((len(transaction.guards), len(transaction.writes)))
        return SqliteStore.commit(store, transaction)

    monkeypatch.setattr(store, "commit", commit)
    assert {take(store, new), take(store, new)} == {"192.0.2.0", "192.0.2.1"}
    assert take(store, new) is None
    assert max(guards for guards, _ in sizes) <= 8
    assert 200 <= max(writes for _, writes in sizes) <= 210


def test_what_is_no_address_is_never_given_out(store: SqliteStore) -> None:
    assert take(store, "192.0.2.7/32") == "192.0.2.7"
    release(store, "192.0.2.7")
    pool = find(store, Pool, "test")
    transact(store, lambda tx: tx.put(Released("test", pool.head, "nowhere")))
    assert take(store, "192.0.2.7/32") == "192.0.2.7"


def test_a_large_pool_costs_no_more(store: SqliteStore) -> None:
    assert take(store, "10.0.0.0/8") == "10.0.0.1"
    assert take(store, "2001:db8::/32") == "2001:db8::1"
    assert take(store, "2001:db8::/32") == "2001:db8::2"


CIDRS = ("192.0.2.0/30", "192.0.2.0/31", "192.0.2.4/31", "198.51.100.0/30")


class PoolMachine(RuleBasedStateMachine):
    """Addresses come and go while the operator changes the pools."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = SqliteStore(Path(self.folder.name) / "state.db", durable=False)
        self.cidrs: tuple[str, ...] = CIDRS[:1]
        self.taken: set[str] = set()

    def all_addresses(self) -> set[str]:
        return {str(b.first + n) for b in map(pools.routed, self.cidrs) for n in range(b.count)}

    @rule()
    def take(self) -> None:
        address = take(self.store, *self.cidrs)
        free = self.all_addresses() - self.taken
        assert (address in free) if free else (address is None)
        if address is not None:
            self.taken.add(address)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.taken)))
        release(self.store, address)
        self.taken.discard(address)

    @rule(cidrs=st.lists(st.sampled_from(CIDRS), min_size=1, unique=True))
    def configure(self, cidrs: list[str]) -> None:
        self.cidrs = tuple(cidrs)

    @invariant()
    def records_say_who_has_what(self) -> None:
        assert {entry.id for entry in self.store.list(PrivateAddress.kind)} == self.taken

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
