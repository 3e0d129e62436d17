# SPDX-License-Identifier: Apache-2.0
"""The threads that look after Envoy and the relay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flyebpf.daemon.proxy import ProxyAgent
from flyebpf.daemon.proxy_relay import RelayAgent
from flyebpf.drivers.proxy import ProxyDriver
from flyebpf.proxy.bootstrap import Paths

PATIENCE = 30.0


class Faulty:
    """Stands for a driver whose sockets fail as nobody foresaw, once."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder)
        self.user = "nobody"
        self.envoy = None
        self.changed = threading.Event()
        self.relay_wanted = threading.Event()
        self.sockets = SimpleNamespace(refuse=self._fail_once, fill=self._fail_once)
        self.calls = 0
        self.went_on = threading.Event()

    def _fail_once(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == 1:
            raise KeyError("sockets")
        self.went_on.set()


@contextmanager
def running(agent: ProxyAgent | RelayAgent) -> Iterator[None]:
    agent.start()
    try:
        yield
    finally:
        agent.stop()


@pytest.mark.parametrize("kind", ["proxy", "relay"])
def test_a_fault_of_ours_ends_no_thread(kind: str, tmp_path: Path) -> None:
    faulty = Faulty(tmp_path)
    driver = cast("ProxyDriver", faulty)
    with running(ProxyAgent(driver, 1) if kind == "proxy" else RelayAgent(driver)):
        assert faulty.went_on.wait(PATIENCE)
