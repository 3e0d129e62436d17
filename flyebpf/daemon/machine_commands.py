# SPDX-License-Identifier: Apache-2.0
"""Runs the operator's commands for one machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO

from flyebpf.config import MachinesConfig
from flyebpf.errors import FlyebpfError
from flyebpf.model import commands
from flyebpf.model.commands import ORDERS
from flyebpf.model.records import MachineState

KEPT = 4096  # bytes of output that are looked at
SHOWN = 300  # characters of it in an error


def run(config: MachinesConfig, action: str, given: Mapping[str, str]) -> str:
    """Run ``start``, ``stop``, ``suspend`` or ``status`` with these values (see
    ``commands.values``); the end of its output. Raises FlyebpfError when it fails or
    takes longer than its time, after which it is killed with what it has started in
    its session. What it leaves behind in a session of its own goes on."""
    argv = commands.words(getattr(config, action), given)
    with _output(action) as output:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                env=commands.environment(action, given),
            )
        except OSError as error:
            raise FlyebpfError(f"{action}: {argv[0]}: {error.strerror}") from error
        try:
            code = process.wait(config.timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise FlyebpfError(f"{action}: not done after {config.timeout} s") from None
        said = _end(output)
    if code:
        how = f"exit {code}" if code > 0 else f"ended by signal {-code}"
        last = said.splitlines()[-1][:SHOWN] if said else "it said nothing"
        raise FlyebpfError(f"{action}: {how}: {last}")
    return said


def look(config: MachinesConfig, given: Mapping[str, str]) -> MachineState | None:
    """What the machine is, by the operator's ``status``; None where there is none, or
    where it cannot say. Raises FlyebpfError as :func:`run` does."""
    if not config.status:
        return None
    said = run(config, "status", given).split()
    return next((state for state in ORDERS if said[-1:] == [state.value]), None)


def _output(action: str) -> IO[bytes]:
    """A pipe would be kept open by what the command starts."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise FlyebpfError(f"{action}: no file for its output: {error.strerror}") from error


def _end(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - KEPT))
    return output.read().decode(errors="replace").strip()
