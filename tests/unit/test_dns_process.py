# SPDX-License-Identifier: Apache-2.0
"""The DNS process and the daemon's side of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.config import LogConfig
from flyebpf.dns import frames
from flyebpf.dns.client import DnsClient
from flyebpf.dns.forward import ForwardConfig
from flyebpf.dns.limits import LimitsConfig
from flyebpf.dns.server import ServerConfig
from flyebpf.errors import UnavailableError
from flyebpf.model.codec import encode
from flyebpf.model.records import App
from flyebpf.model.state import Update
from tests.dns_rig import ALICE, ID, MALLORY, STOPPED, WORLD, Reply, at, machine, question, reply


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return int(sock.getsockname()[1])


def until(what: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


class Daemon:
    """As the real one uses a client: it loads when it is told to."""

    def __init__(self, config: frames.ProcessConfig) -> None:
        self.records = {(r.kind, r.ident): r for r in WORLD}
        self.wanted = threading.Event()
        self.client = DnsClient(config, self.wanted.set)
        self.client.start()

    def ready(self, revision: int) -> None:
        assert self.wanted.wait(20), self.client.problem
        self.wanted.clear()
        self.client.load(revision, self.records.values())
        until(lambda: self.client.revision == revision)

    def ask(self, name: str, type: str = "AAAA") -> Reply:
        found = self.client.ask(question(name, type), ALICE)
        assert found is not None
        return reply(found)

    @property
    def pid(self) -> int:
        connection = frames.Connection(self.client.config.socket)
        try:
            return connection.hello().pid
        finally:
            connection.close()


@pytest.fixture
def config(tmp_path: Path) -> frames.ProcessConfig:
    return frames.ProcessConfig(str(tmp_path / "dns.sock"), ("::1",), free_port(), user="")


@pytest.fixture
def daemon(config: frames.ProcessConfig) -> Iterator[Daemon]:
    made = Daemon(config)
    yield made
    made.client.stop_process()
    made.client.close()
    for child in made.client._children:
        child.wait(10)


def test_configurations_survive_json(config: frames.ProcessConfig) -> None:
    full = replace(
        config,
        server=ServerConfig(
            ForwardConfig(("192.0.2.1", "::1"), deadline=2.5),
            LimitsConfig(rate=5.5, burst=7),
            ("ams fra 8",),
        ),
        log=LogConfig("debug", "json"),
    )
    assert frames.ProcessConfig.from_json(full.to_json()) == full
    assert full.digest() == frames.ProcessConfig.from_json(full.to_json()).digest()
    assert full.digest() != config.digest()


def test_records_changes_and_questions(daemon: Daemon) -> None:
    daemon.ready(7)
    assert len(daemon.ask("web.internal").data) == 3
    assert daemon.ask("secret.internal").rcode == "NXDOMAIN"
    assert daemon.client.ask(question("secret.internal"), MALLORY) is not None
    assert daemon.client.ask(b"x", ALICE) is None
    one = machine(16)
    daemon.client.feed(8, [Update("machine", one.id, one, replace(one, state=STOPPED))])
    until(lambda: daemon.client.revision == 8)
    assert at(16) not in daemon.ask("web.internal").data
    daemon.client.feed(9, [Update("machine", one.id, one, None), Update("pool", "x", None, None)])
    daemon.client.feed(10, [])
    until(lambda: daemon.client.revision == 10)
    assert ID(16) not in daemon.ask("all.vms.web.internal", "TXT").text
    found = daemon.client.metrics()
    assert found["revision"] == 10
    assert found["names"]["machines"] == 6
    assert ["AAAA", "NOERROR", "internal", 3] in found["queries"]


def test_a_process_that_dies_is_started_again_and_fed(daemon: Daemon) -> None:
    daemon.ready(1)
    first = daemon.pid
    os.kill(first, signal.SIGKILL)
    daemon.ready(2)
    assert daemon.pid != first
    assert len(daemon.ask("web.internal").data) == 3


def test_a_new_daemon_adopts_the_process_which_never_stops_answering(daemon: Daemon) -> None:
    daemon.ready(1)
    first = daemon.pid
    daemon.client.close()
    connection = frames.Connection(daemon.client.config.socket)
    try:
        asked = {"query": question("web.internal").hex(), "asker": list(ALICE)}
        assert len(reply(bytes.fromhex(connection.call("ask", **asked)["answer"])).data) == 3
        second = Daemon(daemon.client.config)
        second.records = {k: r for k, r in second.records.items() if r != App("empty", "acme")}
        second.ready(2)
        assert second.pid == first
        assert second.ask("empty.internal").rcode == "NXDOMAIN"
        second.client.close()
    finally:
        connection.close()


def test_another_configuration_takes_over(daemon: Daemon) -> None:
    daemon.ready(1)
    first, config = daemon.pid, daemon.client.config
    daemon.client.close()
    second = Daemon(replace(config, server=ServerConfig(limits=LimitsConfig(rate=5))))
    second.ready(1)
    assert second.pid != first
    daemon.client._children[0].wait(10)
    assert len(second.ask("web.internal").data) == 3
    second.client.close()
    second.client.stop_process()
    second.client._children[0].wait(10)
    daemon.client.stop_process = lambda: None  # type: ignore[method-assign]


def test_nonsense_is_refused_and_does_no_harm(daemon: Daemon) -> None:
    daemon.ready(1)
    connection = frames.Connection(daemon.client.config.socket)
    for op, values in {
        "nothing": {},
        "ask": {"query": "zz", "asker": [1, 2, 3]},
        "records": {"records": [1]},
        "commit": {},
    }.items():
        with pytest.raises(UnavailableError, match="refuses"):
            connection.call(op, **values)
    bad = ["machine", "x", {**encode(machine(20)), "state": "odd"}]
    connection.call("records", records=[bad], revision=3)
    connection.close()
    assert len(daemon.ask("web.internal").data) == 3


def test_a_half_told_state_is_not_used(daemon: Daemon) -> None:
    daemon.ready(1)
    connection = frames.Connection(daemon.client.config.socket)
    connection.call("begin")
    connection.call("records", records=list(frames.records(WORLD[:3])))
    connection.close()
    assert len(daemon.ask("web.internal").data) == 3


def test_what_cannot_start_says_why(config: frames.ProcessConfig, tmp_path: Path) -> None:
    missing = replace(config, socket=str(tmp_path / "missing" / "dns.sock"))
    client = DnsClient(missing, lambda: None)
    client.start()
    until(lambda: "does not start" in client.problem)
    client.close()
    with pytest.raises(UnavailableError, match="does not answer"):
        client.metrics()


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_it_logs_as_the_daemon_does(config: frames.ProcessConfig, form: str) -> None:
    missing = replace(config, socket="/nowhere/dns.sock", log=LogConfig(format=form))
    command = [sys.executable, "-m", "flyebpf.dns.process", missing.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    if form == "json":
        fields = json.loads(line)
    else:
        fields = dict(word.split("=", 1) for word in shlex.split(line))
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", fields.pop("time"))
    assert fields == {
        "level": "error",
        "part": "dns.process",
        "msg": "DNS cannot make its socket /nowhere/dns.sock: No such file or directory"
        "; see that its folder exists",
    }


def test_a_process_that_knows_nothing_is_silent(daemon: Daemon) -> None:
    """Every name would be one that does not exist. What comes waits until the
    daemon has told what there is."""
    assert daemon.wanted.wait(20), daemon.client.problem
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.sendto(question("web.internal"), ("::1", daemon.client.config.port))
        time.sleep(0.2)
        assert daemon.client.metrics()["counts"]["stranger"] == 0
        daemon.ready(1)
        until(lambda: daemon.client.metrics()["counts"]["stranger"] == 1)  # ::1 is none
