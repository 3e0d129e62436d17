# SPDX-License-Identifier: Apache-2.0
"""NICs whose other end is a test: every frame is a datagram on a unix socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 10.0  # seconds; a guest under TCG may be busy


class Wire:
    """The cable of one NIC. ``frames``: what has come out of the NIC so far."""

    def __init__(self, folder: Path, name: str) -> None:
        self._near, self._far = folder / f"{name}.test", folder / f"{name}.nic"
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._end.bind(str(self._near))
        self._came = threading.Condition()
        self._taps: list[Callable[[bytes], object]] = []
        self.frames: list[bytes] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    @property
    def backend(self) -> str:
        """For :class:`~tests.qemu.machine.Nic`."""
        local = f"local.type=unix,local.path={self._far}"
        return f"dgram,{local},remote.type=unix,remote.path={self._near}"

    def send(self, frame: bytes) -> None:
        """Into the NIC. What it has no room for is lost, as on a real cable."""
        with contextlib.suppress(OSError):
            self._end.sendto(frame, socket.MSG_DONTWAIT, str(self._far))

    def forward_to(self, other: Wire) -> None:
        """From now on, what comes out here goes in there."""
        self._taps.append(other.send)

    def mark(self) -> int:
        """For :meth:`expect` and :meth:`since`: now."""
        with self._came:
            return len(self.frames)

    def since(self, mark: int) -> list[bytes]:
        with self._came:
            return self.frames[mark:]

    def wait_for(self, wanted: Callable[[bytes], bool], mark: int, what: str) -> bytes:
        """The first such frame since ``mark``; AssertionError if none comes."""
        deadline = time.monotonic() + PATIENCE
        with self._came:
            while True:
                for frame in self.frames[mark:]:
                    if wanted(frame):
                        return frame
                if not self._came.wait(deadline - time.monotonic()):
                    came = "\n".join(frame.hex() for frame in self.frames[mark:]) or "nothing"
                    raise AssertionError(f"{what} did not come out, but:\n{came}")

    def expect(self, frame: bytes, mark: int) -> None:
        """Exactly this frame comes out."""
        self.wait_for(lambda came: came == frame, mark, frame.hex())

    def close(self) -> None:
        """The thread ends with the socket."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._end.close()

    def _receive(self) -> None:
        while True:
            try:
                frame = self._end.recv(65536)
            except OSError:
                return
            if not frame:
                return
            for tap in self._taps:
                tap(frame)
            with self._came:
                self.frames.append(frame)
                self._came.notify_all()
