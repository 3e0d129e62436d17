# SPDX-License-Identifier: Apache-2.0
"""Health checks: a look at real servers, the process that runs them, and what is
published of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyebpf.checks.probe import Spec, UndecidedError, probe
from flyebpf.config import ProxyConfig
from flyebpf.daemon.checks import ChecksAgent, merge
from flyebpf.drivers import checks
from flyebpf.drivers.checks import ChecksDriver
from flyebpf.model.checkrows import CheckRow
from flyebpf.model.codec import encode
from flyebpf.model.health import CheckResult, MachineChecks
from flyebpf.model.records import Check, Machine
from flyebpf.ops import health
from flyebpf.store.base import Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.records import PROXY, machine

HERE = "127.0.0.1"
SPEC = Spec("http", HERE, 0, HERE, interval=1, timeout=10, grace=0)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[int]:
    """Its port. Ends when all its connections have."""
    serving: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handle(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    made = await asyncio.start_server(accept, HERE, 0)
    async with made:
        yield made.sockets[0].getsockname()[1]
    while serving:
        await asyncio.wait(serving)


def saying(answer: bytes, heard: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(request)
        writer.write(answer)
        await writer.drain()

    return serve


async def asked(spec: Spec) -> str:
    """Ends when what it has opened is closed."""
    before = len(os.listdir("/proc/self/fd"))
    found = await probe(spec)
    deadline = time.monotonic() + 30
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < deadline, "a connection stays open"
        await asyncio.sleep(0.01)
    return found


def look(serve: Serve, **values: Any) -> str:
    async def run() -> str:
        async with server(serve) as port:
            return await asked(replace(SPEC, port=port, **values))

    return asyncio.run(run())


MANY = b"HTTP/1.1 100 Continue\r\n" + b"a: b\r\n" * 101 + b"\r\nHTTP/1.1 200 OK\r\n\r\n"
ANSWERS = [
    ("passes", b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    ("passes without a reason", b"HTTP/1.0 200\r\n\r\n", ""),
    ("after interim answers", b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
    ("redirects are not followed", b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", "HTTP 302"),
    ("fails", b"HTTP/1.1 503 Busy\r\n\r\n", "HTTP 503"),
    ("another protocol", b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
    ("nothing", b"", "no HTTP"),
    ("nonsense", b"HTTP/1.1 abc\r\n", "no HTTP"),
    ("an endless line", b"x" * 100_000, "no HTTP"),
    ("no end of interim answers", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, "no HTTP"),
    ("no end of headers", MANY, "no HTTP"),
]


@pytest.mark.parametrize(("answer", "why"), [a[1:] for a in ANSWERS], ids=[a[0] for a in ANSWERS])
def test_answers(answer: bytes, why: str) -> None:
    found = look(saying(answer))
    assert (found == "") if not why else (why in found), found


def test_the_request() -> None:
    heard: list[bytes] = []
    values = {"method": "HEAD", "path": "/up?x=1", "headers": [["Host", "a.b"], ["X-Y", "1"]]}
    assert look(saying(b"HTTP/1.1 200 OK\r\n\r\n", heard), **values) == ""
    first, *headers = heard[0].decode().split("\r\n")
    assert first == "HEAD /up?x=1 HTTP/1.1"
    assert sorted(line for line in headers if line.startswith(("Host", "X-Y"))) == [
        "Host: a.b",
        "X-Y: 1",
    ]


def test_tcp_and_silence() -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    assert look(silent, type="tcp") == ""
    assert look(silent, timeout=0.05) == "no answer within 0.05 s"

    async def nobody() -> str:
        async with server(silent) as port:
            pass
        return await asked(replace(SPEC, port=port, type="tcp"))

    assert asyncio.run(nobody()) == "cannot connect: Connection refused"


def test_what_is_this_hosts_fault_says_nothing() -> None:
    with pytest.raises(UndecidedError, match="Cannot assign requested address"):
        asyncio.run(asked(replace(SPEC, port=9, source="203.0.113.1", type="tcp")))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(cert), "-days", "9", "-subj", "/CN=x"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def look_at_tls(tls: ssl.SSLContext, **values: Any) -> str:
    """At a server that serves one connection."""

    def serve() -> None:
        connection, _ = listening.accept()
        with (
            connection,
            contextlib.suppress(OSError),
            tls.wrap_socket(connection, server_side=True) as stream,
        ):
            stream.recv(65536)
            stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with socket.create_server((HERE, 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        found = asyncio.run(asked(replace(SPEC, port=port, protocol="https", **values)))
        thread.join()
    return found


def test_https(tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    assert "certificate is not valid" in look_at_tls(tls)
    assert look_at_tls(tls, tls_skip_verify=True, tls_server_name="a.example.com") == ""
    assert names[-1] == "a.example.com"


class Watch:
    """What a driver has been told by its process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.results: dict[str, list[str]] = {}

    def take(self, results: Any) -> None:
        with self._changed:
            for key, why in results.items():
                self.results.setdefault(key, []).append(why)
            self._changed.notify_all()

    def until(self, count: int, key: str = "m1/web") -> list[str]:
        """So many results of a check."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.results.get(key, ())) >= count, 30)
            return list(self.results[key])


@pytest.fixture
def driver() -> Iterator[ChecksDriver]:
    made = ChecksDriver(replace(PROXY, proxy=ProxyConfig(user="")))
    yield made
    made.close()


def row(port: int, name: str = "web") -> CheckRow:
    check = Check("http", interval=50, timeout=5_000, grace_period=10)
    return CheckRow("m1", name, HERE, port, HERE, check)


class Answering:
    """A server that answers with a status, in a thread."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        ready: threading.Event = threading.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked += 1
            await saying(b"HTTP/1.1 %d X\r\n\r\n" % self.status)(reader, writer)

        async def run() -> None:
            async with server(serve) as self.port:
                ready.set()
                await self._ended.wait()

        def work() -> None:
            with contextlib.closing(self._loop):
                self._loop.run_until_complete(run())

        self._thread = threading.Thread(target=work)
        self._thread.start()
        assert ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Answering]:
    made = Answering()
    yield made
    made.close()


