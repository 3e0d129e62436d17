# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, and whether KVM works here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.qemu.images import Image

QEMU = "qemu-system-x86_64"


class NoQemuError(Exception):
    """There is no QEMU on this machine."""


@dataclass(frozen=True, slots=True)
class Nic:
    """A virtio NIC. ``backend``: QEMU's ``-netdev`` without its id. ``options``:
    of the device, e.g. ``guest_tso4=off``."""

    mac: str
    backend: str
    options: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest is made of. ``parameters`` are for the kernel's command line;
    those that it does not know are in the environment of the first process.
    ``share_root``: the machine's own root is mounted by the guest, read-only.
    ``memory`` in MiB. ``namespace``: a network namespace of this machine's, where
    the taps of the NICs are."""

    name: str
    image: Image
    nics: Sequence[Nic] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    share_root: bool = True
    memory: int = 1536
    cpus: int = 2
    namespace: str = ""


NATIVE = "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
"""Options of a NIC for native XDP: virtio-net takes a program only when it gets
whole packets with whole checksums."""
KERNEL = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable nokaslr"


def qemu() -> str:
    """The program; raises NoQemuError."""
    found = shutil.which(QEMU)
    if found is None:
        raise NoQemuError(
            f"there is no {QEMU} here; install it: apt-get install qemu-system-x86"
            " (scripts/test does)"
        )
    return found


def command_line(machine: Machine, accel: str) -> list[str]:
    """Without consoles and channels. ``accel``: "kvm" or "tcg"."""
    image = machine.image
    words = " ".join(f"{name}={value}" for name, value in machine.parameters.items())
    argv = [
        qemu(),
        *("-name", f"flyebpf-{machine.name}"),
        *("-machine", "q35", "-cpu", "host" if accel == "kvm" else "max"),
        *("-accel", "kvm" if accel == "kvm" else "tcg,thread=multi"),
        *("-smp", str(machine.cpus), "-m", f"{machine.memory}M"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", f"{KERNEL} modules={image.modules} {words}".strip()),
    ]
    if machine.share_root:
        export = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"
        argv += ["-virtfs", export]
    for number, nic in enumerate(machine.nics):
        device = f"virtio-net-pci,netdev=net{number},mac={nic.mac},romfile="
        argv += ["-netdev", f"{nic.backend},id=net{number}"]
        argv += ["-device", f"{device},{nic.options}" if nic.options else device]
    return argv


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def qemu_version() -> str:
    asked = subprocess.run([qemu(), "--version"], capture_output=True, text=True, check=True)
    return asked.stdout.splitlines()[0]
