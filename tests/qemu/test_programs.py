# SPDX-License-Identifier: Apache-2.0
"""Every program on every kernel: its verifier accepts it, with room to spare,
and the packet tests pass there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
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

WITH_THE_KERNEL = (
    "test_edge_tc.py",
    "test_flows.py",
    "test_host_tc.py",
    "test_limits.py",
    "test_live.py",
    "test_live6.py",
    "test_live_offload.py",
    "test_mesh_live.py",
    "test_mesh_offload.py",
)
"""The packet tests that depend on what the kernel does: programs attached, trains,
checksums left open, redirects. What the programs decide by themselves is the same
on every kernel, and to see it in a guest would take most of an hour."""
COMPILING = 900.0  # seconds; 200 are usual under TCG
SUITE = 2400.0  # seconds; 300 are usual under TCG


class Trial:
    """A host guest of a kernel with one NIC, in which everything runs one after
    another. Each kernel's has a thread, because a guest uses one core only."""

    def __init__(self, kernel: Kernel, accelerator: str, pool: ThreadPoolExecutor) -> None:
        self.image = images.build("host-guest", kernel)
        self._accelerator = accelerator
        self.reports: Future[list[dict[str, Any]]] = Future()
        self.suite: Future[str] = Future()
        self.stop = Event()
        self._thread = pool.submit(self._run)

    def _run(self) -> None:
        nic = Nic("02:00:00:00:00:01", "user,restrict=on", NATIVE)
        machine = Machine("programs", self.image, [nic])
        try:
            with Guest(machine, self._accelerator) as guest:
                self.reports.set_result(load_programs(guest))
                if not self.stop.is_set():
                    self.suite.set_result(run_suite(guest))
        except BaseException as error:  # noqa: BLE001 (the tests that wait for it raise it)
            for result in (self.reports, self.suite):
                if not result.done():
                    result.set_exception(error)


@pytest.fixture(scope="module")
def trials(accelerator: str) -> Iterator[dict[str, Trial]]:
    with ThreadPoolExecutor() as pool:
        found = {k.name: Trial(k, accelerator, pool) for k in kernels.available()}
        yield found
        for trial in found.values():
            trial.stop.set()


@pytest.fixture(scope="module", params=kernels.available(), ids=lambda kernel: kernel.name)
def trial(request: pytest.FixtureRequest, trials: dict[str, Trial]) -> Trial:
    return trials[request.param.name]


@pytest.fixture
def reports(trial: Trial) -> list[dict[str, Any]]:
    return trial.reports.result()


def load_programs(guest: Guest) -> list[dict[str, Any]]:
    """What the guest says of each program, for each set of sizes."""
    done = guest.run(python("-m", "tests.qemu.inside.programs"), timeout=COMPILING)
    return [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]


def run_suite(guest: Guest) -> str:
    """The last line of the packet tests on the guest's kernel."""
    files = [f"tests/bpf/{name}" for name in WITH_THE_KERNEL]
    options = ["-q", "-p", "no:cacheprovider", "--color=no", f"--rootdir={TREE}"]
    folder = ["--basetemp", f"/tmp/flyebpf-{os.getpid()}"]
    done = guest.run(python("-m", "pytest", *files, *options, *folder), timeout=SUITE)
    return done.output.splitlines()[-1]


def test_every_program_loads(
    trial: Trial, reports: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = [report for report in reports if "error" in report]
    assert not refused, "\n".join(f"{r['program']}: {r['error']}" for r in refused)
    assert {(r["program"], r["maps"]) for r in reports} == {
        (spec.name, sizes) for spec in PROGRAMS for sizes in SIZES
    }
    with capsys.disabled():
        print(f"\n{trial.image.release:24} maps     verified  of limit  machine code")
        for report in reports:
            print(
                f"{report['program']:24} {report['maps']:8} {report['verified']:8}"
                f"  {report['verified'] / LIMIT:8.1%}  {report['machine_code']:6} bytes"
            )
    assert all(0 < report["verified"] < LIMIT // 2 for report in reports)


def test_xdp_is_native_on_virtio(reports: list[dict[str, Any]]) -> None:
    modes = {r["program"]: r["modes"] for r in reports}
    assert modes["edge_xdp"] == ["native", "generic"]


def test_packets(trial: Trial) -> None:
    last = trial.suite.result()
    assert " passed" in last
    assert "skipped" not in last
