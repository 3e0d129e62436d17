# SPDX-License-Identifier: Apache-2.0
"""Flycast addresses: one per app and network, counted up, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyebpf import flytoml
from flyebpf.config import DaemonConfig
from flyebpf.errors import FlyebpfError, InvalidError, NotFoundError, UnavailableError
from flyebpf.model.records import Address, AddressKind, App, Network
from flyebpf.ops import addresses, apps, deploy, flycast, networks, orgs
from flyebpf.ops.transact import Tx, find
from flyebpf.store.base import GuardFailedError
from flyebpf.store.sqlite import SqliteStore
from tests.stores import add_operators_certificate, config, region

HERE = config(engine="envoy")
WEB = "[http_service]\n"
FORCED = "[http_service]\nforce_https = true\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Apps web on acme/default (1) and db on acme/back (2); globex/default is 3."""
    with region(tmp_path, HERE) as store:
        orgs.create(store, "globex")
        add_operators_certificate(store)
        yield store


def give(store: SqliteStore, app: str = "web", **where: str) -> Address:
    return flycast.allocate(store, HERE, app, **where)


def put_into_force(store: SqliteStore, text: str, app: str = "web") -> deploy.DeployResult:
    parsed = flytoml.parse(text)
    return deploy.deploy(store, HERE, app, parsed, public_ips=False)


def test_it_is_on_the_apps_own_network(store: SqliteStore) -> None:
    made = give(store)
    assert (made.address, made.app, made.type) == (
        "fdaa:0:1:0:1::1",
        "web",
        AddressKind.PRIVATE_V6,
    )
    assert (made.network, made.org) == ("default", "acme")
    assert give(store, "db").address == "fdaa:0:2:0:1::1"


def test_one_for_each_app_and_network(store: SqliteStore) -> None:
    """Asking again gives the same; on another network it is another one."""
    first = give(store)
    for same in (give(store), give(store, network="default"), give(store, org="acme")):
        assert same == first
    other = give(store, network="back")
    assert (other.address, other.network) == ("fdaa:0:2:0:1::1", "back")
    foreign = give(store, org="globex")
    assert (foreign.address, foreign.network, foreign.org) == (
        "fdaa:0:3:0:1::1",
        "default",
        "globex",
    )
    assert addresses.list_all(store, "web") == [first, other, foreign]


def test_numbers_count_up_and_are_never_used_again(store: SqliteStore) -> None:
    """A caller that has kept an address reaches nobody, and not the next app."""
    apps.create(store, "api", "acme")
    first = give(store)
    addresses.release(store, "web", [first.address])
    assert give(store, "api").address == "fdaa:0:1:0:1::2"
    assert give(store).address == "fdaa:0:1:0:1::3"
    apps.destroy(store, "web")
    apps.create(store, "web", "acme")
    assert give(store).address == "fdaa:0:1:0:1::4"


def test_the_app_may_be_deployed_later(store: SqliteStore) -> None:
    give(store)
    assert put_into_force(store, WEB).warnings == ()


WRONG: list[tuple[str, Callable[[SqliteStore], object], type[FlyebpfError], str, str]] = [
    (
        "an app that is not there",
        lambda s: give(s, "wbe"),
        NotFoundError,
        "app 'wbe'",
        'did you mean "web"',
    ),
    (
        "a network that is not there is not made: it may be a slip",
        lambda s: give(s, network="bakc"),
        NotFoundError,
        "network 'acme/bakc' does not exist",
        'did you mean "acme/back"',
    ),
    (
        "an organization that is not there",
        lambda s: give(s, org="globe"),
        NotFoundError,
        "organization 'globe'",
        'did you mean "globex"',
    ),
    (
        "a network of another organization is named with it",
        lambda s: give(s, "web", network="back", org="globex"),
        NotFoundError,
        "network 'globex/back'",
        "networks list",
    ),
    (
        "a network's name that cannot be one",
        lambda s: give(s, network="1x"),
        InvalidError,
        "network name '1x'",
        "first a letter",
    ),
    (
        "nothing that serves it",
        lambda s: flycast.allocate(s, config(), "web"),
        UnavailableError,
        "a Flycast address needs the proxy",
        "proxy.engine",
    ),
]


@pytest.mark.parametrize(
    ("operation", "error", "message", "remedy"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG]
)
def test_wrong_input_changes_nothing(
    store: SqliteStore,
    operation: Callable[[SqliteStore], object],
    error: type[FlyebpfError],
    message: str,
    remedy: str,
) -> None:
    before = store.revision()
    with pytest.raises(error) as caught:
        operation(store)
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert store.revision() == before


def refused(store: SqliteStore, operation: Callable[[], object]) -> str:
    before = store.revision()
    with pytest.raises(InvalidError) as caught:
        operation()
    assert caught.value.remedy
    assert store.revision() == before
    return caught.value.message


def test_an_app_that_forces_https_gets_none(store: SqliteStore) -> None:
    put_into_force(store, FORCED)
    said = refused(store, lambda: give(store))
    assert said == ("app web forces https, which Flycast cannot: services[0] (tcp port 80 to 8080)")


def test_an_app_without_a_service_gets_none(store: SqliteStore) -> None:
    put_into_force(store, "")
    assert "app web has no service" in refused(store, lambda: give(store))


def test_an_app_that_has_one_cannot_begin_to_force_https(store: SqliteStore) -> None:
    give(store)
    assert "forces https" in refused(store, lambda: put_into_force(store, FORCED))
    addresses.release(store, "web", ["fdaa:0:1:0:1::1"])
    put_into_force(store, FORCED)


def test_a_deploy_can_give_it(store: SqliteStore) -> None:
    parsed = flytoml.parse(WEB)
    first = deploy.deploy(store, HERE, "web", parsed, flycast=True)
    assert [a.address for a in first.allocated] == ["fdaa:0:1:0:1::1"]
    assert first.warnings == ()
    assert deploy.deploy(store, HERE, "web", parsed, flycast=True).allocated == ()


@pytest.mark.parametrize(
    ("text", "of", "error", "message"),
    [
        (FORCED, HERE, InvalidError, "forces https"),
        ("", HERE, InvalidError, "has no service"),
        ("[[services]]\nports = ['80']\n", config(), UnavailableError, "needs the proxy"),
    ],
)
def test_a_deploy_that_cannot_give_it_changes_nothing(
    store: SqliteStore, text: str, of: DaemonConfig, error: type[FlyebpfError], message: str
) -> None:
    before = store.revision()
    with pytest.raises(error, match=message):
        deploy.deploy(store, of, "web", flytoml.parse(text), flycast=True)
    assert store.revision() == before


def test_two_at_once_get_different_numbers(store: SqliteStore) -> None:
    """The second one sees the first one's write and starts again."""
    apps.create(store, "api", "acme")
    owner, other = find(store, App, "web"), find(store, App, "api")
    place = networks.list_all(store, "acme")[1]
    assert place == find(store, Network, "acme/default")
    one, two = Tx(store), Tx(store)
    flycast.give(one, owner, place)
    flycast.give(two, other, place)
    one.commit()
    with pytest.raises(GuardFailedError):
        two.commit()
