# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
import time
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyebpf import collector
from flyebpf.errors import InvalidError
from flyebpf.model.codec import decode, encode
from flyebpf.model.records import (
    KINDS,
    AnyRecord,
    App,
    Check,
    Deployment,
    HttpOptions,
    Machine,
    MachineState,
    Port,
    ReplayCache,
    Service,
    TlsOptions,
)

MACHINE = Machine(
    id="0123456789abcd",
    app="web",
    host="h1",
    region="ams",
    interface="tap0",
    mac="02:00:00:00:00:01",
    private_ip="172.16.0.2",
    services_ip="172.16.0.3",
    number=1,
    state=MachineState.STOPPED,
    metadata={"k": "v"},
)
DEPLOYMENT = Deployment(
    "web",
    (
        Service(
            "tcp",
            8080,
            (
                Port(
                    443,
                    443,
                    ("http", "tls"),
                    tls_options=TlsOptions(alpn=("h2",)),
                    http_options=HttpOptions(
                        response_headers=(("X", ("a", "b")), ("Y", ())),
                        replay_cache=(ReplayCache("/", "cookie", "id"),),
                    ),
                ),
            ),
            checks=(Check("http", headers=(("A", "b"),)),),
        ),
    ),
)

RECORDS = st.one_of(*(st.from_type(cls) for cls in KINDS.values()))


@given(record=RECORDS)
@settings(max_examples=300, deadline=None)
def test_every_record_survives_json(record: AnyRecord) -> None:
    body = json.loads(json.dumps(encode(record)))
    assert decode(record.kind, body) == record
    assert encode(decode(record.kind, body)) == body


def test_encode_writes_every_field_and_plain_json() -> None:
    body = encode(MACHINE)
    assert set(body) == {field.name for field in fields(Machine)}
    assert type(body["state"]) is str
    assert body["metadata"] is not MACHINE.metadata
    headers = encode(DEPLOYMENT)["services"][0]["ports"][0]["http_options"]["response_headers"]
    assert headers == [["X", ["a", "b"]], ["Y", []]]


def test_missing_keys_take_their_defaults() -> None:
    assert decode("app", {"name": "web", "org": "acme"}) == App("web", "acme", "default")
    minimal = {key: value for key, value in encode(MACHINE).items() if key != "metadata"}
    decoded = decode("machine", minimal)
    assert isinstance(decoded, Machine)
    assert decoded.metadata == {}


def changed(record: AnyRecord, *path: Any, to: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(encode(record)))
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return body


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("app", {"name": "web"}, "stored app 'web': org: this key is missing"),
        ("app", {"name": "web", "org": "a", "x": 1}, "stored app 'web': unknown key 'x'"),
        ("app", {"name": 1, "org": "a"}, "stored app 1: name: must be str, not 1"),
        ("app", [], "stored app: must be an object"),
        ("nonsense", {}, "unknown kind 'nonsense'"),
        ("machine", changed(MACHINE, "number", to=True), "number: must be int, not True"),
        ("machine", changed(MACHINE, "cordoned", to=0), "cordoned: must be bool, not 0"),
        ("machine", changed(MACHINE, "state", to="on"), "state: must be one of started,"),
        ("machine", changed(MACHINE, "state", to=[]), "state: must be one of"),
        ("machine", changed(MACHINE, "metadata", to=[]), "metadata: must be an object"),
        ("machine", changed(MACHINE, "metadata", "k", to=1), "metadata: must be str"),
        ("deployment", changed(DEPLOYMENT, "services", to={}), "services: must be a list"),
        (
            "deployment",
            changed(DEPLOYMENT, "services", 0, "ports", 0, "end", to="443"),
            "stored deployment 'web': services[0].ports[0].end: must be int",
        ),
        (
            "deployment",
            changed(DEPLOYMENT, "services", 0, "ports", 0, "tls_options", "colour", to=1),
            "tls_options: unknown key 'colour'",
        ),
        (
            "deployment",
            changed(DEPLOYMENT, "services", 0, "checks", 0, "headers", 0, to=["A"]),
            "must be a list of 2 items",
        ),
    ],
)
def test_what_cannot_be_read_is_named(kind: str, body: Any, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        decode(kind, body)
    assert message in caught.value.message
    assert caught.value.remedy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_garbage_is_invalid_and_nothing_else(kind: str, data: st.DataObject) -> None:
    keys = st.sampled_from([field.name for field in fields(KINDS[kind])]) | st.text(max_size=5)
    body: Any = data.draw(st.dictionaries(keys, JSON) | JSON)
    with contextlib.suppress(InvalidError):
        record = decode(kind, body)
        assert decode(kind, encode(record)) == record


def test_100000_records_decode_in_well_under_a_second() -> None:
    bodies = [encode(MACHINE) for _ in range(100_000)]
    with collector.paused():
        started = time.process_time()
        for body in bodies:
            decode("machine", body)
        spent = time.process_time() - started
    assert spent < 2, "four times what it takes on a slow machine"


def test_what_is_secret_is_not_quoted_when_it_is_wrong() -> None:
    body = {
        "name": "default",
        "chain": "x",
        "not_after": "",
        "key": ["-----BEGIN PRIVATE KEY-----"],
    }
    with pytest.raises(InvalidError, match="key: is not what it must be") as caught:
        decode("self_signed", body)
    assert "BEGIN" not in str(caught.value)
    assert caught.value.__cause__ is None
