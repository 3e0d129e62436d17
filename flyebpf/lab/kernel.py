# SPDX-License-Identifier: Apache-2.0
"""What flyebpf needs of the running kernel, found out by trying it.

``python3 -m flyebpf.lab.kernel`` prints what is missing, what for and what to
do, and exits 1; silent about what is there. Needs root, ``ip``, ``tc`` and
``nft``; standard library only, because it runs before anything is installed.
Everything is tried in a network namespace of its own, removed afterwards.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flyebpf.lab import bpf

TOOLS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "mount": "mount"}
PRIVILEGED = "in a container, run it with --privileged"
STOCK_KERNEL = "use Debian 12's own kernel (apt install linux-image-amd64, then reboot)"


class Feature(NamedTuple):
    """``attempt`` takes a namespace; the later ones find ``probe`` in it, one end
    of the veth pair that an earlier one has made."""

    name: str
    option: str  # of the kernel's configuration
    needed_for: str
    attempt: Callable[[str], None]
    on_link: bool = False  # needs the veth pair


def command(*argv: str) -> None:
    """Run it; OSError with its complaint when it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(f"{argv[0]} is not installed") from None
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(f"{' '.join(argv)}: {complaint[-1] if complaint else 'failed'}")


def try_maps(_namespace: str) -> None:
    for kind in bpf.MAP_TYPES:
        try:
            os.close(bpf.create_map(kind))
        except OSError as error:
            raise OSError(f"creating a {kind} map: {error.strerror}") from error


def try_bpffs(_namespace: str) -> None:
    with tempfile.TemporaryDirectory(prefix="flyebpf-probe-") as directory:
        command("mount", "-t", "bpf", "bpf", directory)
        try:
            fd = bpf.create_map("array")
            try:
                bpf.pin(fd, f"{directory}/probe")
            finally:
                os.close(fd)
        finally:
            command("umount", directory)


def try_veth(namespace: str) -> None:
    pair = ["probe", "type", "veth", "peer", "name", "peer"]
    command("ip", "-n", namespace, "link", "add", *pair)


def try_xdp(namespace: str) -> None:
    """In a child process, which alone enters the namespace."""
    child = [sys.executable, "-P", "-m", "flyebpf.lab.kernel", "--attach-xdp", "probe"]
    command("ip", "netns", "exec", namespace, *child)


def attach_xdp(interface: str) -> None:
    program = bpf.load_return(bpf.PROG_TYPE_XDP, bpf.XDP_PASS, bpf.ATTACH_XDP)
    link = bpf.link_xdp(program, socket.if_nametoindex(interface))
    os.close(link)
    os.close(program)


def try_clsact(namespace: str) -> None:
    command("tc", "-n", namespace, "qdisc", "add", "dev", "probe", "clsact")


def try_cls_bpf(namespace: str) -> None:
    os.close(bpf.load_return(bpf.PROG_TYPE_SCHED_CLS, 0))
    add = ["tc", "-n", namespace, "filter", "add", "dev", "probe", "ingress"]
    command(*add, "bpf", "da", "bytecode", "1,6 0 0 4294967295")


def try_nat(namespace: str) -> None:
    rules = (
        "table ip probe { chain post { type nat hook postrouting priority 100; "
        "ip saddr 172.16.0.0/12 masquerade; }; }"
    )
    command("ip", "netns", "exec", namespace, "nft", rules)


VETH = "veth pairs"
FEATURES = (
    Feature("BPF maps", "CONFIG_BPF_SYSCALL", "the whole data plane", try_maps),
    Feature("bpffs", "CONFIG_BPF_SYSCALL", "programs that outlive the daemon", try_bpffs),
    Feature(VETH, "CONFIG_VETH", "the lab's links", try_veth),
    Feature("XDP on veth", "CONFIG_BPF_JIT, kernel 5.9", "steering at the uplink", try_xdp, True),
    Feature("clsact", "CONFIG_NET_SCH_INGRESS", "the VMs' interfaces", try_clsact, True),
    Feature("cls_bpf", "CONFIG_NET_CLS_BPF", "the VMs' interfaces", try_cls_bpf, True),
    Feature("nftables NAT", "CONFIG_NF_TABLES, CONFIG_NFT_MASQ", "VMs reaching out", try_nat),
)


def missing() -> list[tuple[Feature, str]]:
    """The features that do not work here, each with the kernel's complaint."""
    namespace = f"flyebpf-probe-{os.getpid()}"
    command("ip", "netns", "add", namespace)
    try:
        found: list[tuple[Feature, str]] = []
        for feature in FEATURES:
            if feature.on_link and any(lacking.name == VETH for lacking, _ in found):
                continue
            try:
                feature.attempt(namespace)
            except OSError as error:
                found.append((feature, error.strerror or str(error)))
        return found
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def absent_tools() -> dict[str, str]:
    """Programs that the attempts run and that are not here, and their packages."""
    return {tool: package for tool, package in TOOLS.items() if not shutil.which(tool)}


def main() -> int:
    if sys.argv[1:2] == ["--attach-xdp"]:
        attach_xdp(sys.argv[2])
        return 0
    if absent := absent_tools():
        print(f"error: not installed: {', '.join(absent)}", file=sys.stderr)
        print(f"  apt install {' '.join(dict.fromkeys(absent.values()))}", file=sys.stderr)
        return 1
    try:
        problems = missing()
    except OSError as error:
        print(f"error: network namespaces do not work here: {error}", file=sys.stderr)
        print(
            f"  {PRIVILEGED}; otherwise the kernel lacks CONFIG_NET_NS: {STOCK_KERNEL}",
            file=sys.stderr,
        )
        return 1
    for feature, complaint in problems:
        print(
            f"error: the kernel ({os.uname().release}) lacks {feature.name}, "
            f"needed for {feature.needed_for}: {complaint}",
            file=sys.stderr,
        )
        remedy = f"it needs {feature.option}: {STOCK_KERNEL}"
        if "not permitted" in complaint:
            remedy = f"{PRIVILEGED}; otherwise {remedy}"
        print(f"  {remedy}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    sys.exit(main())
