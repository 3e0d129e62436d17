# SPDX-License-Identifier: Apache-2.0
"""From commands to answers: host names, certificates and first addresses, with curl
against a server in a VM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.rig import TOOLS, Rig, tool_argv
from tests.pki import Made, make

pytestmark = pytest.mark.root

NAME, OWN = "shop.fly.test", "www.example.com"
FLY_TOML = """
app = "shop"
[http_service]
internal_port = 8080
force_https = true
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """App shop behind its first addresses, with the operator's certificate."""
    made = Rig(f"y{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-names"))
    up = made.command("lab", "up", "--empty", "--proxy", check=False)
    if up.returncode != 0:
        pytest.exit(f"the lab does not come up:\n{up.stdout}{up.stderr}", returncode=1)
    folder = tmp_path_factory.mktemp("shop")
    (folder / "fly.toml").write_text(FLY_TOML)
    flyebpf(made, "orgs", "create", "demo")
    flyebpf(made, "apps", "create", "shop", "-o", "demo")
    server = (sys.executable, str(TOOLS / "say.py"), "8080", "shop1")
    made.command("lab", "vm", "add", "--host", "host1", "--app", "shop", "--", *server)
    certify(made, folder, make("*.fly.test"), "*.fly.test", "--operator")
    flyebpf(made, "deploy", "-a", "shop", "-c", str(folder / "fly.toml"))
    made.until(lambda: asked(made, NAME).get("name") == "shop1", "it is served", 10)
    yield made
    made.command("lab", "down")


def flyebpf(rig: Rig, *arguments: str) -> str:
    return rig.command("lab", "exec", "host1", "--", "flyebpf", *arguments).stdout


def certify(rig: Rig, folder: Path, made: Made, host: str, *whose: str) -> None:
    (folder / "chain.pem").write_text(made.pem)
    (folder / "key.pem").write_text(made.key_pem)
    files = ("--cert", str(folder / "chain.pem"), "--key", str(folder / "key.pem"))
    flyebpf(rig, "certs", "add", host, *whose, *files)


def address(rig: Rig, kind: str) -> str:
    found = rig.api().get("/v1/addresses", {"app": "shop"})["items"]
    (text,) = (item["address"] for item in found if item["type"] == kind)
    return str(text)


def curl(
    rig: Rig, url: str, *options: str, kind: str = "shared_v4"
) -> subprocess.CompletedProcess[str]:
    """Ask the app's address of a kind, whatever the URL's host; not whom it trusts."""
    where = address(rig, kind)
    to = f"[{where}]" if ":" in where else where
    command = ("curl", "-sSk", "-m", "5", "--connect-to", f"::{to}:", *options, url)
    return rig.run("client1", *command, check=False)


def asked(rig: Rig, host: str, **more: str) -> dict[str, Any]:
    """What the server says that it was asked; empty for no answer of its."""
    try:
        return dict(json.loads(curl(rig, f"https://{host}/", **more).stdout))
    except ValueError:
        return {}


def test_the_first_deploys_addresses_lead_to_the_app(rig: Rig) -> None:
    """By its default host name, with the operator's certificate; IPv6 too."""
    assert asked(rig, NAME)["name"] == "shop1"
    assert asked(rig, NAME, kind="v6")["name"] == "shop1"
    plain = curl(rig, f"http://{NAME}/a", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}")
    assert plain.stdout == f"301 https://{NAME}/a"


def test_a_name_that_no_app_has_leads_nowhere(rig: Rig) -> None:
    plain = curl(rig, "http://none.fly.test/", "-o", "/dev/null", "-w", "%{http_code}")
    assert plain.stdout == "404"
    secure = curl(rig, "https://none.fly.test/")
    assert secure.returncode == 35, "the handshake fails, though the certificate would fit"


def test_a_name_is_served_from_its_certificate_to_its_removal(rig: Rig, tmp_path: Path) -> None:
    assert asked(rig, OWN) == {}
    certify(rig, tmp_path, make(OWN), OWN, "-a", "shop")
    rig.until(lambda: asked(rig, OWN).get("name") == "shop1", "its name is served")
    flyebpf(rig, "certs", "remove", OWN, "-y")
    rig.until(lambda: asked(rig, OWN) == {}, "its name is served no longer")
    assert asked(rig, NAME)["name"] == "shop1"


def test_a_renewal_ends_no_connection(rig: Rig, tmp_path: Path) -> None:
    """A connection goes on with what it was shown; the next one is shown the new one."""
    certify(rig, tmp_path, make(OWN), OWN, "-a", "shop")
    rig.until(lambda: asked(rig, OWN).get("name") == "shop1", "its name is served")
    kept = keep(rig)
    certify(rig, tmp_path, make(OWN), OWN, "-a", "shop")
    fingerprint = rig.api().get(f"/v1/certificates/{OWN}")["fingerprint"]
    rig.until(lambda: finish(keep(rig))["shown"] == fingerprint, "the new one is shown")
    found = finish(kept, "again\n")
    assert found["shown"] != fingerprint
    assert found["statuses"] == [200, 200]


def keep(rig: Rig) -> subprocess.Popen[str]:
    """A kept connection that has got its first answer."""
    argv = rig.argv("client1", tool_argv("kept_tls", address(rig, "shared_v4"), OWN))
    pipe = subprocess.PIPE
    running = subprocess.Popen(argv, env=rig.environment, stdin=pipe, stdout=pipe, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    return running


def finish(running: subprocess.Popen[str], lines: str = "") -> dict[str, Any]:
    output, _ = running.communicate(lines, timeout=10)
    return dict(json.loads(output))
