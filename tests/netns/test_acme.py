# SPDX-License-Identifier: Apache-2.0
"""Certificates by ACME, from Pebble, an authority for tests that looks as a real one
does: from outside, at the addresses that the names lead to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.client import path
from tests.netns.proxied import proxied
from tests.netns.rig import TOOLS, App, Rig

pytestmark = pytest.mark.root

SERVICES = """
[http_service]
internal_port = 8080
force_https = true
"""
NAME, OTHER, LOST = "www.example.com", "api.example.com", "lost.example.com"
DIRECTORY, MANAGEMENT, DNS, FACTS = 14000, 15000, 8053, 8055


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One host with a proxy, one client."""
    with proxied("a") as made:
        yield made


@pytest.fixture(scope="module")
def app(rig: Rig) -> App:
    made = rig.create_app("web", SERVICES)
    rig.add_vm(made, "web1", sys.executable, str(TOOLS / "say.py"), "8080", "web1")
    return made


@pytest.fixture(scope="module")
def authority(rig: Rig, app: App) -> Iterator[str]:
    """Its address; whatever name it looks up leads to the app's."""
    folder = Path(f"/run/flyebpf-test-{os.getpid()}-pebble")
    folder.mkdir(mode=0o755)
    address = rig.lab.clients["client1"].address
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    subprocess.run(
        [
            *(*command, "-nodes", "-keyout", str(folder / "key"), "-out", str(folder / "cert")),
            *("-subj", "/CN=pebble", "-addext", f"subjectAltName=IP:{address}", "-days", "9"),
        ],
        check=True,
        capture_output=True,
    )
    config = {
        "listenAddress": f"0.0.0.0:{DIRECTORY}",
        "managementListenAddress": f"127.0.0.1:{MANAGEMENT}",
        "certificate": str(folder / "cert"),
        "privateKey": str(folder / "key"),
        "httpPort": 80,
        "tlsPort": 443,
    }
    (folder / "config").write_text(json.dumps({"pebble": config}))
    facts = ("pebble-challtestsrv", "-defaultIPv4", app.vip, "-defaultIPv6", "", "-http01", "",
             "-https01", "", "-tlsalpn01", "", "-dns01", f"127.0.0.1:{DNS}",
             "-management", f"127.0.0.1:{FACTS}")  # fmt: skip
    server = ("env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "pebble", "-config",
              str(folder / "config"), "-dnsserver", f"127.0.0.1:{DNS}")  # fmt: skip
    with rig.background("client1", *facts), rig.background("client1", *server):
        ask = ("curl", "-sSk", "-m", "2", f"https://{address}:{DIRECTORY}/dir")
        rig.until(lambda: rig.run("host1", *ask, check=False).returncode == 0, "Pebble answers", 10)
        configure(rig, address, folder / "cert", "http-01")
        yield address
    shutil.rmtree(folder)


def configure(rig: Rig, address: str, ca_file: Path, challenge: str) -> None:
    """Have the host's daemon ask this authority."""
    file = rig.where.host("host1") / "flyebpf.toml"
    before = file.read_text().split("\n[acme]\n")[0]
    lines = (
        f'directory = "https://{address}:{DIRECTORY}/dir"',
        f'challenge = "{challenge}"\nca_file = "{ca_file}"\nemail = "ops@example.com"',
    )
    file.write_text(before + "\n[acme]\n" + "\n".join(lines) + "\n")
    rig.command("lab", "daemon", "stop", "host1")
    rig.command("lab", "daemon", "start", "host1")


def flyebpf(rig: Rig, *arguments: str, check: bool = True) -> str:
    done = rig.command("lab", "exec", "host1", "--", "flyebpf", *arguments, check=check)
    return done.stdout + done.stderr


def status(rig: Rig, name: str) -> dict[str, Any]:
    return dict(rig.api().get(path("acme", name)))


def shown(rig: Rig, app: App, name: str) -> str:
    """Who has issued what a client is shown."""
    command = ("timeout", "5", "openssl", "s_client", "-connect", f"{app.vip}:443")
    argv = rig.argv("client1", (*command, "-servername", name))
    done = subprocess.run(argv, input="", capture_output=True, text=True, check=False)
    return next((line for line in done.stdout.splitlines() if line.startswith("issuer=")), "")


def test_http(rig: Rig, app: App, authority: str) -> None:
    """By a request to port 80, which is not redirected."""
    said = flyebpf(rig, "certs", "add", NAME, "-a", "web", "--acme")
    assert "certs check" in said
    rig.until(lambda: status(rig, NAME)["state"] in ("issued", "failed"), "it is decided", 30)
    assert status(rig, NAME) | {"created": ""} == {
        **{"hostname": NAME, "app": "web", "state": "issued", "error": "", "attempts": 0},
        **{"next_try": "", "host": "", "created": ""},
    }
    rig.until(lambda: "Pebble" in shown(rig, app, NAME), "it is served", 10)
    listed = flyebpf(rig, "certs", "list", "-a", "web")
    assert "Pebble" in listed
    assert listed.split()[-1] == "issued"
    (key,) = Path(rig.where.host("host1")).rglob("acme-*.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.stat().st_uid == 0
    assert rig.api().get("/v1/certificates/" + NAME)["app"] == "web"


def test_tls(rig: Rig, app: App, authority: str) -> None:
    """By a handshake at port 443."""
    file = rig.where.host("host1") / "flyebpf.toml"
    (ca_file,) = [line for line in file.read_text().splitlines() if line.startswith("ca_file")]
    configure(rig, authority, Path(ca_file.split('"')[1]), "tls-alpn-01")
    flyebpf(rig, "certs", "add", OTHER, "-a", "web", "--acme")
    rig.until(lambda: status(rig, OTHER)["state"] in ("issued", "failed"), "it is decided", 30)
    assert status(rig, OTHER)["error"] == ""
    rig.until(lambda: "Pebble" in shown(rig, app, OTHER), "it is served", 10)


def test_a_name_that_leads_elsewhere(rig: Rig, app: App, authority: str) -> None:
    """What the authority has found is shown; `certs check` tries again at once."""
    lead(rig, LOST, "127.0.0.1")
    flyebpf(rig, "certs", "add", LOST, "-a", "web", "--acme")
    rig.until(lambda: status(rig, LOST)["state"] == "failed", "it has failed", 30)
    found = status(rig, LOST)
    assert "127.0.0.1" in found["error"]
    assert found["attempts"] == 1
    assert found["next_try"] > found["created"]
    assert found["error"][:40] in flyebpf(rig, "certs", "list", "-a", "web")
    (problem,) = rig.api().get("/v1/status")["problems"]
    assert problem["object"] == f"certificate {LOST}"
    lead(rig, LOST, app.vip)
    flyebpf(rig, "certs", "check", LOST)
    rig.until(lambda: status(rig, LOST)["state"] == "issued", "it is issued", 30)
    assert rig.api().get("/v1/status")["problems"] == []


def lead(rig: Rig, name: str, address: str) -> None:
    """What the authority finds in the DNS."""
    body = {"host": f"{name}.", "addresses": [address]}
    for verb in ("clear-a", "add-a"):
        url = f"http://127.0.0.1:{FACTS}/{verb}"
        rig.run("client1", "curl", "-sS", "-f", "-d", json.dumps(body), url)


def test_removed(rig: Rig, app: App, authority: str) -> None:
    flyebpf(rig, "certs", "remove", LOST, "-y")
    assert LOST not in flyebpf(rig, "certs", "list", "-a", "web")
    rig.until(lambda: shown(rig, app, LOST) == "", "it is served no longer", 10)
    assert shown(rig, app, NAME) != ""
