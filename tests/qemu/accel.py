# SPDX-License-Identifier: Apache-2.0
"""KVM or TCG: found out by booting a guest, because /dev/kvm may exist and
still run no guest (in a VM without nested virtualization, for instance)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tests.qemu import harness, images, kernels
from tests.qemu.machine import Machine, boot_id, qemu_version

PATIENCE = 15.0  # seconds; with KVM the tiny VM needs two


@cache
def accel() -> str:
    """ "kvm" or "tcg". ``FLYEBPF_QEMU_ACCEL`` decides if it is set. What was found
    is remembered until this machine boots again."""
    chosen = os.environ.get("FLYEBPF_QEMU_ACCEL", "")
    if chosen:
        return chosen
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    image = images.build("tiny-vm", kernels.OLDEST)
    remembered = Path(image.kernel).parents[1] / "accel"
    known = f"{boot_id()} {qemu_version()} "
    if remembered.is_file() and (text := remembered.read_text()).startswith(known):
        return text.removeprefix(known).strip()
    found = "kvm" if boots_with_kvm(image) else "tcg"
    remembered.write_text(f"{known}{found}\n")
    return found


def boots_with_kvm(image: images.Image) -> bool:
    machine = Machine("probe", image, share_root=False, memory=192, cpus=1)
    try:
        with harness.Guest(machine, "kvm", boot=PATIENCE) as guest:
            return guest.run("true", check=False, timeout=PATIENCE).code == 0
    except (harness.LostGuestError, harness.GuestTimeoutError):
        return False
