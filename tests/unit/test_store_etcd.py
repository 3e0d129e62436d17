# SPDX-License-Identifier: Apache-2.0
"""What only the etcd engine has: lost answers, records that expire, limits,
TLS, and servers that are no etcd of ours."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from flyebpf.config import EtcdConfig
from flyebpf.errors import InvalidError, NotFoundError
from flyebpf.model.codec import encode
from flyebpf.model.records import Address, AddressKind, App, Cluster, Pool, Released
from flyebpf.ops import addresses, apps, orgs
from flyebpf.ops.transact import Tx
from flyebpf.store import etcdbuffer
from flyebpf.store.base import (
    ABSENT,
    CompactedError,
    Delete,
    Guard,
    GuardFailedError,
    Put,
    StoreUnavailableError,
    Transaction,
)
from flyebpf.store.etcd import EtcdStore
from flyebpf.store.etcdbuffer import Buffer
from flyebpf.store.etcdkeys import RawChange
from tests.etcdrig import EtcdCluster, EtcdMember, answer, etcd, free_ports
from tests.relay import Relay, relay

PATIENCE = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture
def wire(cluster: EtcdCluster) -> Iterator[Relay]:
    with relay(cluster.endpoints[0]) as made:
        yield made


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"{tmp_path}/"


@pytest.fixture
def make_store(cluster: EtcdCluster, prefix: str) -> Iterator[Callable[..., EtcdStore]]:
    opened: list[EtcdStore] = []

    def make(*endpoints: str, timeout: int = 5) -> EtcdStore:
        config = EtcdConfig(endpoints or cluster.endpoints, prefix=prefix, timeout=timeout)
        opened.append(EtcdStore(config))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def put(store: EtcdStore, name: str, value: int = 0, *guards: Guard, ttl: int | None = None) -> int:
    return store.commit(Transaction(guards, (Put("thing", name, {"value": value}, ttl),)))


def is_commit(request: bytes) -> bool:
    return b"/v3/kv/txn" in request and b"request_put" in request


# Answers that are lost.


def test_an_answer_is_lost_after_the_commit(
    make_store: Callable[..., EtcdStore], wire: Relay
) -> None:
    """It was applied: its own revision is returned, and it is not made again,
    although the guard would not hold for a second time."""
    store = make_store(wire.url)
    start = store.revision()
    wire.lose = is_commit
    revision = put(store, "a", 1, Guard("thing", "a", ABSENT))
    assert wire.done.is_set()
    entry = store.get("thing", "a")
    assert entry is not None
    assert entry.revision == revision
    assert [(c.revision, c.id) for c in store.changes(start)] == [(revision, "a")]
    put(store, "b")


def test_a_request_that_arrives_late_is_not_applied(
    make_store: Callable[..., EtcdStore], wire: Relay
) -> None:
    """The first attempt seems lost, the second is applied; then the first one
    reaches etcd after all."""
    store = make_store(wire.url)
    put(store, "z")
    wire.keep = is_commit
    put(store, "a", 1)
    assert wire.done.is_set()
    put(store, "a", 2)
    revision = store.revision()
    assert b"200 OK" in wire.release()[0]
    entry = store.get("thing", "a")
    assert entry is not None
    assert entry.body == {"value": 2}
    time.sleep(0.2)
    assert store.revision() == revision


def test_an_outcome_that_cannot_be_known_is_said(
    make_store: Callable[..., EtcdStore], wire: Relay
) -> None:
    """The answer is lost and then etcd too."""
    store = make_store(wire.url, timeout=2)
    put(store, "z")

    def lose(request: bytes) -> bool:
        wire.dead = is_commit(request)
        return wire.dead

    wire.lose = lose
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="not known whether the change was made"):
        put(store, "a", 1)
    assert time.monotonic() - begun < 4


# Records that expire.


def test_a_record_expires_and_a_renewed_one_does_not(
    make_store: Callable[..., EtcdStore], cluster: EtcdCluster
) -> None:
    store, other = make_store(), make_store()
    start = other.revision()
    put(store, "dies", ttl=2)
    revision = put(store, "lives", ttl=3)
    for _ in range(8):
        time.sleep(0.5)
        assert put(store, "lives", ttl=3) >= revision
    leases = answer(cluster.members[0], "/v3/lease/leases", {}).get("leases", [])
    assert len(leases) == 1, "one lease for each lifetime, and the other one is gone"
    changes = other.changes(start)
    assert [(c.id, c.body is None) for c in changes] == [
        ("dies", False),
        ("lives", False),
        ("dies", True),
    ], "renewing is no change"
    assert store.get("thing", "lives") is not None


def test_an_expired_or_deleted_record_is_put_again(make_store: Callable[..., EtcdStore]) -> None:
    store, other = make_store(), make_store()
    put(store, "a", ttl=1)
    revision = put(store, "b", ttl=60)
    deadline = time.monotonic() + PATIENCE
    while store.get("thing", "a") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    put(store, "a", ttl=1)
    assert store.get("thing", "a") is not None
    deleted = other.commit(Transaction(writes=(Delete("thing", "b"),)))
    while store.revision() < deleted:
        assert store.wait(revision, 5)
    put(store, "b", ttl=60)
    assert store.get("thing", "b") is not None
    put(store, "b", 7, ttl=60)
    entry = store.get("thing", "b")
    assert entry is not None
    assert entry.body == {"value": 7}, "a changed one is written"


# Limits.


def test_more_than_etcd_takes_is_refused_with_a_remedy(
    make_store: Callable[..., EtcdStore],
) -> None:
    store = make_store()
    start = store.revision()
    many = tuple(Put("thing", str(n), {}) for n in range(5000))
    with pytest.raises(InvalidError, match="5000 records, more than etcd takes") as caught:
        store.commit(Transaction(writes=many))
    assert "smaller steps" in caught.value.remedy
    guards = tuple(Guard("thing", str(n), ABSENT) for n in range(130))
    with pytest.raises(InvalidError, match="depends on 130 records"):
        store.commit(Transaction(guards, many[:1]))
    large = Put("thing", "large", {"text": "x" * 3_000_000})
    with pytest.raises(InvalidError, match="more than etcd takes") as caught:
        store.commit(Transaction(writes=(large,)))
    assert "max-request-bytes" in caught.value.remedy
    assert store.changes(start) == []
    put(store, "a")


@pytest.mark.parametrize(
    ("guards", "writes"),
    [(0, 4000), (1, 1), (1, 127), (1, 128), (1, 4000), (60, 370), (100, 370), (125, 1), (125, 250)],
)
def test_guards_and_writes_up_to_the_limit(
    make_store: Callable[..., EtcdStore], guards: int, writes: int
) -> None:
    store = make_store()
    start = store.revision()
    checks = tuple(Guard("thing", f"g{n}", ABSENT) for n in range(guards))
    puts = tuple(Put("thing", f"w{n}", {"n": n}) for n in range(writes))
    revision = store.commit(Transaction(checks, puts))
    assert [(c.revision, c.id) for c in store.changes(start)] == [(revision, p.id) for p in puts]
    if guards:
        last = f"g{guards - 1}"
        put(store, last)
        with pytest.raises(GuardFailedError, match=last):
            store.commit(Transaction(checks, puts))


def give(store: EtcdStore, app: str, numbers: range) -> list[str]:
    """Addresses that an app has, without the time that allocating them takes."""
    found = [str(IPv4Address("198.18.0.0") + number) for number in numbers]
    for start in range(0, len(found), 1000):
        records = [Address(text, app, AddressKind.V4) for text in found[start : start + 1000]]
        puts = tuple(Put(record.kind, record.ident, encode(record)) for record in records)
        store.commit(Transaction(writes=puts))
    return found


def test_hundreds_of_addresses_are_released_at_once(make_store: Callable[..., EtcdStore]) -> None:
    store = make_store()
    store.commit(Transaction(writes=(Put(Cluster.kind, "cluster", encode(Cluster(1))),)))
    orgs.create(store, "acme")
    apps.create(store, "web", "acme")
    mine, (other,) = give(store, "web", range(300)), give(store, "api", range(300, 301))
    with pytest.raises(NotFoundError, match=f"does not have the address {other}"):
        addresses.release(store, "web", [*mine, other])
    assert len(store.list(Address.kind)) == 301
    assert len(addresses.release(store, "web", mine)) == 300
    assert [entry.id for entry in store.list(Address.kind)] == [other]
    queued = [entry.body["address"] for entry in store.list(Released.kind)]
    assert set(queued) == set(mine)
    assert store.list(Pool.kind)[0].body["tail"] == 300


def test_an_app_with_many_addresses_is_destroyed(
    make_store: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it was interrupted half-way."""
    store = make_store()
    store.commit(Transaction(writes=(Put(Cluster.kind, "cluster", encode(Cluster(1))),)))
    orgs.create(store, "acme")
    apps.create(store, "web", "acme")
    give(store, "web", range(1200))
    commits, commit = iter(range(1)), Tx.commit

    def dying(tx: Tx) -> None:
        if tx._writes and next(commits, None) is None:
            raise StoreUnavailableError("etcd is away")
        commit(tx)

    with monkeypatch.context() as death:
        death.setattr(Tx, "commit", dying)
        with pytest.raises(StoreUnavailableError):
            apps.destroy(store, "web")
    assert len(store.list(Address.kind)) == 700
    assert store.get(App.kind, "web") is not None
    apps.destroy(store, "web")
    assert store.list(Address.kind) == []
    assert store.get(App.kind, "web") is None
    assert len({entry.body["address"] for entry in store.list(Released.kind)}) == 1200


