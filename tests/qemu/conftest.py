# SPDX-License-Identifier: Apache-2.0
"""Guests for the tests: booted when the first test needs them."""

from __future__ import annotations

import os

import pytest

from tests.qemu import kernels
from tests.qemu.accel import accel


def pytest_report_header() -> list[str]:
    lines = [f"kernels: {', '.join(kernel.name for kernel in kernels.available())}"]
    lines += [
        f"kernel {kernel.name}: left out, no package source of this machine has {kernel.suite}"
        for kernel in kernels.left_out()
    ]
    return lines


@pytest.fixture(scope="session", autouse=True)
def accelerator() -> str:
    """ "kvm" or "tcg"."""
    if os.geteuid() != 0:
        pytest.fail("the guests need root: run sudo scripts/test qemu", pytrace=False)
    return accel()
