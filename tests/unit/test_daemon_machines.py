# SPDX-License-Identifier: Apache-2.0
"""The commands that start and stop machines, run for real."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.config import DaemonConfig, MachinesConfig
from flyebpf.daemon import machine_commands
from flyebpf.daemon.machines import MachineAgent
from flyebpf.errors import FlyebpfError
from flyebpf.model import commands
from flyebpf.model.records import Machine, MachineState
from flyebpf.model.state import State
from flyebpf.ops import cluster, machines, power
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

PATIENCE = 30.0


def shell(text: str) -> tuple[str, ...]:
    """A command that is a script of the test's."""
    return ("/bin/sh", "-ec", text, "driver", "{id}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


@contextmanager
def agent(store: SqliteStore, wanted: MachinesConfig) -> Iterator[MachineAgent]:
    """One that follows the store, as the daemon's main thread has it do."""
    given: DaemonConfig = replace(config(), machines=wanted)
    cluster.ensure(store, given)
    made = MachineAgent(given, store)
    revision, entries = store.snapshot()
    state = State.load(revision, entries)
    made.loaded(state)
    ended = threading.Event()

    def follow() -> None:
        while not ended.is_set():
            if store.wait(state.revision, 0.1):
                made.changed(state, [state.apply(c) for c in store.changes(state.revision)])

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield made
    finally:
        ended.set()
        thread.join()
        made.stop()
        until(lambda: not any(t.name.startswith("machine-") for t in threading.enumerate()))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def add(store: SqliteStore) -> Machine:
    return machines.add(store, config(), "web", interface="tap0", mac="02:00:00:00:00:01")


def test_no_room_for_its_output(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not `starting` for ever."""

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    ident = add(store).id
    power.request(store, ident, MachineState.STOPPED)
    with agent(store, MachinesConfig(start=shell("true"))):
        power.request(store, ident, MachineState.STARTED)
        with pytest.raises(FlyebpfError, match="No space left"):
            power.settled(store, ident, PATIENCE)


def test_placeholders_and_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = MachinesConfig(
        start=("/bin/sh", "-c", f'echo "$1|$2|$FLYEBPF_ACTION|$(env | wc -l)" > {out}; env',
               "x", "{id} of {app}", "{interface}"),
    )  # fmt: skip
    machine = Machine("0123456789abcd", "web", "h1", "ams", "tap0", "02:00:00:00:00:01",
                      "172.16.0.2", "172.16.0.3", 16, name="$(reboot)")  # fmt: skip
    said = machine_commands.run(wanted, "start", commands.values(machine, "fdaa::1"))
    assert out.read_text().startswith("0123456789abcd of web|tap0|start|")
    assert "FLYEBPF_MACHINE_NAME=$(reboot)" in said
    assert "FLYEBPF_MACHINE_IP_6PN=fdaa::1" in said
    names = {line.partition("=")[0] for line in said.splitlines()}
    known = {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}
    assert {name for name in names if not name.startswith("FLYEBPF_")} <= known


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo first; echo no disk >&2; exit 3", "start: exit 3: no disk"),
        ("exit 1", "start: exit 1: it said nothing"),
        ("kill -9 $$", "start: ended by signal 9: it said nothing"),
    ],
)
def test_failures(text: str, error: str) -> None:
    with pytest.raises(FlyebpfError) as found:
        machine_commands.run(MachinesConfig(start=shell(text)), "start", {"id": "x"})
    assert found.value.message == error


def test_no_program() -> None:
    with pytest.raises(FlyebpfError, match="start: /nowhere: No such file"):
        machine_commands.run(MachinesConfig(start=("/nowhere",)), "start", {})


def test_a_command_that_takes_too_long(tmp_path: Path) -> None:
    """It ends with what it has started."""
    pids = tmp_path / "pids"
    wanted = MachinesConfig(start=shell(f"sleep 600 & echo $! > {pids}; sleep 600"), timeout=1)
    with pytest.raises(FlyebpfError, match="start: not done after 1 s"):
        machine_commands.run(wanted, "start", {"id": "x"})
    until(lambda: not Path(f"/proc/{int(pids.read_text())}").exists())


def test_what_a_command_leaves_behind(tmp_path: Path) -> None:
    """A VMM goes on, with the command's output open, and nobody waits for it."""
    pid = tmp_path / "pid"
    text = f"setsid sh -c 'echo $$ > {pid}; exec sleep 600' & until [ -s {pid} ]; do :; done"
    try:
        machine_commands.run(MachinesConfig(start=shell(text), timeout=30), "start", {"id": "x"})
        assert Path(f"/proc/{int(pid.read_text())}").exists()
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_stop_and_start(store: SqliteStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write = shell(f'echo "$FLYEBPF_ACTION $1" >> {log}')
    with agent(store, MachinesConfig(start=write, stop=write)):
        machine = add(store)
        power.request(store, machine.id, "stopped")
        assert power.settled(store, machine.id, PATIENCE).state is MachineState.STOPPED
        power.request(store, machine.id, "started")
        assert power.settled(store, machine.id, PATIENCE).state is MachineState.STARTED
    assert log.read_text() == f"stop {machine.id}\nstart {machine.id}\n"


def test_an_error_is_told(store: SqliteStore) -> None:
    wanted = MachinesConfig(start=shell("true"), stop=shell("echo busy; exit 1"),
                            status=shell("echo suspended"))  # fmt: skip
    with agent(store, wanted) as made:
        machine = add(store)
        power.request(store, machine.id, "stopped")
        until(lambda: machines.get(store, machine.id).error != "")
        found = machines.get(store, machine.id)
        assert (found.state, found.error) == (MachineState.SUSPENDED, "stop: exit 1: busy")
        until(lambda: bool(list(made.problems())))
        (problem,) = made.problems()
        assert problem.object == f"machine {machine.id}"
        assert problem.message == "stop: exit 1: busy"


def test_one_at_a_time(store: SqliteStore, tmp_path: Path) -> None:
    """Orders that follow each other quickly end with the last one, and no two commands
    of a machine ever run at once."""
    lock = tmp_path / "lock"
    text = f"mkdir {lock}; sleep 0.01; rmdir {lock}"
    with agent(store, MachinesConfig(start=shell(text), stop=shell(text))):
        machine = add(store)
        for number in range(20):
            power.request(store, machine.id, "started" if number % 2 else "stopped")
        assert power.settled(store, machine.id, PATIENCE).state is MachineState.STARTED


def test_an_order_of_a_daemon_before(store: SqliteStore) -> None:
    cluster.ensure(store, replace(config(), machines=MachinesConfig(start=shell("true"))))
    machine = add(store)
    with pytest.raises(FlyebpfError):
        power.request(store, machine.id, "stopped")
    both = MachinesConfig(start=shell("true"), stop=shell("true"))
    cluster.ensure(store, replace(config(), machines=both))
    power.request(store, machine.id, "stopped")
    with agent(store, both):
        assert power.settled(store, machine.id, PATIENCE).state is MachineState.STOPPED


def test_draining_is_waited_for(store: SqliteStore, tmp_path: Path) -> None:
    """And given up when the order is taken back: then no command runs."""
    log = tmp_path / "log"
    log.touch()
    write = shell(f"echo $FLYEBPF_ACTION >> {log}")
    busy = threading.Event()
    with agent(store, MachinesConfig(start=write, stop=write, drain=600)) as made:
        asked = threading.Event()

        def still(_: Machine) -> bool:
            asked.set()
            return not busy.is_set()

        made.busy = still
        machine = add(store)
        power.request(store, machine.id, "stopped")
        assert asked.wait(PATIENCE)
        assert log.read_text() == ""
        power.request(store, machine.id, "started")
        assert power.settled(store, machine.id, PATIENCE).state is MachineState.STARTED
        assert log.read_text() == "start\n"
        power.request(store, machine.id, "stopped")
        busy.set()
        assert power.settled(store, machine.id, PATIENCE).state is MachineState.STOPPED