def test_keys_of_others_are_not_ours(
    make_store: Callable[..., EtcdStore], cluster: EtcdCluster, prefix: str
) -> None:
    store = make_store()
    revision = put(store, "a")
    cluster.put(b"/foreign/a", b"{}")
    cluster.put(f"{prefix}records0".encode(), b"{}")
    cluster.put(prefix.encode(), b"{}")
    assert not store.wait(revision, 0.2)
    assert store.revision() == revision
    assert [entry.id for entry in store.snapshot()[1]] == ["a"]


def test_what_is_kept_of_the_changes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcdbuffer, "MOST_BYTES", 1000)
    buffer = Buffer(kept=1000)
    buffer.reset(10)
    for revision in range(11, 111):
        buffer.add([RawChange(revision, "thing", "a", '{"x":"' + "x" * 92 + '"}')])
    assert buffer.floor == 100
    assert len(buffer.after(100, 1000)) == 10
    with pytest.raises(CompactedError):
        buffer.after(99, 1000)


# Servers that are not what they should be.


@pytest.fixture
def impostor() -> Iterator[Callable[[bytes, int], str]]:
    """An HTTP server that answers everything with the same."""
    servers: list[HTTPServer] = []

    def make(body: bytes, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (json.dumps({"etcdserver": "3.3.27"}).encode(), "is etcd 3.3.27; 3.4 or later is needed"),
        (json.dumps({"etcdserver": "2.3.8"}).encode(), "is etcd 2.3.8; 3.4 or later is needed"),
        (b"<html>", "is no etcd: it does not tell its version"),
        (b'{"etcdserver": "new"}', "is no etcd: it does not tell its version"),
        (json.dumps({"etcdserver": "3.6.0-rc.1"}).encode(), "--enable-grpc-gateway"),
    ],
)
def test_a_server_of_another_sort_is_named(
    impostor: Callable[[bytes], str],
    make_store: Callable[..., EtcdStore],
    body: bytes,
    expected: str,
) -> None:
    url = impostor(body)
    store = make_store(url, timeout=1)
    for operation in (lambda: store.get("thing", "a"), store.revision, lambda: put(store, "a")):
        with pytest.raises(StoreUnavailableError) as caught:
            operation()
        assert url in caught.value.message
        assert expected in caught.value.message


