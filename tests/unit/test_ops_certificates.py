# SPDX-License-Identifier: Apache-2.0
"""Certificates in the store: whose a host name is, and what becomes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.errors import ConflictError, FlyebpfError, InvalidError, NotFoundError
from flyebpf.model.certificates import Certificate, KeyPair
from flyebpf.ops import apps, certificates
from flyebpf.ops.transact import Tx
from flyebpf.store.sqlite import SqliteStore
from tests.pki import chain, make
from tests.stores import config, region

HOST = "www.example.com"
DOMAIN = config().domain


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def add(store: SqliteStore, hostname: str = HOST, app: str | None = "web") -> Certificate:
    name = hostname.lower()
    chain_pem, key_pem = chain(name)
    return certificates.add(store, config(), hostname, app, chain=chain_pem, key=key_pem)


def test_a_certificates_life(store: SqliteStore) -> None:
    made = add(store, "WWW.example.com")
    assert (made.hostname, made.app, made.issuer) == (HOST, "web", "Test CA 1")
    assert Tx(store).get(KeyPair, HOST) == KeyPair(HOST, "web", *chain(HOST))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", made.not_after)
    assert certificates.get(store, HOST) == made
    other = add(store, "db.example.com", "db")
    assert certificates.list_all(store) == [other, made]
    assert certificates.list_all(store, "web") == [made]
    assert certificates.remove(store, HOST, "web") == made
    assert certificates.list_all(store) == [other]
    assert [entry.id for entry in store.list("key_pair")] == ["db.example.com"]


def test_adding_it_again_is_how_it_is_renewed(store: SqliteStore) -> None:
    first = add(store)
    pem, key = make(HOST, days=30).both
    second = certificates.add(store, config(), HOST, "web", chain=pem, key=key)
    assert second.fingerprint != first.fingerprint
    assert certificates.list_all(store) == [second]
    assert Tx(store).get(KeyPair, HOST) == KeyPair(HOST, "web", pem, key)


def test_a_host_name_is_one_apps(store: SqliteStore) -> None:
    add(store)
    before = store.revision()
    with pytest.raises(ConflictError, match="belongs to app web") as caught:
        add(store, HOST, "db")
    assert f"certs remove {HOST}" in caught.value.remedy
    with pytest.raises(NotFoundError, match="app 'wbe'"):
        add(store, HOST, "wbe")
    assert store.revision() == before
    certificates.remove(store, HOST)
    assert add(store, HOST, "db").app == "db"


OWNERS: list[tuple[str, str | None, str | None, str]] = [
    (f"web.{DOMAIN}", "web", None, "the app's default host name is its own"),
    (f"web.{DOMAIN}", "db", "cannot be app db's", "and no other app's"),
    (f"www.web.{DOMAIN}", "web", "cannot be app web's", "nothing is below an app's name"),
    (f"*.{DOMAIN}", None, None, "the operator has all of them"),
    (f"*.{DOMAIN}", "web", "for the default host names of all apps", "one app has not"),
    (HOST, None, "no certificate of the operator", "the operator has nothing else"),
    (f"web.{DOMAIN}", None, "no certificate of the operator", "not even one of them"),
    (DOMAIN, "web", "never served by the proxy", "the domain itself is no app's"),
    ("web.flycast", "web", None, "the app's Flycast name is its own"),
    ("db.flycast", "web", "cannot be app web's", "and no other app's"),
    ("*.flycast", "web", "is not valid", "nobody has all of them"),
    ("web.internal", "web", "never served by the proxy", "names of machines do not lead there"),
    (f"not{DOMAIN}.example", "web", None, "a name that only looks like one of the domain"),
]


@pytest.mark.parametrize(("host", "app", "message", "why"), OWNERS, ids=[c[3] for c in OWNERS])
def test_whose_a_name_can_be(
    store: SqliteStore, host: str, app: str | None, message: str | None, why: str
) -> None:
    before = store.revision()
    if message is None:
        assert add(store, host, app).app == (app or ""), why
        return
    with pytest.raises(InvalidError, match=re.escape(message)) as caught:
        add(store, host, app)
    assert caught.value.remedy, why
    assert store.revision() == before, why


WRONG = [
    (lambda s: add(s, HOST, "wbe"), NotFoundError, "app 'wbe'"),
    (lambda s: certificates.add(s, config(), HOST, "web", chain="", key=""), InvalidError, HOST),
    (lambda s: certificates.add(s, config(), "x", "web", chain="", key=""), InvalidError, "'x'"),
    (lambda s: certificates.get(s, HOST), NotFoundError, f"host name {HOST} has no"),
    (lambda s: certificates.remove(s, HOST), NotFoundError, f"host name {HOST} has no"),
    (lambda s: certificates.list_all(s, "wbe"), NotFoundError, "app 'wbe'"),
]


@pytest.mark.parametrize(("operation", "error", "match"), WRONG)
def test_wrong_input_changes_nothing(
    store: SqliteStore, operation: object, error: type[FlyebpfError], match: str
) -> None:
    before = store.revision()
    with pytest.raises(error, match=match) as caught:
        operation(store)  # type: ignore[operator]
    assert caught.value.remedy
    assert store.revision() == before


def test_removing_as_another_app_removes_nothing(store: SqliteStore) -> None:
    made = add(store)
    with pytest.raises(NotFoundError, match="it is that of app web") as caught:
        certificates.remove(store, HOST, "db")
    assert "certs list -a db" in caught.value.remedy
    assert certificates.list_all(store) == [made]


def test_a_similar_name_is_suggested(store: SqliteStore) -> None:
    add(store)
    with pytest.raises(NotFoundError) as caught:
        certificates.get(store, "wwww.example.com")
    assert f'did you mean "{HOST}"' in caught.value.remedy


def test_an_app_that_is_destroyed_leaves_no_key_behind(store: SqliteStore) -> None:
    """Also when there are more than one transaction may remove; and an app that
    takes its name later has none of its host names."""
    pem, key = make("*.example.com", "*.example.net").both
    for number in range(95):
        zone = ("com", "net")[number % 2]
        certificates.add(store, config(), f"h{number}.example.{zone}", "web", chain=pem, key=key)
    kept = add(store, "db.example.com", "db")
    apps.destroy(store, "web")
    assert certificates.list_all(store) == [kept]
    assert [entry.id for entry in store.list("key_pair")] == ["db.example.com"]


def test_nothing_shows_the_key(store: SqliteStore) -> None:
    add(store)
    pair = Tx(store).get(KeyPair, HOST)
    assert pair is not None
    assert "PRIVATE" in pair.key
    assert "PRIVATE" not in repr(pair)
    assert pair.key.splitlines()[1] not in repr(pair)


def test_what_lists_read_is_small(store: SqliteStore) -> None:
    """A store on other hosts sends all of them for a list."""
    add(store)
    (entry,) = store.list("certificate")
    assert len(json.dumps(entry.body)) < 600
