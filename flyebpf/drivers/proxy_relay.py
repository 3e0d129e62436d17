# SPDX-License-Identifier: Apache-2.0
"""The relay's process (``flyebpf.proxy.relay``): started, found again by a later
daemon, replaced by one of other code while its clients go on.

It has no rights but to the folder of Envoy's sockets. Its control socket bears the
digest of its code.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from flyebpf.drivers.proxy_envoy import FILES, peer, prepare, user_entry
from flyebpf.drivers.proxy_fds import sockets_of
from flyebpf.errors import UnavailableError
from flyebpf.proxy import chains, postgres, relay
from flyebpf.proxy.bootstrap import Paths

TIMEOUT = 2.0
SUFFIX = ".relay"
Ports = dict[str, tuple[int, int]]


class Relay:
    """The one of this daemon's code."""

    def __init__(self, paths: Paths, user: str) -> None:
        self._paths = paths
        self._user = user
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        return self._paths.sockets / f"{_digest()}{SUFFIX}"

    def find(self) -> int:
        """The process's id; 0 when there is none."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        return peer(self.control)

    def older(self) -> Iterator[Path]:
        """Control sockets of others."""
        for path in self._paths.sockets.glob(f"*{SUFFIX}"):
            if path != self.control:
                yield path

    def start(self) -> int:
        """Start it. Raises UnavailableError."""
        entry = user_entry(self._user)
        prepare(self._paths, entry.pw_uid, entry.pw_gid)
        self.end_child()
        command = [sys.executable, "-P", "-m", "flyebpf.proxy.relay"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        output = os.open(self._paths.folder / "relay.log", flags, 0o600)
        try:
            self._child = subprocess.Popen(
                [*command, str(self._paths.sockets), str(self.control), self._user],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(
                f"the relay of pg_tls cannot be started: {error.strerror}", "See the host's limits."
            ) from error
        finally:
            os.close(output)
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(self._child.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        return self._child.pid

    def end_child(self) -> None:
        """One that was started and cannot be found."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._child = None

    def says(self) -> str:
        """The last thing that it has written."""
        with contextlib.suppress(OSError):
            lines = (self._paths.folder / "relay.log").read_text(errors="replace").split("\n")
            return next((line for line in reversed(lines) if line.strip()), "")
        return ""

    def listening(self, pid: int) -> dict[str, tuple[int, int]]:
        """File descriptors, ours, of its listening sockets by listener, for IPv4 and
        IPv6. The caller closes them. Empty where it does not answer."""
        try:
            ports = ask(self.control)
        except (OSError, ValueError):
            return {}
        wanted = {name: (("0.0.0.0", four), ("::", six)) for name, (four, six) in ports.items()}
        return sockets_of(pid, wanted)


def ask(control: Path) -> Ports:
    """The ports of each listener. Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(control))
        with connection.makefile("rb") as answer:
            return {name: (four, six) for name, (four, six) in json.load(answer).items()}


def drain(path: Path) -> None:
    """Have the relay of a control socket take no new clients."""
    if pid := peer(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    path.unlink(missing_ok=True)


def _digest() -> str:
    """Of what a relay consists of."""
    found = blake2b(digest_size=8)
    for module in (relay, postgres, chains):
        assert module.__file__ is not None
        found.update(Path(module.__file__).read_bytes())
    return found.hexdigest()
