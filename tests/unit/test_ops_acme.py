# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to order a certificate, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flyebpf.config import AcmeConfig
from flyebpf.errors import ConflictError, InvalidError, NotFoundError
from flyebpf.model.acme import AcmeChallenge, AcmeName, AcmeState
from flyebpf.model.certificates import Certificate, KeyPair
from flyebpf.ops import acme, apps, certificates, orgs
from flyebpf.ops.transact import Tx
from flyebpf.store.sqlite import SqliteStore
from tests.pki import make
from tests.stores import config, region

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CONFIG = replace(config(engine="envoy"), acme=AcmeConfig("https://authority.example/directory"))
HOST = "www.example.com"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as made:
        yield made


def want(store: SqliteStore, host: str = HOST, app: str = "web") -> AcmeName:
    return acme.want(store, CONFIG, host, app)


def leased(store: SqliteStore, host: str = "h1", now: datetime = NOW) -> AcmeName:
    found = acme.lease(store, HOST, host, now)
    assert found is not None
    return found


def test_one_host_at_a_time_orders(store: SqliteStore) -> None:
    want(store)
    mine = leased(store)
    assert acme.lease(store, HOST, "h2", NOW + acme.LEASE / 2) is None
    theirs = leased(store, "h2", NOW + acme.LEASE + timedelta(seconds=1))
    assert theirs.host == "h2"
    challenge = AcmeChallenge(HOST, "web", "token", "answer")
    assert not acme.show(store, mine, challenge)
    assert acme.show(store, theirs, challenge)
    acme.failed(store, mine, "too late", NOW)
    assert Tx(store).get(AcmeName, HOST) == theirs
    with pytest.raises(ConflictError, match="does not get its certificate by ACME any more"):
        acme.issued(store, CONFIG, mine, *make(HOST).both)


def test_what_is_issued_is_served(store: SqliteStore) -> None:
    want(store)
    name = leased(store)
    assert acme.show(store, name, AcmeChallenge(HOST, "web", "token", "answer"))
    pem, key = make(HOST).both
    acme.issued(store, CONFIG, name, pem, key)
    assert Tx(store).get(KeyPair, HOST) == KeyPair(HOST, "web", pem, key)
    assert Tx(store).get(AcmeChallenge, HOST) is None
    done = acme.get(store, HOST)
    assert (done.state, done.host, done.lease) == (AcmeState.ISSUED, "", "")
    assert acme.lease(store, HOST, "h1", datetime.now(UTC)) is None, "not before its renewal"
    assert acme.lease(store, HOST, "h1", datetime.now(UTC) + timedelta(days=61)) is not None


def test_pauses_grow(store: SqliteStore) -> None:
    want(store)
    now, pauses = NOW, []
    for _ in range(12):
        acme.failed(store, leased(store, now=now), "no such host", now)
        found = acme.get(store, HOST)
        until = datetime.fromisoformat(found.next_try)
        assert not acme.due(found, None, until - timedelta(seconds=1))
        pauses.append(until - now)
        now = until
    minutes = [pause // timedelta(minutes=1) for pause in pauses]
    assert minutes == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440]
    assert (found.state, found.error, found.attempts) == (AcmeState.FAILED, "no such host", 12)


def test_a_rate_limit_is_kept(store: SqliteStore) -> None:
    want(store)
    acme.failed(store, leased(store), "too many", NOW, limited=True)
    assert acme.get(store, HOST).next_try == acme.text(NOW + acme.RATE_LIMITED)


@pytest.mark.parametrize("again", ["check", "add"])
def test_a_failure_is_tried_again_at_once_if_somebody_asks(store: SqliteStore, again: str) -> None:
    want(store)
    acme.failed(store, leased(store), "no such host", NOW)
    if again == "check":
        acme.check(store, HOST)
    else:
        want(store)
    assert leased(store).attempts == 1


def test_renewals_are_spread() -> None:
    pem = Certificate(HOST, "web", (HOST,), "CA", False, "RSA", "", "2026-01-01T00:00:00Z",
                      "2026-04-01T00:00:00Z")  # fmt: skip
    end = datetime.fromisoformat(pem.not_after)
    found = [acme.renewal(replace(pem, hostname=f"{n}.example.com")) for n in range(50)]
    assert len(set(found)) == 50
    assert all(timedelta(30) <= end - when <= timedelta(31) for when in found)
    short = replace(pem, not_after="2026-01-07T00:00:00Z")
    left = datetime.fromisoformat(short.not_after) - acme.renewal(short)
    assert timedelta(2) <= left <= timedelta(2.2)


def test_names_are_one_apps(store: SqliteStore) -> None:
    want(store)
    with pytest.raises(ConflictError, match="belongs to app web"):
        want(store, app="db")
    pem, key = make(HOST).both
    with pytest.raises(ConflictError, match="belongs to app web"):
        certificates.add(store, CONFIG, HOST, "db", chain=pem, key=key)
    certificates.add(store, CONFIG, HOST, "web", chain=pem, key=key)
    with pytest.raises(NotFoundError, match="does not get its certificate by ACME"):
        acme.get(store, HOST)
    want(store)
    certificates.remove(store, HOST)
    assert acme.list_all(store) == []
    want(store)
    apps.destroy(store, "web")
    assert acme.list_all(store) == []


@pytest.mark.parametrize(
    ("host", "app", "said"),
    [
        ("*.example.com", "web", "is a wildcard"),
        ("web.flycast", "web", "no name of the public DNS"),
        ("db.fly.test", "web", "cannot be app web's"),
        ("nonsense", "web", "is not valid"),
    ],
)
def test_names_that_cannot_be(store: SqliteStore, host: str, app: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        want(store, host, app)


def test_without_an_authority(store: SqliteStore) -> None:
    with pytest.raises(InvalidError, match="no ACME authority is configured"):
        acme.want(store, config(engine="envoy"), HOST, "web")
    with pytest.raises(NotFoundError, match="app 'wbe'"):
        want(store, app="wbe")


def test_names_below_anothers_wildcard(store: SqliteStore) -> None:
    """They would get its clients, and with them a certificate."""
    orgs.create(store, "other")
    apps.create(store, "thief", "other")
    certificates.add(store, CONFIG, "*.example.com", "web", **pem("*.example.com"))
    with pytest.raises(ConflictError, match="app web's, of another organization"):
        want(store, app="thief")
    with pytest.raises(ConflictError, match="app web's, of another organization"):
        certificates.add(store, CONFIG, HOST, "thief", **pem(HOST))
    assert want(store, app="db").app == "db"
    assert want(store, "example.com", "thief").app == "thief"
    assert want(store, "a.b.example.com", "thief").app == "thief"


def test_a_wildcard_above_anothers_names(store: SqliteStore) -> None:
    orgs.create(store, "other")
    apps.create(store, "thief", "other")
    want(store)
    with pytest.raises(ConflictError, match=f"{HOST} belong together"):
        certificates.add(store, CONFIG, "*.example.com", "thief", **pem("*.example.com"))
    certificates.add(store, CONFIG, "*.example.com", "db", **pem("*.example.com"))


def pem(host: str) -> dict[str, str]:
    chain, key = make(host).both
    return {"chain": chain, "key": key}
