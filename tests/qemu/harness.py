# SPDX-License-Identifier: Apache-2.0
"""Boots a guest, runs commands in it, and tells a lost guest from a failed one.

A guest has three channels: its console, which goes to a file and is shown when
the guest is lost; ``run``, over which commands go; and ``alive``, which is asked
when a command takes too long.
"""

from __future__ import annotations

import base64
import ctypes as ct
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.qemu.machine import Machine, command_line

BOOT = 60.0  # seconds from QEMU's start to the first command
ANSWER = 15.0  # seconds in which a guest that lives answers
LAST = 45  # lines of the console that are shown
PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
Show = Callable[[str], object]


class LostGuestError(Exception):
    """The guest is gone or does not answer: nothing is known of what was
    tested."""


class GuestTimeoutError(AssertionError):
    """A command took too long, in a guest that is well."""


class CommandError(AssertionError):
    """A command failed."""


@dataclass(frozen=True, slots=True)
class Result:
    """``output``: standard output and standard error, as they came."""

    command: str
    code: int
    output: str


class Guest:
    """A running guest; a context manager that ends it. ``seconds``: what the
    boot took."""

    def __init__(self, machine: Machine, accel: str, boot: float = BOOT) -> None:
        self.machine = machine
        self._folder = tempfile.TemporaryDirectory(prefix="flyebpf-guest-")
        self._path = Path(self._folder.name)
        self.console_file = self._path / "console"
        self._marks = 0
        self._ports: dict[str, Port] = {}
        begun = time.monotonic()
        self._process = self._start(accel)
        try:
            for name in ("run", "alive"):
                self._ports[name] = self._connect(name, begun + boot)
            for port in self._ports.values():
                self._until(port, b"ready\n", begun + boot, "did not boot")
        except BaseException:
            self.close()
            raise
        self.seconds = time.monotonic() - begun

    def _start(self, accel: str) -> subprocess.Popen[bytes]:
        argv = command_line(self.machine, accel)
        argv += ["-serial", f"file:{self.console_file}", "-device", "virtio-serial-pci"]
        for name in ("run", "alive"):
            path = self._path / name
            argv += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
            argv += ["-device", f"virtserialport,chardev={name},name={name}"]
        with ExitStack() as stack:
            log = stack.enter_context((self._path / "qemu.log").open("wb"))
            inside = -1
            if self.machine.namespace:
                inside = os.open(f"/run/netns/{self.machine.namespace}", os.O_RDONLY)
                stack.callback(os.close, inside)
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: become_guest(inside),  # noqa: PLW1509
            )

    def _connect(self, name: str, deadline: float) -> Port:
        with ExitStack() as stack:
            end = stack.enter_context(socket.socket(socket.AF_UNIX))
            while True:
                try:
                    end.connect(str(self._path / name))
                    stack.pop_all()
                    return Port(end)
                except (FileNotFoundError, ConnectionRefusedError):
                    self._check(deadline, "QEMU did not start")
                    time.sleep(0.02)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. May be called again."""
        for port in self._ports.values():
            port.end.close()
        self._ports = {}
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- commands -------------------------------------------------------------

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60.0,
        check: bool = True,
        show: Show | None = None,
    ) -> Result:
        """Run a shell script, or a program with its arguments, in the guest.

        What it prints is also given to ``show`` piece by piece (standard output
        when None). What it leaves behind in the background must not keep its
        standard output. ``timeout`` in seconds. Raises CommandError (``check``),
        GuestTimeoutError or LostGuestError.
        """
        script = command if isinstance(command, str) else shlex.join(command)
        try:
            result = self._exchange("run", script, timeout, show or sys.stdout.write)
        except TimeoutError:
            self._end_command(script, timeout)
            raise GuestTimeoutError(
                f"{self.machine.name}: not done after {timeout:.0f} s: {script}"
            ) from None
        if check and result.code:
            raise CommandError(
                f"{self.machine.name}: exit {result.code}: {script}\n{result.output}"
            )
        return result

    def read(self, path: str) -> bytes:
        """A file of the guest."""
        return base64.b64decode(
            self.run(f"busybox base64 {shlex.quote(path)}", show=lambda _: None).output
        )

    def write(self, path: str, content: bytes) -> None:
        text = base64.b64encode(content).decode()
        self.run(f"echo {text} | busybox base64 -d >{shlex.quote(path)}", show=lambda _: None)

    def console(self) -> str:
        """The last lines of the console."""
        return "\n".join(self._printed().replace("\r", "").splitlines()[-LAST:])

    def _printed(self) -> str:
        """All of the console; "" where QEMU ended before it made the file."""
        if not self.console_file.exists():
            return ""
        return self.console_file.read_text(errors="replace")

    def _exchange(self, name: str, script: str, timeout: float, show: Show) -> Result:
        self._marks += 1
        mark = f"flyebpf-{self._marks}-{time.time_ns()}"
        port = self._ports[name]
        deadline = time.monotonic() + timeout
        try:
            port.end.settimeout(timeout)
            port.end.sendall(f"{mark} {base64.b64encode(script.encode()).decode()}\n".encode())
        except (BrokenPipeError, ConnectionResetError):
            self._check(deadline, "went away")
        output = self._until(port, f"\n{mark} ".encode(), deadline, "", show)
        code = self._until(port, b"\n", deadline, "")
        return Result(script, int(code), output.decode(errors="replace"))

    def _until(
        self, port: Port, mark: bytes, deadline: float, what: str, show: Show = lambda _: None
    ) -> bytes:
        """What comes before ``mark``; ``what``: of the guest's, if it is not in
        time, or "" to raise TimeoutError."""
        while (found := port.take(mark, show)) is None:
            if not port.receive(0.2):
                self._lost_if_gone()
                self._check(deadline, what)
        return found

    # -- lost guests ------------------------------------------------------------

    def _end_command(self, script: str, timeout: float) -> None:
        """Kill the command that takes too long, so that others can run; the guest
        is lost if it does not even answer that."""
        kill = 'busybox kill -9 "-$(cat /run/guest/run/pid)"; true'
        try:
            self._exchange("alive", kill, ANSWER, lambda _: None)
            self._exchange("run", "true", ANSWER, lambda _: None)
        except TimeoutError:
            self._lose(f"hangs: no answer, and not done after {timeout:.0f} s: {script}")

    def _check(self, deadline: float, what: str) -> None:
        self._lost_if_gone()
        if time.monotonic() < deadline:
            return
        if not what:
            raise TimeoutError
        self._lose(what)

    def _lost_if_gone(self) -> None:
        if self._process.poll() is None:
            return
        panicked = "Kernel panic" in self._printed()
        log = (self._path / "qemu.log").read_text(errors="replace").strip()
        self._lose("panicked" if panicked else f"ended (QEMU: {self._process.returncode}) {log}")

    def _lose(self, what: str) -> None:
        message = f"guest {self.machine.name} ({self.machine.image.release}) {what}"
        message += f"\nlast lines of its console:\n{self.console()}"
        self.close()
        raise LostGuestError(message)


class Port:
    """A channel to a guest, and what has come over it."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._buffer = b""
        self._shown = 0

    def receive(self, seconds: float) -> bool:
        """Whether something came."""
        self.end.settimeout(seconds)
        try:
            came = self.end.recv(65536)
        except (TimeoutError, ConnectionResetError):
            return False
        self._buffer += came
        return bool(came)

    def take(self, mark: bytes, show: Show) -> bytes | None:
        """What has come before ``mark``, if that has come. Shows what cannot be
        the beginning of a mark, which starts with the end of a line."""
        end = self._buffer.find(mark)
        upto = end if end >= 0 else self._buffer.rfind(b"\n")
        if upto > self._shown:
            show(self._buffer[self._shown : upto].decode(errors="replace"))
            self._shown = upto
        if end < 0:
            return None
        found, self._buffer = self._buffer[:end], self._buffer[end + len(mark) :]
        self._shown = 0
        return found


def become_guest(namespace: int) -> None:
    """In the child, before it is QEMU: a guest must not outlive its test, however
    that ends. ``namespace``: descriptor of the network namespace, or -1."""
    libc = ct.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if namespace >= 0 and libc.setns(namespace, CLONE_NEWNET):
        os._exit(1)
