# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.config import DaemonConfig, EtcdConfig, ProxyConfig
from flyebpf.errors import InvalidError, UnavailableError
from flyebpf.model.records import JoinToken
from flyebpf.ops import tokens
from flyebpf.ops.transact import Tx, every, transact
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


@pytest.fixture
def clustered(tmp_path: Path) -> DaemonConfig:
    """A configuration with etcd and the files of its certificate."""
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"-----BEGIN {name}-----\n")
    files = [str(tmp_path / name) for name in ("ca", "cert", "key")]
    etcd = EtcdConfig(("https://192.0.2.9:2379",), files[0], files[1], files[2])
    return replace(config(), store="etcd", etcd=etcd)


def test_a_token_says_how_to_get_in(store: SqliteStore, clustered: DaemonConfig) -> None:
    clustered = replace(clustered, proxy=ProxyConfig("envoy"))
    made = tokens.create(store, clustered, 60)
    invitation = tokens.read(made.token)
    assert invitation.endpoints == ("https://192.0.2.9:2379",)
    assert (invitation.ca, invitation.key) == ("-----BEGIN ca-----\n", "-----BEGIN key-----\n")
    assert invitation.pools == clustered.pools
    assert invitation.proxy == "envoy"
    assert (invitation.private_prefix, invitation.block_length) == ("172.16.0.0/12", 20)
    assert tokens.write(invitation) == made.token
    assert made.token.replace("-", "a").replace("_", "a").isalnum()


def test_the_store_has_the_digest_only(store: SqliteStore, clustered: DaemonConfig) -> None:
    made = tokens.create(store, clustered, 60)
    secret = tokens.read(made.token).secret
    (record,) = every(store, JoinToken)
    assert (record.digest, record.expires) == (tokens.digest_of(secret), made.expires)
    assert len(secret) >= 43
    assert secret not in json.dumps([entry.body for entry in store.snapshot()[1]])


def test_a_secret_is_used_once(store: SqliteStore, clustered: DaemonConfig) -> None:
    secret = tokens.read(tokens.create(store, clustered, 60).token).secret
    transact(store, lambda tx: tokens.consume(tx, secret))
    for use in (tokens.check, tokens.consume):
        with pytest.raises(InvalidError, match="does not know the token"):
            use(Tx(store), secret)


def test_an_expired_token_is_refused_and_forgotten(
    store: SqliteStore, clustered: DaemonConfig
) -> None:
    secret = tokens.read(tokens.create(store, clustered, 60).token).secret
    old = JoinToken(tokens.digest_of(secret), PAST)
    transact(store, lambda tx: tx.put(old))
    with pytest.raises(InvalidError, match=f"has expired .{PAST}"):
        transact(store, lambda tx: tokens.consume(tx, secret))
    assert every(store, JoinToken) == [old]
    tokens.create(store, clustered, 60)
    assert old not in every(store, JoinToken)
    assert len(every(store, JoinToken)) == 1


def test_revoke_all(store: SqliteStore, clustered: DaemonConfig) -> None:
    secret = tokens.read(tokens.create(store, clustered, 60).token).secret
    for number in range(120):
        extra = JoinToken(f"{number:064x}", "2999-01-01T00:00:00Z")
        transact(store, lambda tx, extra=extra: tx.put(extra))
    assert tokens.revoke_all(store) == 121
    assert tokens.revoke_all(store) == 0
    with pytest.raises(InvalidError):
        tokens.check(Tx(store), secret)


def test_a_store_of_one_host_has_no_tokens(store: SqliteStore) -> None:
    with pytest.raises(UnavailableError, match="a file of its own") as caught:
        tokens.create(store, config(), 60)
    assert 'store = "etcd"' in caught.value.remedy


@pytest.mark.parametrize("minutes", [0, -1, tokens.LONGEST + 1])
def test_how_long(store: SqliteStore, clustered: DaemonConfig, minutes: int) -> None:
    with pytest.raises(InvalidError, match=f"for {minutes} minutes"):
        tokens.create(store, clustered, minutes)
    assert every(store, JoinToken) == []


def test_a_certificate_that_is_gone(
    store: SqliteStore, clustered: DaemonConfig, tmp_path: Path
) -> None:
    (tmp_path / "key").unlink()
    with pytest.raises(UnavailableError, match=r"etcd\.key .* No such file"):
        tokens.create(store, clustered, 60)
    assert every(store, JoinToken) == []


@given(at=st.integers(min_value=0), what=st.sampled_from(["cut", "drop", "swap"]))
def test_damaged_tokens_are_refused(at: int, what: str) -> None:
    """Or read as what the damage did not touch the form of, which only the
    store can tell; there is no fault of any other kind."""
    token = tokens.write(INVITATION)
    at %= len(token)
    swapped = "A" if token[at] != "A" else "B"
    after = {"cut": "", "drop": token[at + 1 :], "swap": swapped + token[at + 1 :]}[what]
    try:
        found = tokens.read(token[:at] + after)
    except InvalidError as error:
        found = None
        said = str(error)
    assert found != INVITATION
    assert found is not None or INVITATION.secret not in said


INVITATION = tokens.Invitation(
    ("http://e:2379",), "/f/", "", "", "", "d", config().pools, "172.16.0.0/12", "100.64.0.0/12",
    20, (), "none", 51820, "fly", "direct", (), "none", "the-secret",
)  # fmt: skip


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


GOOD = json.loads(base64.urlsafe_b64decode(tokens.write(INVITATION) + "=="))


@pytest.mark.parametrize(
    ("token", "match"),
    [
        ("", "not a token"),
        ("é", "not a token"),
        ("====", "not a token"),
        (encoded(7), "not a token"),
        (encoded({}), "not a token"),
        (encoded({**GOOD, "v": 1}), "another version"),
        (encoded({**GOOD, "more": 1}), "not a token"),
        (encoded({key: GOOD[key] for key in GOOD if key != "secret"}), "not a token"),
        (encoded({**GOOD, "secret": 7}), "not a token"),
        (encoded({**GOOD, "port": True}), "not a token"),
        (encoded({**GOOD, "endpoints": [7]}), "not a token"),
        (encoded({**GOOD, "pools": {}}), "not a token"),
        (encoded({**GOOD, "pools": [1]}), "not a token"),
        (base64.urlsafe_b64encode(b"[" * 100_000).decode(), "not a token"),
    ],
)
def test_what_is_no_token(token: str, match: str) -> None:
    with pytest.raises(InvalidError, match=match):
        tokens.read(token)
