# SPDX-License-Identifier: Apache-2.0
"""Guests for the tests: booted when the first test needs them."""

from __future__ import annotations

import os

import pytest

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
