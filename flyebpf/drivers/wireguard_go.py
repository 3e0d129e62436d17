# SPDX-License-Identifier: Apache-2.0
"""Devices of ``wireguard-go``: one process each, which outlives the daemon.

The program listens at /var/run/wireguard/<device>.sock and cannot be told of
another place. Each process therefore runs in a mount namespace of its own, where
/run is a folder of this host's daemon: hosts that share a file system (the lab's)
do not meet, and nothing is left in /run. A later daemon finds the process by its
socket, and the process's id from the socket's credentials.

The device is the process's: it ends with it, so nothing passes then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from flyebpf.drivers import wireguard_uapi as uapi
from flyebpf.drivers.process_sockets import udp_sockets
from flyebpf.drivers.wireguard import Device, PeerChange
from flyebpf.errors import UnavailableError
from flyebpf.unixpeer import same_network

log = logging.getLogger(__name__)
PROGRAM = "wireguard-go"
FOLDER = "wireguard"  # below the folder that becomes /run
START_PATIENCE = 10.0  # seconds; a tenth of one is usual
END_PATIENCE = 3.0
BIND_PATIENCE = 0.5  # until a device that was set up has its sockets; a few ms are usual
ROOM = 7 << 20
"""Bytes that its sockets may hold of what has come in and not been read. Versions
before 2023 leave them at the system's default, which some 270 datagrams fill: a
burst that comes while the process waits for a core would be lost. Later versions
ask for as much themselves."""

_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, asm-generic/socket.h: beyond net.core.rmem_max
IN_OWN_NAMESPACE = (
    "unshare", "--mount", "--propagation", "slave", "--",
    "sh", "-ec", 'mount --bind "$1" /run; exec "$2" --foreground "$3"', "sh",
)  # fmt: skip
"""Propagation "slave": what is unmounted outside later is not kept here."""


class WireguardGo:
    """``folder``: of the daemon's state, root's alone; becomes /run there."""

    name = "wireguard-go"

    def __init__(self, folder: Path) -> None:
        self._run = folder
        self._sockets = folder / FOLDER
        self._children: set[int] = set()

    def devices(self) -> set[str]:
        """Devices with a process, of this network namespace."""
        self._reap()
        if not self._sockets.is_dir():
            return set()
        return {path.stem for path in self._sockets.glob("*.sock") if self.runs(path.stem)}

    def runs(self, device: str) -> bool:
        """Whether a process in this network namespace has the device."""
        pid = self.pid(device)
        return pid != 0 and same_network(pid)

    def pid(self, device: str) -> int:
        """Of the process behind the device's socket; 0 when there is none."""
        try:
            with uapi.connect(self._sockets, device) as connection:
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return 0
        found: int = struct.unpack("=3i", credentials)[0]
        return found if is_ours(found) else 0

    def create(self, device: str) -> None:
        self.delete(device)
        program = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
        if program is None:
            raise UnavailableError(
                "this kernel has no WireGuard, and wireguard-go is not installed",
                "Install it: apt-get install wireguard-go (or a kernel with CONFIG_WIREGUARD).",
            )
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._sockets / f"{device}.sock").unlink(missing_ok=True)
        child = self._spawn(device, program)
        deadline = time.monotonic() + START_PATIENCE
        while self.pid(device) != child:
            self._reap()
            if child not in self._children or time.monotonic() > deadline:
                said = self._log(device).read_text(errors="replace").strip().splitlines()
                raise UnavailableError(
                    f"wireguard-go does not start: {said[-1] if said else 'it says nothing'}",
                    "It needs /dev/net/tun and CAP_SYS_ADMIN, for a mount namespace of its own.",
                )
            time.sleep(0.01)

    def _log(self, device: str) -> Path:
        return self._sockets / f"{device}.log"

    def _spawn(self, device: str, program: str) -> int:
        """In a session of its own, so that no signal for the daemon reaches it."""
        argv = [*IN_OWN_NAMESPACE, str(self._run), program, device]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
        child = os.posix_spawn(
            shutil.which(argv[0], path=path) or argv[0],
            argv,
            {"PATH": path, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._log(device)), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
        )
        self._children.add(child)
        return child

    def _reap(self) -> None:
        for child in list(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(child, os.WNOHANG)[0] == 0:
                    continue
            self._children.discard(child)

    def delete(self, device: str) -> None:
        """End the process, and with it the device."""
        pid = self.pid(device)
        if not pid:
            return
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self.pid(device) == pid:  # it still was when the descriptor was had
                end(process)
        finally:
            os.close(process)
        self._reap()

    def read(self, device: str) -> Device:
        return uapi.decode_get(uapi.ask(self._sockets, device, uapi.GET))

    def write(
        self,
        device: str,
        *,
        private_key: bytes | None = None,
        port: int | None = None,
        peers: Sequence[PeerChange] = (),
    ) -> None:
        request = uapi.encode_set(private_key, port, peers)
        uapi.check_set(device, uapi.ask(self._sockets, device, request))

    def has_room(self, device: str) -> bool:
        """Whether its sockets hold ROOM; True also where they cannot be looked at."""
        try:
            with udp_sockets(self.pid(device)) as found:
                return all(_room(one) >= ROOM for one in found)
        except OSError:
            return True

    def make_room(self, device: str) -> None:
        """Give the sockets of a device that is up ROOM; without rights, it is left
        as it is, and logged."""
        deadline = time.monotonic() + BIND_PATIENCE
        try:
            while True:
                with udp_sockets(self.pid(device)) as found:
                    for one in found:
                        if _room(one) < ROOM:
                            one.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, ROOM)
                if found or time.monotonic() > deadline:
                    return
                time.sleep(0.005)
        except OSError as error:
            log.warning("%s loses datagrams that come in bursts: %s", device, error)


def _room(one: socket.socket) -> int:
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def is_ours(pid: int) -> bool:
    """Whether that process is wireguard-go."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == PROGRAM
    except OSError:
        return False


def end(process: int) -> None:
    """SIGTERM, then SIGKILL; ``process`` is a pidfd, which can be read when it
    has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        if poll.poll(END_PATIENCE * 1000):
            return
