# SPDX-License-Identifier: Apache-2.0
"""Guests for the tests: booted when the first test needs them."""

from __future__ import annotations

import os

import pytest

from flyebpf.bpf.loader import find_code
from flyebpf.bpf.maps import map_specs
from flyebpf.bpf.shelf import Shelf
from flyebpf.config import CACHE_DIR, DataplaneConfig
from tests.qemu import kernels
from tests.qemu.accel import accel


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which kernels there are; at the end, because the head is written before
    this file is found when all tests run."""
    write = terminalreporter.write_line
    write(f"kernels in guests: {', '.join(kernel.name for kernel in kernels.available())}")
    for kernel in kernels.left_out():
        write(f"kernel {kernel.name}: left out, {kernel.suite} cannot be reached")


@pytest.fixture(scope="session", autouse=True)
def accelerator() -> str:
    """ "kvm" or "tcg"."""
    if os.geteuid() != 0:
        pytest.fail("the guests need root: run sudo scripts/test qemu", pytrace=False)
    return accel()


@pytest.fixture(scope="session", autouse=True)
def _compiled(accelerator: str) -> None:
    """The programs compiled, where guests, which see this machine's files, find
    them: there a compiler takes minutes."""
    find_code(Shelf(CACHE_DIR, pytest.fail), map_specs(DataplaneConfig()), lambda _: None)