def test_the_member_that_works_is_used(
    make_store: Callable[..., EtcdStore], cluster: EtcdCluster, impostor: Callable[[bytes], str]
) -> None:
    """The others are refused, silent, or something else."""
    (port,) = free_ports(1)
    old = impostor(json.dumps({"etcdserver": "3.3.27"}).encode())
    for _ in range(3):
        store = make_store(old, f"http://127.0.0.1:{port}", cluster.endpoints[0])
        put(store, "a")
        assert store.wait(0, 5)


# TLS.


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificate(folder: Path, name: str, issuer: str) -> None:
    """A certificate for 127.0.0.1, signed by ``issuer``."""
    key, request, made = (str(folder / f"{name}.{end}") for end in ("key", "csr", "pem"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", request, "-CA", str(folder / f"{issuer}.pem"),
            "-CAkey", str(folder / f"{issuer}.key"), "-CAcreateserial", "-days", "2",
            "-extfile", str(extensions), "-out", made)  # fmt: skip


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    for ca in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", f"/CN={ca}", "-days", "2", "-keyout", str(folder / f"{ca}.key"),
                "-out", str(folder / f"{ca}.pem"))  # fmt: skip
    certificate(folder, "member", "ca")
    certificate(folder, "host", "ca")
    certificate(folder, "stranger", "other")
    return folder