def test_only_transitions_are_told(driver: ChecksDriver, web: Answering) -> None:
    watch = Watch()
    driver.found = watch.take
    driver.apply(CheckRow, [row(web.port)], [])
    assert watch.until(1) == [""]
    asked = web.asked
    deadline = time.monotonic() + 30
    while web.asked < asked + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watch.results["m1/web"] == [""]
    web.status = 500
    assert watch.until(2) == ["", "HTTP 500; 2xx passes"]
    web.status = 200
    assert watch.until(3)[-1] == ""
    assert driver.keys() == {"m1/web"}


def test_a_process_that_ends_is_told_all_again(
    driver: ChecksDriver, web: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "RETRY", 0.01)
    watch = Watch()
    driver.found = watch.take
    driver.apply(CheckRow, [row(web.port), row(web.port, "other")], [])
    watch.until(1)
    watch.until(1, "m1/other")
    driver.apply(CheckRow, [], [("m1", "other")])
    process = driver._process
    assert process is not None
    process.kill()
    assert watch.until(2) == ["", ""]
    assert driver.restarts == 1
    assert len(watch.results["m1/other"]) == 1


OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def results(**passing: bool) -> tuple[CheckResult, ...]:
    return tuple(CheckResult(name, ok, "" if ok else "why", OLD) for name, ok in passing.items())


def test_what_is_published() -> None:
    published = {"m1": MachineChecks("m1", results(a=True, b=False, gone=False))}
    published["m2"] = MachineChecks("m2", results(a=True))
    keys = frozenset(("m1/a", "m1/b", "m1/c", "m3/a"))
    same, other = CheckResult("a", True, "", NEW), CheckResult("b", True, "", NEW)
    merged = merge(published, {"m1/a": same, "m1/b": other, "m9/x": same}, keys)
    assert merged == {"m1": (*results(a=True), other), "m2": ()}
    assert merge(published, {}, keys)["m1"] == results(a=True, b=False), "not known yet"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path / "store.db")
    yield made
    made.close()


def put(store: SqliteStore, record: Machine) -> None:
    store.commit(Transaction((), (Put(record.kind, record.ident, encode(record)),)))


def test_what_an_earlier_daemon_left(store: SqliteStore, driver: ChecksDriver) -> None:
    """Of a machine that was stopped while there was no daemon, say."""
    one = machine(1)
    put(store, one)
    health.publish(store, "h1", {one.id: results(a=False)})
    (entry,) = store.list(MachineChecks.kind)
    found = {one.id: MachineChecks(one.id, results(a=False))}
    agent = ChecksAgent("h1", store, driver, lambda: found)
    agent.start()
    try:
        deadline = time.monotonic() + 30
        while store.list(MachineChecks.kind) and time.monotonic() < deadline:
            store.wait(entry.revision, 0.1)
    finally:
        agent.stop()
    assert list(store.list(MachineChecks.kind)) == []


def test_publishing(store: SqliteStore) -> None:
    one, other = machine(1), machine(2, host="h2")
    put(store, one)
    put(store, other)
    found = results(a=False)
    health.publish(store, "h1", {one.id: found, other.id: found, "f" * 14: found})
    (entry,) = store.list(MachineChecks.kind)
    assert (entry.id, json.loads(json.dumps(entry.body))["results"][0]["output"]) == (one.id, "why")
    health.publish(store, "h1", {one.id: ()})
    assert list(store.list(MachineChecks.kind)) == []
