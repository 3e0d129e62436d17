# SPDX-License-Identifier: Apache-2.0
"""Organizations, networks and apps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyebpf import flytoml
from flyebpf.errors import ConflictError, ExhaustedError, FlyebpfError, InvalidError, NotFoundError
from flyebpf.model.codec import encode
from flyebpf.model.records import Address, App, Cluster, Deployment, Machine, Network, Organization
from flyebpf.ops import addresses, apps, deploy, machines, networks, orgs
from flyebpf.ops.transact import Tx, every, find
from flyebpf.store.base import Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

MAC = "02:00:00:00:00:01"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def test_an_organization_has_the_default_network(store: SqliteStore) -> None:
    assert orgs.create(store, "beta") == Organization("beta")
    assert [network.name for network in networks.list_all(store, "beta")] == ["default"]
    assert orgs.list_all(store) == [Organization("acme"), Organization("beta")]
    assert orgs.get(store, "beta") == Organization("beta")


def test_apps_are_created_on_their_network(store: SqliteStore) -> None:
    assert apps.list_all(store) == [App("db", "acme", "back"), App("web", "acme", "default")]
    assert apps.get(store, "db").network == "back"


def test_apps_of_one_network_share_its_number(store: SqliteStore) -> None:
    before = networks.list_all(store)
    apps.create(store, "api", "acme", "back")
    assert networks.list_all(store) == before


def test_networks_of_one_name_in_two_organizations_differ(store: SqliteStore) -> None:
    orgs.create(store, "beta")
    apps.create(store, "other", "beta", "back")
    numbers = [network.number for network in networks.list_all(store)]
    assert len(set(numbers)) == len(numbers) == 4
    assert [n.ident for n in networks.list_all(store, "beta")] == ["beta/back", "beta/default"]


def test_a_network_outlives_its_last_app_and_keeps_its_number(store: SqliteStore) -> None:
    before = find(store, Network, "acme/back")
    apps.destroy(store, "db")
    assert find(store, Network, "acme/back") == before
    apps.create(store, "api", "acme", "new")
    apps.create(store, "db2", "acme", "back")
    assert find(store, Network, "acme/back") == before
    assert find(store, Network, "acme/new").number > before.number


def test_network_numbers_end_below_those_of_hosts(store: SqliteStore) -> None:
    last = Cluster(seed=1, next_network=2**31 - 1)
    store.commit(Transaction(writes=(Put("cluster", "cluster", encode(last)),)))
    assert networks.ensure(store, "acme", "last").number == 2**31 - 1
    with pytest.raises(ExhaustedError, match="2\\^31"):
        networks.ensure(store, "acme", "one-more")
    assert networks.ensure(store, "acme", "last").number == 2**31 - 1


@pytest.mark.parametrize(
    ("operation", "error", "match"),
    [
        (lambda s: orgs.create(s, "acme"), ConflictError, "organization 'acme' exists"),
        (lambda s: orgs.create(s, "A!"), InvalidError, "organization name"),
        (lambda s: orgs.get(s, "acne"), NotFoundError, "organization 'acne'"),
        (lambda s: networks.list_all(s, "acne"), NotFoundError, "organization 'acne'"),
        (lambda s: networks.ensure(s, "acne", "n"), NotFoundError, "organization 'acne'"),
        (lambda s: apps.create(s, "web", "acme"), ConflictError, "app 'web' exists"),
        (lambda s: apps.create(s, "Web", "acme"), InvalidError, "app name 'Web'"),
        (lambda s: apps.create(s, "api", "acne"), NotFoundError, "organization 'acne'"),
        (lambda s: apps.create(s, "api", "acme", "1"), InvalidError, "network name '1'"),
        (lambda s: apps.get(s, "wbe"), NotFoundError, "app 'wbe'"),
        (lambda s: apps.destroy(s, "wbe"), NotFoundError, "app 'wbe'"),
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


def test_destroy_takes_deployment_and_addresses_along(store: SqliteStore) -> None:
    parsed = flytoml.parse("[[services]]\n[[services.ports]]\nport = 80\n")
    deploy.deploy(store, config(), "web", parsed)
    mine = addresses.allocate_v4(store, config(), "web")
    other = addresses.allocate_v4(store, config(), "db")
    assert apps.destroy(store, "web") == App("web", "acme")
    assert every(store, Address) == [other]
    assert every(store, Deployment) == []
    assert [app.name for app in apps.list_all(store)] == ["db"]
    assert mine.address != other.address


def test_destroy_refuses_while_there_are_machines(store: SqliteStore) -> None:
    ids = [machines.add(store, config(), "web", interface=f"tap{n}", mac=MAC).id for n in range(7)]
    before = store.revision()
    with pytest.raises(ConflictError, match="still has 7 machines") as caught:
        apps.destroy(store, "web")
    assert "and 2 more" in caught.value.message
    assert f"machines remove {min(ids)}" in caught.value.remedy
    assert store.revision() == before
    for ident in ids:
        machines.remove(store, ident)
    apps.destroy(store, "web")


@pytest.mark.parametrize(
    "intruder",
    [
        lambda s: machines.add(s, config(), "web", interface="tap0", mac=MAC),
        lambda s: addresses.allocate_v4(s, config(), "web"),
        lambda s: deploy.deploy(s, config(), "web", flytoml.parse("")),
    ],
    ids=["machine", "address", "deployment"],
)
def test_destroy_leaves_nothing_that_came_meanwhile(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, intruder: Callable[[SqliteStore], object]
) -> None:
    """Something is added to the app between destroy's reads and its commit."""
    commit = Tx.commit
    came = threading.Event()

    def delayed(tx: Tx) -> None:
        if not came.is_set():
            came.set()
            intruder(store)
        commit(tx)

    monkeypatch.setattr(Tx, "commit", delayed)
    try:
        apps.destroy(store, "web")
    except ConflictError:
        assert every(store, Machine)
        assert find(store, App, "web")
    else:
        assert every(store, Machine) == []
        assert every(store, Address) == []
        assert every(store, Deployment) == []