@pytest.fixture(scope="module")
def secure(pem: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A member that speaks TLS only and wants certificates of ours."""
    client, peer = free_ports(2)
    url = f"https://127.0.0.1:{client}"
    flags = ("--cert-file", str(pem / "member.pem"), "--key-file", str(pem / "member.key"),
             "--client-cert-auth", "--trusted-ca-file", str(pem / "ca.pem"))  # fmt: skip
    folder = tmp_path_factory.mktemp("secure")
    member = EtcdMember("m0", folder, url, f"http://127.0.0.1:{peer}", flags)
    member.start(f"m0={member.peer}")
    context = ssl.create_default_context(cafile=str(pem / "ca.pem"))
    context.load_cert_chain(pem / "host.pem", pem / "host.key")
    try:
        wait_for_tls(client, context)
        yield url
    finally:
        member.kill()


def wait_for_tls(port: int, context: ssl.SSLContext) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), 1) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1"),
            ):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_tls_with_a_client_certificate(secure: str, pem: Path) -> None:
    config = EtcdConfig(
        (secure,), str(pem / "ca.pem"), str(pem / "host.pem"), str(pem / "host.key")
    )
    store = EtcdStore(config)
    start = store.revision()
    put(store, "a")
    assert store.wait(start, 5)
    assert [change.id for change in store.changes(start)] == ["a"]
    store.close()


@pytest.mark.parametrize(
    ("ca", "name", "expected"),
    [
        ("other", "host", "has a certificate that etcd.ca does not vouch for"),
        ("ca", "stranger", "refuses our certificate"),
        ("ca", "", "refuses our certificate"),
        ("gone", "host", "TLS cannot be used: "),
    ],
)
def test_wrong_certificates_are_named(
    secure: str, pem: Path, ca: str, name: str, expected: str
) -> None:
    cert, key = (str(pem / f"{name}.{end}") if name else "" for end in ("pem", "key"))
    store = EtcdStore(EtcdConfig((secure,), str(pem / f"{ca}.pem"), cert, key, timeout=1))
    try:
        for operation in (lambda: store.get("thing", "a"), store.revision):
            with pytest.raises(StoreUnavailableError) as caught:
                operation()
            assert expected in caught.value.message
            assert secure in caught.value.message
    finally:
        store.close()


def test_http_where_tls_is_spoken_and_the_other_way_round(
    secure: str, pem: Path, cluster: EtcdCluster
) -> None:
    url = cluster.endpoints[0].replace("http:", "https:")
    store = EtcdStore(EtcdConfig((url,), str(pem / "ca.pem"), timeout=1))
    with pytest.raises(StoreUnavailableError, match=r"not speak TLS|it speaks none"):
        store.get("thing", "a")
    store.close()
    store = EtcdStore(EtcdConfig((secure.replace("https:", "http:"),), timeout=1))
    with pytest.raises(StoreUnavailableError, match="etcd is away"):
        store.get("thing", "a")
    store.close()
