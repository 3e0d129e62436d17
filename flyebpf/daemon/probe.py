# SPDX-License-Identifier: Apache-2.0
"""Finds out when a service takes connections, within milliseconds."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence

FIRST, LAST = 0.005, 0.1  # seconds between attempts, in the beginning and later
SHARE = 0.02  # of the time that it has taken so far
OLD = 3.0  # seconds until an attempt is given up
MOST = 48  # attempts at once, unless there are more addresses; the oldest goes first


class Prober:
    """Opens connections again and again until one is taken. Packets to a machine that
    is just being set up are lost, and a lost SYN is sent again after a second only, so
    an attempt does not wait for the one before it."""

    def __init__(self, addresses: Sequence[tuple[str, int]], source: str) -> None:
        self._addresses = addresses
        self._source = source
        self._attempts: dict[int, tuple[socket.socket, tuple[str, int], float]] = {}

    def run(self, deadline: float, given_up: Callable[[], bool]) -> tuple[str, int] | None:
        """The first of the addresses that takes a connection; None at the deadline
        (CLOCK_MONOTONIC), or when it is ``given_up``."""
        begun = time.monotonic()
        try:
            while (now := time.monotonic()) < deadline and not given_up():
                for address in self._addresses:
                    self._begin(address, now)
                pause = min(max(FIRST, (now - begun) * SHARE), LAST)
                if taken := self._wait(now + pause):
                    return taken
            return None
        finally:
            for connection, _, _ in self._attempts.values():
                connection.close()

    def _begin(self, address: tuple[str, int], now: float) -> None:
        if len(self._attempts) >= max(MOST, 2 * len(self._addresses)):
            self._attempts.pop(next(iter(self._attempts)))[0].close()
        try:
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:  # too many are open
            return
        connection.setblocking(False)
        try:
            connection.bind((self._source, 0))
            connection.connect_ex(address)
        except OSError:  # the address is not there yet, or there are too many
            connection.close()
            return
        self._attempts[connection.fileno()] = connection, address, now

    def _wait(self, until: float) -> tuple[str, int] | None:
        while (left := until - time.monotonic()) > 0:
            poll = select.poll()
            for descriptor in self._attempts:
                poll.register(descriptor, select.POLLOUT)
            found = poll.poll(left * 1000)
            for descriptor, _ in found:
                connection, address, _ = self._attempts.pop(descriptor)
                error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                connection.close()
                if error == 0:
                    return address
        old = time.monotonic() - OLD
        for descriptor, (connection, _, begun) in list(self._attempts.items()):
            if begun < old:
                connection.close()
                del self._attempts[descriptor]
        return None
