# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of the proxy: metrics of apps, the access log, ``status``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.rig import TOOLS, App, Rig

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
[[services.ports]]
port = 9001
handlers = ["proxy_proto"]
"""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One host whose proxy logs, and has metrics of one app."""
    made = Rig(f"q{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-watch"))
    up = made.command("lab", "up", "--empty", "--proxy", check=False)
    if up.returncode != 0:
        pytest.exit(f"the lab does not come up:\n{up.stdout}{up.stderr}", returncode=1)
    config = made.where.host("host1") / "flyebpf.toml"
    folder = Path(tempfile.mkdtemp(prefix="flyebpf-log-"))
    folder.chmod(0o755)  # the proxy's user has to get there
    log = folder / "access.log"
    more = f'[proxy]\nmetrics_apps = 1\naccess_log = "{log}"\n'
    config.write_text(config.read_text().replace("[proxy]\n", more))
    made.command("lab", "daemon", "stop", "host1")
    made.command("lab", "daemon", "start", "host1")
    made.log = log  # type: ignore[attr-defined]
    made.until(
        lambda: made.api().get("/v1/status")["proxy"]["serving"],
        "the Envoy that logs has taken over from the first one",
        20,
    )
    yield made
    made.command("lab", "down")
    shutil.rmtree(folder)


def add(rig: Rig, name: str) -> App:
    app = rig.create_app(name, SERVICES)
    rig.add_vm(app, f"{name}1", sys.executable, str(TOOLS / "say.py"), "8080", name)
    rig.until(lambda: rig.listening(f"{name}1", "tcp", 8080), "the server listens")
    rig.until(lambda: ask(rig, app) == "200", f"{name} is served", 20)
    return app


def ask(rig: Rig, app: App, more: str = "/") -> str:
    code = ("-o", "/dev/null", "-w", "%{http_code}", "-A", "tester/1")
    url = f"http://{app.vip}{more}"
    return rig.run("client1", "curl", "-s", "-m", "5", *code, url, check=False).stdout


@pytest.fixture(scope="module")
def first(rig: Rig) -> App:
    return add(rig, "first")


@pytest.fixture(scope="module")
def second(rig: Rig, first: App) -> App:
    metrics(rig)  # `first` is seen before it
    return add(rig, "second")


def metrics(rig: Rig) -> dict[str, float]:
    text = rig.run("host1", "curl", "-sS", "http://127.0.0.1:9464/metrics").stdout
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("flyebpf_app")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_of_apps(rig: Rig, first: App, second: App) -> None:
    """The first has its own, the other is counted with the rest."""
    before = metrics(rig)
    for _ in range(3):
        assert ask(rig, first) == "200"
    for _ in range(2):
        assert ask(rig, second) == "200"
    good = 'flyebpf_app_requests_total{app="%s",code="2xx"}'
    timed = 'flyebpf_app_request_seconds_bucket{app="first",le="+Inf"}'

    def grown(name: str) -> float:
        return metrics(rig).get(name, 0) - before.get(name, 0)

    rig.until(lambda: grown(good % "first") == 3, "requests to the first are counted")
    rig.until(lambda: grown(good % "_rest") == 2, "those to the other too")
    # Envoy tells of times later than of requests: of earlier ones some may come now.
    rig.until(lambda: grown(timed) >= 3, "and how long they took")
    assert 'app="second"' not in str(metrics(rig))


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_access_log(rig: Rig, first: App) -> None:
    log: Path = rig.log  # type: ignore[attr-defined]
    assert ask(rig, first, "/a?b=c") == "200"
    rig.until(lambda: any(e.get("path") == "/a?b=c" for e in entries(log)), "it is logged", 20)
    (entry,) = [e for e in entries(log) if e.get("path") == "/a?b=c"]
    assert entry["client"].startswith(rig.lab.clients["client1"].address + ":")
    assert entry["machine"] == f"{rig.vm('first1').private_ip}:8080"
    said = {name: entry[name] for name in ("app", "address", "method", "host", "status", "agent")}
    assert said == {
        "app": "app/first", "address": f"{first.vip}:80", "method": "GET", "host": first.vip,
        "status": 200, "agent": "tester/1",
    }  # fmt: skip
    rig.run("client1", "curl", "-s", "-m", "5", f"http://{first.vip}:9001/")
    at = f"{first.vip}:9001"
    rig.until(lambda: any(e["address"] == at for e in entries(log)), "the connection too", 20)
    assert log.stat().st_mode & 0o777 == 0o640


def test_rotation(rig: Rig, first: App) -> None:
    """Renamed, then read again: new lines go to a new file."""
    log: Path = rig.log  # type: ignore[attr-defined]
    old = log.with_suffix(".1")
    log.rename(old)
    rig.api().post("/v1/reload")
    assert log.exists()
    assert ask(rig, first, "/rotated") == "200"
    rig.until(lambda: any(e.get("path") == "/rotated" for e in entries(log)), "it is there", 20)
    assert not [e for e in entries(old) if e.get("path") == "/rotated"]


def test_status(rig: Rig, first: App) -> None:
    found = rig.api().get("/v1/status")["proxy"]
    assert found["serving"]
    assert found["pid"] > 0
    assert found["apps"] >= 1
    shown = rig.command("lab", "exec", "host1", "--", "flyebpf", "status", check=False).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("Proxy")]
    assert f"Envoy serves {found['apps']} app" in line
    assert f"pid {found['pid']}, up " in line
