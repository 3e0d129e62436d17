# SPDX-License-Identifier: Apache-2.0
"""A service that will take connections."""

from __future__ import annotations

import errno
import socket
import threading
import time
from typing import Any

import pytest

from flyebpf.daemon import probe
from flyebpf.daemon.probe import MOST, Prober

HERE = "127.0.0.1"
PATIENCE = 30.0


def closed_port() -> int:
    """One at which nobody listens; it is kept from others until it is."""
    with socket.socket() as one:
        one.bind((HERE, 0))
        return int(one.getsockname()[1])


def test_who_listens_later() -> None:
    """The one of two addresses that does."""
    ports = [(HERE, closed_port()), (HERE, closed_port())]
    found: list[tuple[str, int] | None] = []
    prober = Prober(ports, HERE)
    deadline = time.monotonic() + PATIENCE
    thread = threading.Thread(target=lambda: found.append(prober.run(deadline, lambda: False)))
    thread.start()
    with socket.create_server(ports[1]):
        thread.join(PATIENCE)
    assert found == [ports[1]]


def test_nobody() -> None:
    given_up = iter([False, False, True])
    prober = Prober([(HERE, closed_port())], HERE)
    assert prober.run(time.monotonic() + PATIENCE, lambda: next(given_up)) is None
    assert prober.run(time.monotonic(), lambda: False) is None


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on when there is one again."""
    with socket.create_server((HERE, 0)) as server:
        address = (HERE, server.getsockname()[1])
        tries = iter(range(2))
        make = socket.socket

        def after_some(*of: Any) -> socket.socket:
            if next(tries, None) is not None:
                raise OSError(errno.EMFILE, "Too many open files")
            return make(*of)

        monkeypatch.setattr(probe.socket, "socket", after_some)
        assert Prober([address], HERE).run(time.monotonic() + PATIENCE, lambda: False) == address


def test_a_source_that_is_not_there_yet() -> None:
    given_up = iter([False, False, True])
    prober = Prober([(HERE, closed_port())], "192.0.2.1")
    assert prober.run(time.monotonic() + PATIENCE, lambda: next(given_up)) is None


def test_attempts_that_nobody_answers_do_not_pile_up() -> None:
    prober = Prober([(HERE, closed_port())], HERE)
    with socket.socket() as full:
        full.bind((HERE, 0))
        full.listen(0)
        address = full.getsockname()
        prober = Prober([address], HERE)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:  # until its backlog takes no more
            client.setblocking(False)
            client.connect_ex(address)
        time.sleep(0.1)
        for number in range(3 * MOST):
            prober._begin(address, float(number))
        assert len(prober._attempts) == MOST
        assert next(iter(prober._attempts.values()))[2] == 2 * MOST
        for connection in (*clients, *(attempt[0] for attempt in prober._attempts.values())):
            connection.close()
