# SPDX-License-Identifier: Apache-2.0
"""The daemon's small parts: logs, notification, lock, main loop, reload."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf import logs
from flyebpf.config import DaemonConfig, DataplaneConfig, PoolsConfig
from flyebpf.daemon import notify
from flyebpf.daemon.lock import StateLock
from flyebpf.daemon.mainloop import MainLoop, StoreWatcher
from flyebpf.daemon.reload import merge
from flyebpf.errors import ConflictError, UnavailableError
from flyebpf.store.base import Put, StoreUnavailableError, Transaction
from flyebpf.store.sqlite import SqliteStore

CONFIG = DaemonConfig("h1", "ams", ("eth0",))


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("flyebpf.daemon.main", logging.INFO, "f", 1, message, args, None)


def test_logfmt_is_one_line_and_quotes() -> None:
    text = logs.Logfmt().format(record('bad "%s"\nnext', "x=1"))
    assert text.endswith('level=info part=daemon.main msg="bad \\"x=1\\"\\nnext"')
    assert logs.Logfmt().format(record("ready")).endswith("msg=ready")


def test_json_log_has_the_error() -> None:
    entry = record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        entry.exc_info = sys.exc_info()
    found = json.loads(logs.Json().format(entry))
    assert found["msg"] == "failed"
    assert "ValueError: why" in found["error"]


def test_notify_sends_to_the_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify.notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"
        notify.reloading()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notify.notify("READY=1")  # nobody listens any more: no error
    monkeypatch.setenv("NOTIFY_SOCKET", "not-a-path")
    notify.notify("READY=1")


def test_one_daemon_for_one_state_folder(tmp_path: Path) -> None:
    lock = StateLock(str(tmp_path / "state"))
    script = (
        "import sys; from flyebpf.daemon.lock import StateLock\n"
        "try: StateLock(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "state")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"ConflictError another daemon (process {os.getpid()})")
    lock.close()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_lock_in_a_folder_that_others_can_write(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    with pytest.raises(UnavailableError, match=r"can be written by others .* mode 0770"):
        StateLock(str(folder))
    assert list(folder.iterdir()) == []


def test_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "lock").symlink_to(victim)
    with pytest.raises(UnavailableError, match="cannot use the state folder"):
        StateLock(str(tmp_path / "state"))
    assert victim.read_text() == "precious"


def test_lock_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = StateLock(str(tmp_path / "state"))
    with pytest.raises(ConflictError):
        StateLock(str(tmp_path / "state"))
    lock.close()


def test_lock_conflicts_within_a_process_too(tmp_path: Path) -> None:
    first = StateLock(str(tmp_path))
    with pytest.raises(ConflictError):
        StateLock(str(tmp_path))
    first.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="state folder"):
        StateLock(str(tmp_path / "file"))


class TestMainLoop:
    def run(self, loop: MainLoop) -> threading.Thread:
        thread = threading.Thread(target=loop.run, args=(lambda: 5.0,))
        thread.start()
        return thread

    def test_calls_run_in_its_thread_and_answer(self) -> None:
        loop = MainLoop()
        thread = self.run(loop)
        assert loop.call(threading.get_ident, 2.0) == thread.ident
        with pytest.raises(ZeroDivisionError):
            loop.call(lambda: 1 // 0, 2.0)
        assert loop.call(lambda: "still there", 2.0) == "still there"
        loop.stop()
        thread.join(2)
        assert not thread.is_alive()
        loop.close()

    def test_a_busy_loop_does_not_hold_its_callers(self) -> None:
        loop = MainLoop()
        done: list[str] = []
        with pytest.raises(TimeoutError):
            loop.call(lambda: done.append("late"), 0.05)
        thread = self.run(loop)
        assert loop.call(lambda: "now", 2.0) == "now"
        assert done == [], "given up, so not done"
        loop.stop()
        thread.join(2)
        loop.close()

    def test_file_descriptors(self) -> None:
        loop = MainLoop()
        reader, writer = os.pipe()
        seen: list[bytes] = []

        def read() -> None:
            seen.append(os.read(reader, 10))
            loop.stop()

        loop.watch(reader, read)
        os.write(writer, b"x")
        loop.run(lambda: 5.0)
        assert seen == [b"x"]
        loop.close()
        os.close(reader)
        os.close(writer)

    def test_signals_end_it(self) -> None:
        script = (
            "import signal; from flyebpf.daemon.mainloop import MainLoop, on_signals\n"
            "loop = MainLoop(); on_signals({signal.SIGTERM: loop.stop})\n"
            "print('up', flush=True); loop.run(lambda: 60.0); print('down')"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == "down\n"


def test_the_watcher_wakes_for_changes_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", durable=False)
    woken = threading.Event()
    seen = [store.revision()]
    watcher = StoreWatcher(store, lambda: seen[0], woken.set)
    watcher.start()
    assert not woken.wait(0.2)
    store.commit(Transaction((), (Put("app", "a", {"x": 1}),)))
    assert woken.wait(2)
    seen[0] = store.revision()
    woken.clear()
    watcher.taken()
    assert not woken.wait(0.3)
    watcher.stop()
    store.close()


class AwayStore:
    """What a watcher needs of a store."""

    def __init__(self) -> None:
        self.asked = 0
        self.back = False

    def wait(self, since: int, timeout: float) -> bool:
        self.asked += 1
        if self.back:
            threading.Event().wait(0.01)
            return False
        raise StoreUnavailableError(f"etcd is away: {self.asked % 3}")


def test_the_watcher_says_when_the_store_goes_and_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "flyebpf.daemon.mainloop.time.sleep", lambda _: threading.Event().wait(0.01)
    )
    store = AwayStore()
    caplog.set_level(logging.INFO)
    watcher = StoreWatcher(store, lambda: 0, lambda: None)  # type: ignore[arg-type]
    watcher.start()
    deadline = time.monotonic() + 5.0
    while store.asked < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert watcher.error.startswith("etcd is away")
    store.back = True
    while watcher.error:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watcher.stop()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("the store cannot be watched: etcd is away")
    assert said[1].startswith("the store is watched again")


def test_reload_keeps_what_needs_a_restart_and_says_so() -> None:
    new = replace(
        CONFIG,
        uplinks=("eth1",),
        pools=PoolsConfig(anycast_v4=("203.0.113.0/24",)),
        dataplane=DataplaneConfig(flows=4096),
    )
    merged, texts = merge(CONFIG, new)
    assert merged == replace(CONFIG, uplinks=("eth1",), pools=new.pools)
    assert texts == [
        "uplinks: [eth0] → [eth1]",
        "pools.anycast_v4: [] → [203.0.113.0/24]",
        "dataplane.flows: 1048576 → 4096; takes effect after a restart",
    ]
    assert merge(CONFIG, CONFIG) == (CONFIG, [])
