# SPDX-License-Identifier: Apache-2.0
"""The harness: what runs, what fails, and what is lost."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.qemu import harness, images, kernels, machine
from tests.qemu.harness import CommandError, Guest, GuestTimeoutError, LostGuestError
from tests.qemu.kernels import Kernel
from tests.qemu.machine import Machine, NoQemuError
from tests.qemu.world import TREE


def tiny(name: str, **parameters: str) -> Machine:
    image = images.build("tiny-vm", kernels.OLDEST)
    return Machine(name, image, (), parameters, share_root=False, memory=192, cpus=1)


@pytest.fixture(scope="module")
def guest(accelerator: str) -> Iterator[Guest]:
    with Guest(tiny("harness"), accelerator) as running:
        yield running


def gone(pid: int, patience: float = 5.0) -> bool:
    deadline = time.monotonic() + patience
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_host_guest_is_this_machine(accelerator: str) -> None:
    """In time, with the kernel that was asked for, and read-only: what it writes
    is its own."""
    image = images.build("host-guest", kernels.OLDEST)
    mark = TREE / f".written-by-a-guest-{os.getpid()}"
    with Guest(Machine("host", image), accelerator) as host:
        assert host.seconds < harness.BOOT
        assert host.run("uname -r").output.strip() == image.release
        host.write(str(mark), b"inside\n")
        assert host.read(str(mark)) == b"inside\n"
        assert host.read(__file__) == Path(__file__).read_bytes()
    assert not mark.exists()


def test_output_and_exit_code(guest: Guest) -> None:
    shown: list[str] = []
    script = "echo one; sleep 0.5; echo two >&2; printf three; exit 3"
    result = guest.run(script, check=False, show=shown.append)
    assert (result.code, result.output) == (3, "one\ntwo\nthree")
    assert "".join(shown) == result.output
    assert shown[0] == "one", "it is shown when it comes, not when all is done"


def test_a_program_with_arguments(guest: Guest) -> None:
    assert guest.run(["echo", "a  b", "$HOME", "'"]).output == "a  b $HOME '\n"


def test_files(guest: Guest) -> None:
    content = bytes(range(256)) * 20
    guest.write("/tmp/file", content)
    assert guest.read("/tmp/file") == content


def test_a_failed_command_is_a_failed_test(guest: Guest) -> None:
    with pytest.raises(CommandError, match=r"harness: exit 1: ls /nowhere\n.*No such file"):
        guest.run("ls /nowhere")


def test_a_command_that_takes_too_long_is_a_failed_test(guest: Guest) -> None:
    with pytest.raises(GuestTimeoutError, match="not done after 1 s: sleep 100"):
        guest.run("sleep 100", timeout=1)
    assert "sleep" not in guest.run("ps").output, "it was killed"


def test_a_panic_is_a_lost_guest(accelerator: str) -> None:
    with Guest(tiny("panic"), accelerator) as guest:
        with pytest.raises(LostGuestError) as lost:
            guest.run("echo c >/proc/sysrq-trigger")
        assert "guest panic (" in str(lost.value)
        assert "panicked\nlast lines of its console:" in str(lost.value)
        assert "sysrq triggered crash" in str(lost.value)
        assert gone(guest.pid)


def test_a_hang_is_a_lost_guest(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ANSWER", 2.0)
    with Guest(tiny("hang"), accelerator) as guest:
        os.kill(guest.pid, signal.SIGSTOP)
        with pytest.raises(LostGuestError, match="hangs: no answer, and not done after 1 s: true"):
            guest.run("true", timeout=1)
        assert gone(guest.pid)


def test_a_guest_that_does_not_boot(accelerator: str) -> None:
    with pytest.raises(LostGuestError, match="panicked") as lost:
        Guest(tiny("nothing", rdinit="/bin/nothing", init="/bin/nothing"), accelerator)
    assert "Kernel panic" in str(lost.value)
    with pytest.raises(LostGuestError, match="did not boot"):
        Guest(tiny("slow"), accelerator, boot=0.3)


def test_what_qemu_complains_of(accelerator: str) -> None:
    wrong = Machine("wrong", tiny("wrong").image, [machine.Nic("not a MAC", "user")])
    with pytest.raises(LostGuestError, match=r"ended \(QEMU: 1\).*not a MAC"):
        Guest(wrong, accelerator)
    gc.collect()  # a socket left open would be said here


def test_qemu_that_ends_before_anything_is_made(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No console, nothing to connect to; and nothing is left open."""
    monkeypatch.setattr(harness, "command_line", lambda *_: [machine.qemu(), "-nonsense"])
    with pytest.raises(LostGuestError, match=r"ended \(QEMU: 1\).*-nonsense: invalid option"):
        Guest(tiny("wrong"), accelerator)
    gc.collect()


def test_a_guest_dies_with_its_test(accelerator: str) -> None:
    """Even when that is killed."""
    program = (
        "from tests.qemu.harness import Guest\n"
        "from tests.qemu.test_harness import tiny\n"
        f"guest = Guest(tiny('orphan'), {accelerator!r})\n"
        "print(guest.pid, flush=True)\n"
        "input()\n"
    )
    test = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=TREE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert test.stdout is not None
    pid = int(test.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    test.kill()
    test.communicate()
    assert gone(pid)


def test_no_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoQemuError, match=r"no qemu-system-x86_64 here; install it: apt-get"):
        machine.qemu()


def test_no_kernel_package() -> None:
    with pytest.raises(images.ImageError, match="no kernel package linux-image-none"):
        images.build("tiny-vm", Kernel("none", "linux-image-none"))
    with pytest.raises(images.ImageError, match="linux-image-amd64 in no-such-suite"):
        images.build("tiny-vm", Kernel("none", "linux-image-amd64", "no-such-suite"))


def test_images_are_kept_until_an_input_changes(tmp_path: Path) -> None:
    built = images.build("tiny-vm", kernels.OLDEST)
    ignore = shutil.ignore_patterns("cache")
    shutil.copytree(images.RECIPES, tmp_path / "vm-images", ignore=ignore)
    (tmp_path / "scripts").symlink_to(TREE / "scripts")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/kernels").symlink_to(built.kernel.parents[1] / "kernels")

    def build() -> int:
        made = subprocess.run(
            [tmp_path / "vm-images/tiny-vm", kernels.OLDEST.package],
            env={**os.environ, "FLYEBPF_IMAGES": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        return (Path(made.stdout.strip()) / "initrd.img").stat().st_mtime_ns

    first = build()
    assert build() == first
    with (tmp_path / "vm-images/tiny-vm.serve").open("a") as serve:
        serve.write("# changed\n")
    assert build() != first
