# SPDX-License-Identifier: Apache-2.0
"""Every program on every kernel: its verifier accepts it, with room to spare,
and the packet tests pass there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from flyebpf.bpf.source import PROGRAMS
from tests.bpf.test_limits import LIMIT
from tests.qemu import images, kernels
from tests.qemu.harness import Guest
from tests.qemu.inside.programs import SIZES
from tests.qemu.kernels import Kernel
from tests.qemu.machine import NATIVE, Machine, Nic
from tests.qemu.world import TREE, python

COMPILING = 240.0  # seconds; 60 are usual under TCG
SUITE = 900.0  # seconds; 240 are usual under TCG


@pytest.fixture(scope="module", params=kernels.available(), ids=lambda kernel: kernel.name)
def guest(request: pytest.FixtureRequest, accelerator: str) -> Iterator[Guest]:
    """A host guest of each kernel, with one NIC."""
    kernel: Kernel = request.param
    nic = Nic("02:00:00:00:00:01", "user,restrict=on", NATIVE)
    machine = Machine("programs", images.build("host-guest", kernel), [nic])
    with Guest(machine, accelerator) as running:
        yield running


@pytest.fixture(scope="module")
def reports(guest: Guest) -> list[dict[str, Any]]:
    """What the guest says of each program, for each set of sizes."""
    done = guest.run(python("-m", "tests.qemu.inside.programs"), timeout=COMPILING)
    return [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]


def test_every_program_loads(
    guest: Guest, reports: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = [report for report in reports if "error" in report]
    assert not refused, "\n".join(f"{r['program']}: {r['error']}\n{r['log']}" for r in refused)
    assert {(r["program"], r["maps"]) for r in reports} == {
        (spec.name, sizes) for spec in PROGRAMS for sizes in SIZES
    }
    with capsys.disabled():
        print(f"\n{guest.machine.image.release:24} maps     verified  of limit  machine code")
        for report in reports:
            print(
                f"{report['program']:24} {report['maps']:8} {report['verified']:8}"
                f"  {report['verified'] / LIMIT:8.1%}  {report['machine_code']:6} bytes"
            )
    assert all(0 < report["verified"] < LIMIT // 2 for report in reports)


def test_xdp_is_native_on_virtio(reports: list[dict[str, Any]]) -> None:
    modes = {r["program"]: r["modes"] for r in reports}
    assert modes["edge_xdp"] == ["native", "generic"]


def test_packets(guest: Guest) -> None:
    """The packet tests, on the guest's kernel. Not the random ones, which look
    for mistakes in the programs, nor those of the compiler's assertions: both say
    the same on every kernel."""
    others = ("test_differential.py", "test_vm_properties.py", "test_layout.py")
    ignored = [f"--ignore=tests/bpf/{name}" for name in others]
    options = ["-q", "-p", "no:cacheprovider", "--color=no", f"--rootdir={TREE}"]
    folder = ["--basetemp", f"/tmp/flyebpf-{os.getpid()}"]
    done = guest.run(
        python("-m", "pytest", "tests/bpf", *options, *ignored, *folder), timeout=SUITE
    )
    assert " passed" in done.output.splitlines()[-1]
    assert "skipped" not in done.output.splitlines()[-1]
