# SPDX-License-Identifier: Apache-2.0
"""The lab's state file, and the processes that it records."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from flyebpf.errors import ConflictError, FlyebpfError, InvalidError, NotFoundError
from flyebpf.lab import process, state
from flyebpf.lab.state import Client, Host, Lab, Member, Paths, Process, Vm


def full_lab() -> Lab:
    lab = Lab(name="x", router="x-router", complete=True)
    lab.clients["client1"] = Client("client1", "x-client1", "192.0.2.2")
    lab.hosts["host1"] = Host(
        "host1", 1, "x-host1", "198.51.100.2", "ams", "203.0.113.0/28", "/s", Process(5, 6)
    )
    lab.members["etcd1"] = Member("etcd1", 1, "x-etcd1", "198.18.0.101", Process(7, 8))
    lab.vms["web1"] = Vm("web1", "host1", "web", "x-web1", "vm-web1", "02:00:00:00:00:01")
    lab.ledger.namespaces.append("x-router")
    return lab


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    where, lab = Paths(tmp_path), full_lab()
    state.save(where, lab)
    assert state.load(where) == lab
    assert [path.name for path in tmp_path.iterdir()] == ["lab.json"]


def test_every_node_has_its_namespace() -> None:
    assert full_lab().namespaces() == {
        "router": "x-router",
        "client1": "x-client1",
        "etcd1": "x-etcd1",
        "host1": "x-host1",
        "web1": "x-web1",
    }


def test_no_lab_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="flyebpf lab up"):
        state.load(Paths(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 99}', '{"version": 1, "name": "x"}', '{"version": 1']
)
def test_a_state_that_cannot_be_read_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text(text)
    with pytest.raises(FlyebpfError, match=r"lab\.json cannot be read"):
        state.load(Paths(tmp_path))


def test_a_folder_in_use_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="exists already"):
        state.create_directory(Paths(tmp_path))


@pytest.mark.parametrize("name", ["a/b", "a b", "x" * 17, "..", "é"])
def test_a_name_that_cannot_be_part_of_a_namespaces(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYEBPF_LAB_NAME", name)
    with pytest.raises(InvalidError, match="FLYEBPF_LAB_NAME"):
        state.lab_name()


def test_the_folder_follows_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLYEBPF_LAB_DIR", raising=False)
    monkeypatch.delenv("FLYEBPF_LAB_NAME", raising=False)
    assert state.paths().root == Path("/run/flyebpf-lab")
    monkeypatch.setenv("FLYEBPF_LAB_NAME", "mine")
    assert state.paths().root == Path("/run/flyebpf-lab-mine")
    monkeypatch.setenv("FLYEBPF_LAB_DIR", "/tmp/elsewhere")
    assert state.paths().root == Path("/tmp/elsewhere")


def start(log: Path, code: str) -> Process:
    return process.start([sys.executable, "-c", code], os.environ, log)


def reap(started: Process) -> None:
    """As the test is the parent; a command that ends leaves that to init."""
    os.waitpid(started.pid, 0)


def test_a_process_is_started_with_its_log_and_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = start(log, "import time; print('hello', flush=True); time.sleep(60)")
    deadline = time.monotonic() + 10
    while "hello" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.alive(started)
    assert os.getsid(started.pid) == started.pid
    assert "hello" in process.tail(log)
    assert process.stop(started)
    assert not process.alive(started)
    assert not process.stop(started)
    reap(started)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); "
    started = start(log, ignore + "time.sleep(60)")
    while "x" not in log.read_text():
        time.sleep(0.01)
    assert process.stop(started, patience=0.2)
    _, status = os.waitpid(started.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_process_is_paused_and_goes_on(tmp_path: Path) -> None:
    started = start(tmp_path / "log", "import time; time.sleep(60)")
    try:
        assert process.state(started) == "up"
        process.pause(started)
        while process.state(started) != "paused":
            time.sleep(0.01)
        assert process.alive(started)
        assert process.resume(started)
        assert not process.resume(started)
    finally:
        process.kill(started)
    assert process.state(started) == "ended"
    reap(started)


def test_processes_known_by_pid_are_ended(tmp_path: Path) -> None:
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); "
    stubborn = start(tmp_path / "log", ignore + "time.sleep(60)")
    other = start(tmp_path / "other", "import time; time.sleep(60)")
    while "x" not in (tmp_path / "log").read_text():
        time.sleep(0.01)
    assert process.end_all([stubborn.pid, other.pid], patience=0.2) == 2
    assert not process.alive(stubborn)
    assert not process.alive(other)
    for started in (stubborn, other):
        reap(started)
    assert process.end_all([stubborn.pid]) == 0


def test_another_process_with_the_same_pid_is_left_alone() -> None:
    other = Process(os.getpid(), 1)
    assert not process.alive(other)
    assert not process.stop(other)
    process.kill(other)
