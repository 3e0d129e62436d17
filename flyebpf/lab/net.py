# SPDX-License-Identifier: Apache-2.0
"""Namespaces, links and addresses, by the iproute2 tools that users know.

A command that fails becomes a KernelError with the command and its complaint,
which can be repeated by hand.
"""

from __future__ import annotations

import ctypes as ct
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flyebpf.errors import ConflictError, KernelError, UnavailableError
from flyebpf.lab import bpf

CLONE_NEWNET = 0x40000000
NETNS_DIR = Path("/run/netns")
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
NETNS_CONFIG = Path("/etc/netns")


def run(*argv: str, input: str | None = None) -> str:
    """Run a tool; returns its stdout."""
    try:
        done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UnavailableError(
            f"{argv[0]} is not installed", "scripts/lab installs everything that the lab needs."
        ) from None
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip() or f"exit {done.returncode}"
        raise KernelError(f"{shlex.join(argv)}: {complaint}")
    return done.stdout


def exists(namespace: str) -> bool:
    return (NETNS_DIR / namespace).exists()


def check_free(namespace: str) -> None:
    """ConflictError when a namespace of that name is there (not the lab's)."""
    if exists(namespace):
        raise ConflictError(
            f"a network namespace {namespace} exists already, and this lab did not make it",
            f"Delete it (ip netns delete {namespace}) or choose another FLYEBPF_LAB_NAME.",
        )


def batch(namespace: str, *lines: str) -> None:
    """Several ``ip`` commands in a namespace, in one process."""
    run("ip", "-n", namespace, "-batch", "-", input="\n".join(lines) + "\n")


def sysctl(namespace: str, **values: str) -> None:
    """Set net.* of a namespace; ``__`` in a name stands for a slash."""
    lines = [
        f"echo {value} > /proc/sys/net/{key.replace('__', '/')}" for key, value in values.items()
    ]
    run("ip", "netns", "exec", namespace, "sh", "-ec", "\n".join(lines))


def add_namespace(namespace: str) -> None:
    run("ip", "netns", "add", namespace)
    batch(namespace, "link set lo up")


def delete_namespace(namespace: str) -> bool:
    """Whether it was there. Its links go with it."""
    if not exists(namespace):
        return False
    run("ip", "netns", "delete", namespace)
    return True


def add_veth(namespace: str, name: str, peer_namespace: str, peer: str, mac: str = "") -> None:
    """A pair, both ends down; ``mac`` is the peer's."""
    address = ["address", mac] if mac else []
    end = ["link", "add", name, "netns", namespace, "type", "veth"]
    run("ip", *end, "peer", "name", peer, *address, "netns", peer_namespace)


def routes(namespace: str) -> list[dict[str, Any]]:
    """The routes of its main table, as ``ip -j route`` has them."""
    found: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        found += json.loads(run("ip", "-n", namespace, family, "-j", "route", "show"))
    return found


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread in the network namespace: sockets that it opens stay there."""
    with (
        open("/proc/thread-self/ns/net", "rb") as before,
        (NETNS_DIR / namespace).open("rb") as there,
    ):
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if ct.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) < 0:
        code = ct.get_errno()
        raise KernelError(f"setns: {os.strerror(code)}")


def processes(namespace: str) -> list[int]:
    """The processes that are in the namespace; none when it is gone."""
    if not exists(namespace):
        return []
    return [int(word) for word in run("ip", "netns", "pids", namespace).split()]


def has_link(namespace: str, name: str) -> bool:
    done = subprocess.run(
        ["ip", "-n", namespace, "link", "show", name], capture_output=True, check=False
    )
    return done.returncode == 0


def delete_link(namespace: str, name: str) -> None:
    if exists(namespace) and has_link(namespace, name):
        run("ip", "-n", namespace, "link", "delete", name)


def is_up(namespace: str, name: str) -> bool:
    """Whether the link is administratively up."""
    links = json.loads(run("ip", "-n", namespace, "-j", "link", "show", name))
    return bool(links) and "UP" in links[0]["flags"]


def offload(namespace: str, name: str, **features: bool) -> None:
    """``ethtool -K``; for example ``gro=True, tso=False``."""
    words = [word for key, on in features.items() for word in (key, "on" if on else "off")]
    run("ip", "netns", "exec", namespace, "ethtool", "-K", name, *words)


def pass_xdp(namespace: str, name: str, bpffs: Path) -> None:
    """Attach an XDP program that passes everything.

    veth drops in silence what its peer sends by XDP_TX unless a program is
    attached here. ``bpffs`` is where the program is pinned for a moment: ``ip``
    takes it from there.
    """
    path = bpffs / f"pass-{name}"
    program = bpf.load_return(bpf.PROG_TYPE_XDP, bpf.XDP_PASS)
    try:
        bpf.pin(program, str(path))
        try:
            run("ip", "-n", namespace, "link", "set", name, "xdpdrv", "pinned", str(path))
        finally:
            path.unlink()
    except OSError as error:
        raise KernelError(f"XDP program for {name}: {error.strerror}") from error
    finally:
        os.close(program)


def exec_argv(namespace: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` in a namespace, as the same process."""
    return ["ip", "netns", "exec", namespace, *argv]


def mount_bpffs(path: Path) -> None:
    """A bpffs of its own, which only root may enter."""
    path.mkdir(mode=0o700)
    run("mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(path))


def unmount(path: str) -> bool:
    """Whether something was mounted there."""
    if not os.path.ismount(path):
        return False
    run("umount", path)
    return True


def python_path() -> str:
    """Where the package is found, for processes that the lab starts."""
    here = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return f"{here}{os.pathsep}{rest}" if rest else here


def tool_path() -> str:
    """PATH with this Python's scripts (``flyebpf``) first, and with the folders
    of ``nft``, ``tc`` and ``nginx``, which users' PATH often lacks."""
    usual = os.environ.get("PATH", "").split(os.pathsep)
    folders = [str(Path(sys.executable).parent), *usual, *SYSTEM_PATH]
    return os.pathsep.join(dict.fromkeys(filter(None, folders)))


def tool(name: str) -> str | None:
    """Where a program is, on the PATH that nodes get."""
    return shutil.which(name, path=tool_path())
