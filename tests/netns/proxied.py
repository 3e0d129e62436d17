# SPDX-License-Identifier: Apache-2.0
"""What tests of the proxy share: a lab with one, certificates, answers as seen."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.client import path
from tests.netns.rig import ORG, App, Rig


@contextmanager
def proxied(name: str) -> Iterator[Rig]:
    """One host with a proxy, one client. ``name``: of the lab, a few letters."""
    made = Rig(f"{name}{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-{name}"))
    up = made.command("lab", "up", "--empty", "--proxy", check=False)
    if up.returncode != 0:
        pytest.exit(f"the lab does not come up:\n{up.stdout}{up.stderr}", returncode=1)
    try:
        yield made
    finally:
        made.command("lab", "down")


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate that has signed itself, and its key."""
    cert, key = folder / f"{host}.pem", folder / f"{host}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(cert), "-days", "90"),
            *("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def add_certificate(rig: Rig, folder: Path, app: App, host: str) -> Path:
    """The certificate's file."""
    cert, key = certificate(folder, host)
    command = ("flyebpf", "certs", "add", host, "-a", app.name)
    rig.command("lab", "exec", "host1", "--", *command, "--cert", str(cert), "--key", str(key))
    return cert


def create_shared(rig: Rig, name: str, services: str) -> App:
    """An app behind the shared address."""
    api = rig.api()
    if ORG not in {org["name"] for org in api.get(path("orgs"))["items"]}:
        api.post(path("orgs"), {"name": ORG})
    api.post(path("apps"), {"name": name, "org": ORG})
    vip = api.post(path("apps", name, "addresses"), {"type": "shared_v4"})["address"]
    app = App(name, vip)
    rig.deploy(app, services)
    return app


def curl(
    rig: Rig, app: App, url: str, *options: str, node: str = "client1", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Ask for a URL at the app's address, whatever its host."""
    resolve = ("--connect-to", f"::{app.vip}:")
    command = ("curl", "-sS", "-m", "10", *resolve, *options, url)
    return rig.run(node, *command, check=check)


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What ``say.py`` says that it was asked; empty for no answer of its."""
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        return {}


def envoy_of(rig: Rig, host: str = "host1") -> int:
    """The one Envoy that runs there."""
    (found,) = envoys(rig, host)
    return found


def envoys(rig: Rig, host: str = "host1") -> set[int]:
    listed = rig.run(host, "sh", "-c", "ip netns pids $(ip netns identify)").stdout.split()
    return {int(pid) for pid in listed if _is_envoy(Path(f"/proc/{pid}/cmdline"))}


def _is_envoy(command: Path) -> bool:
    try:
        return b"--disable-hot-restart" in command.read_bytes()
    except OSError:  # it has ended since
        return False
