# SPDX-License-Identifier: Apache-2.0
"""Tables, the terminal, and the small functions of single commands."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flyebpf
from flyebpf.api.backend import DropCounter
from flyebpf.api.client import Client
from flyebpf.cli import output
from flyebpf.cli.drops import since
from flyebpf.cli.status import duration
from tests.fakes_backend import serving

ROOT = Path(flyebpf.__file__).parents[1]


def test_a_table_has_no_borders_and_numbers_to_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.print_table(("NAME", "COUNT"), [("web", 7), ("api", 1234)])
    assert capsys.readouterr().out == "NAME  COUNT\nweb       7\napi    1234\n"


def test_an_empty_table_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME", "COUNT"), [])
    assert capsys.readouterr().out == "NAME  COUNT\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x07", "?[31mred?"),
        ("two\nlines\t", "two?lines?"),
        (None, ""),
        (True, "yes"),
        (["a", "b"], "a, b"),
        (7, "7"),
        ("größe", "größe"),
    ],
)
def test_cells_cannot_command_the_terminal(value: object, text: str) -> None:
    assert output.clean(value) == text


@pytest.mark.parametrize(
    ("widths", "total", "fitted"),
    [
        ([10, 10], 80, [10, 10]),
        ([10, 40], 42, [10, 30]),
        ([40, 40], 42, [20, 20]),
        ([40, 40], 10, [12, 12]),
    ],
)
def test_wide_tables_are_cut_where_they_are_widest(
    widths: list[int], total: int, fitted: list[int]
) -> None:
    assert output.fit(widths, total) == fitted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (200, "3m 20s"), (7500, "2h 5m"), (86400 * 4 + 3700, "4d 1h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def drop(reason: str, packets: int) -> dict[str, object]:
    return {"reason": reason, "packets": packets, "bytes": packets * 100, "description": ""}


def test_watching_shows_what_is_new() -> None:
    before = [drop("ttl", 5), drop("proto", 7), drop("redirect", 9)]
    now = [drop("ttl", 5), drop("proto", 10), drop("redirect", 2), drop("no_service", 1)]
    assert since(before, now) == [drop("proto", 3), drop("redirect", 2), drop("no_service", 1)]


def test_drops_are_watched_until_interrupted(tmp_path: Path) -> None:
    with serving(tmp_path) as (backend, path):
        # What a shell starts in the background ignores SIGINT, and so would this.
        command = (
            f"env --default-signal=INT {sys.executable} -m flyebpf --socket {path}"
            " drops --watch --interval 0.1"
        )
        process = subprocess.Popen(
            shlex.split(command),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "No packet was dropped.\n"
        backend.drop_counters = [DropCounter(6, 3, 180)]
        while (line := process.stdout.readline()) and "no_service" not in line:
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert line.split()[:3] == ["no_service", "3", "180"]
    assert (process.returncode, err.strip()) == (130, "")


def on_terminal(arguments: list[str], answer: bytes) -> tuple[int, bytes]:
    """Run flyebpf on a terminal of its own and type ``answer`` when asked."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flyebpf", *arguments],
        cwd=ROOT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            seen += os.read(leader, 4096)
            if answer and seen.endswith(b"[y/N]: "):
                os.write(leader, answer)
                answer = b""
    except OSError:  # what Linux says when the other side has been closed
        pass
    os.close(leader)
    return process.wait(10), seen


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 0), (b"n\n", 1, 1)])
def test_a_terminal_is_asked(tmp_path: Path, answer: bytes, code: int, left: int) -> None:
    with serving(tmp_path) as (_, path):
        client = Client(path)
        client.post("/v1/orgs", {"name": "acme"})
        client.post("/v1/apps", {"name": "web", "org": "acme"})
        got, seen = on_terminal(["--socket", path, "apps", "destroy", "web"], answer)
        assert b"Destroy app web and release its addresses? [y/N]: " in seen
        assert got == code
        assert len(client.get("/v1/apps")["items"]) == left
