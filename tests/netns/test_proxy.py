# SPDX-License-Identifier: Apache-2.0
"""Services with handlers, served by Envoy: real clients, a real server in a VM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.client import path
from tests.netns.proxied import proxied
from tests.netns.rig import ORG, TOOLS, App, Rig

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
[[services.ports]]
port = 443
handlers = ["http", "tls"]
[[services.ports]]
port = 8443
handlers = ["tls"]
[[services.ports]]
port = 8000
handlers = ["http"]
force_https = true
[[services.ports]]
port = 9001
handlers = ["proxy_proto"]
[[services.ports]]
port = 9002
handlers = ["proxy_proto"]
proxy_proto_options = { version = "v2" }
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 7000
"""
SHARED_SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
[[services.ports]]
port = 443
handlers = ["http", "tls"]
"""
HOST, OTHER = "www.example.com", "other.example.com"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One host with a proxy, one client."""
    with proxied("x") as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


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


def add_server(rig: Rig, app: App, name: str) -> None:
    rig.add_vm(app, name, sys.executable, str(TOOLS / "say.py"), "8080", name)
    rig.until(lambda: rig.listening(name, "tcp", 8080), f"the server listens in {name}")


def add_certificate(rig: Rig, folder: Path, app: App, host: str) -> Path:
    cert, key = certificate(folder, host)
    command = ("flyebpf", "certs", "add", host, "-a", app.name)
    rig.command("lab", "exec", "host1", "--", *command, "--cert", str(cert), "--key", str(key))
    return cert


@pytest.fixture(scope="module")
def web(rig: Rig, folder: Path) -> App:
    """An app with an address of its own, and a certificate."""
    app = rig.create_app("web", SERVICES)
    add_server(rig, app, "web1")
    add_certificate(rig, folder, app, HOST)
    rig.until(lambda: fetch(rig, app, "https").get("name") == "web1", "it is served", 10)
    return app


@pytest.fixture(scope="module")
def other(rig: Rig, folder: Path) -> App:
    """Another tenant's, behind the shared address, with a certificate of its own."""
    api = rig.api()
    api.post(path("apps"), {"name": "other", "org": ORG})
    vip = api.post(path("apps", "other", "addresses"), {"type": "shared_v4"})["address"]
    app = App("other", vip)
    rig.deploy(app, SHARED_SERVICES)
    add_server(rig, app, "other1")
    add_certificate(rig, folder, app, OTHER)
    rig.until(lambda: fetch(rig, app, "https", OTHER).get("name") == "other1", "served", 10)
    return app


def curl(
    rig: Rig, app: App, url: str, *options: str, node: str = "client1", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Ask for a URL at the app's address, whatever its host."""
    resolve = ("--connect-to", f"::{app.vip}:")
    command = ("curl", "-sS", "-m", "5", *resolve, *options, url)
    return rig.run(node, *command, check=check)


def fetch(rig: Rig, app: App, scheme: str, host: str = HOST, *options: str) -> dict[str, Any]:
    """What the server says that it was asked; empty for no answer of its."""
    done = curl(rig, app, f"{scheme}://{host}/path?q=1", "-k", *options, check=False)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        return {}


def headers(answer: dict[str, Any]) -> dict[str, str]:
    """Each header once, or the test fails."""
    names = [name for name, _ in answer["headers"]]
    assert len(names) == len(set(names)), names
    return dict(answer["headers"])


SPOOFED = {
    "Fly-Client-IP": "6.6.6.6",
    "Fly-Forwarded-Port": "6",
    "Fly-Region": "evil",
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Port": "6",
    "X-Forwarded-Ssl": "maybe",
    "Via": "1.1 evil",
    "Fly-Preferred-Instance-Unavailable": "1",
    "Fly-Replay-Src": "instance=evil",
    "X-Flyebpf-Vhost": "203.0.113.2:80",
}


@pytest.mark.parametrize(
    ("scheme", "options", "port"),
    [("http", (), "80"), ("https", ("--http1.1",), "443"), ("https", ("--http2",), "443")],
)
def test_headers(rig: Rig, web: App, scheme: str, options: tuple[str, ...], port: str) -> None:
    """The app learns who asks, and not what they would have it believe."""
    lies = [word for name, value in SPOOFED.items() for word in ("-H", f"{name}: {value}")]
    answer = fetch(rig, web, scheme, HOST, *options, *lies)
    client = rig.lab.clients["client1"].address
    found = headers(answer)
    assert answer["request"] == "GET /path?q=1 HTTP/1.1"
    assert answer["peer"] == "172.16.0.1"  # this host's proxy, as machines see it
    assert found["host"] == HOST
    assert found.pop("via").endswith(" flyebpf")
    said = {name: found[name] for name in found if name.startswith(("fly-", "x-f"))}
    assert said == {
        "fly-client-ip": client,
        "fly-forwarded-port": port,
        "fly-region": "ams",
        "x-forwarded-for": client,
        "x-forwarded-proto": scheme,
        "x-forwarded-port": port,
        "x-forwarded-ssl": "on" if scheme == "https" else "off",
    }


def test_response_headers(rig: Rig, web: App) -> None:
    lines = curl(rig, web, f"http://{HOST}/", "-i").stdout.split("\r\n\r\n")[0].splitlines()
    names = [line.partition(":")[0].lower() for line in lines[1:]]
    assert {"fly-request-id", "via", "server"} <= set(names)
    assert "server: flyebpf" in lines


def test_bodies(rig: Rig, web: App, tmp_path: Path) -> None:
    sent = tmp_path / "body"
    sent.write_bytes(os.urandom(1 << 20))
    for scheme in ("http", "https"):
        answer = fetch(rig, web, scheme, HOST, "--data-binary", f"@{sent}")
        assert (answer["body"], answer["request"][:4]) == (1 << 20, "POST")


def test_versions_of_tls(rig: Rig, web: App, folder: Path) -> None:
    for version in ("1.2", "1.3"):
        done = curl(rig, web, f"https://{HOST}/", f"--tlsv{version}", "--tls-max", version,
                    "--cacert", str(folder / f"{HOST}.pem"), "-o", "/dev/null",
                    "-w", "%{http_code} %{http_version}")  # fmt: skip
        assert done.stdout == "200 2"
    old = curl(rig, web, f"https://{HOST}/", "-k", "--tlsv1.1", "--tls-max", "1.1", check=False)
    assert old.returncode == 35


def test_tls_alone(rig: Rig, web: App) -> None:
    """Decrypted, then as it is: the app sees plain HTTP without any header of ours."""
    answer = fetch(rig, web, "https", f"{HOST}:8443", "--http1.1")
    assert answer["name"] == "web1"
    assert {name for name, _ in answer["headers"]} == {"host", "user-agent", "accept"}


def test_unknown_server_name(rig: Rig, web: App) -> None:
    done = curl(rig, web, "https://unknown.example.com/", "-k", check=False)
    assert done.returncode == 35


@pytest.mark.parametrize("port", [443, 8443])
def test_another_apps_certificate_leads_nowhere(rig: Rig, web: App, other: App, port: int) -> None:
    """Whoever brings another app's clients to an address of its own gets none of what
    they say: the name is that app's, the address is not."""
    done = curl(rig, web, f"https://{OTHER}:{port}/secret", "-k", "-w", "%{http_code}", check=False)
    assert done.stdout in ("404", "000")
    assert "web1" not in done.stdout


def test_shared_address(rig: Rig, web: App, other: App) -> None:
    assert fetch(rig, other, "http", OTHER)["name"] == "other1"
    assert fetch(rig, other, "https", OTHER)["name"] == "other1"
    assert fetch(rig, other, "http", f"{OTHER.upper()}")["name"] == "other1"
    unknown = curl(rig, other, "http://unknown.example.com/", "-w", "%{http_code}")
    assert unknown.stdout == "404"
    mine = curl(rig, other, f"http://{HOST}/", "-w", "%{http_code}")  # not on shared addresses
    assert mine.stdout == "404"


def test_redirect(rig: Rig, web: App) -> None:
    done = curl(rig, web, f"http://{HOST}:8000/a?b=c", "-w", "%{http_code} %{redirect_url}")
    assert done.stdout.startswith("301 https://")
    assert done.stdout.endswith("/a?b=c")


def test_proxy_protocol(rig: Rig, web: App) -> None:
    client = rig.lab.clients["client1"].address
    first = curl(rig, web, "http://x:9001/").stdout
    words = json.loads(first)["proxy"].split()
    assert (words[:4], words[5]) == (["PROXY", "TCP4", client, web.vip], "9001")
    second = bytes.fromhex(json.loads(curl(rig, web, "http://x:9002/").stdout)["proxy"])
    assert second[:4] == b"\x21\x11\x00\x0c"  # version 2, PROXY, TCP over IPv4, 12 bytes
    assert ".".join(map(str, second[4:8])) == client
    assert ".".join(map(str, second[8:12])) == web.vip
    assert int.from_bytes(second[14:16], "big") == 9002


def test_ipv6(rig: Rig, web: App) -> None:
    """Over IPv6 the same app, and another client's address."""
    made = rig.api().post(path("apps", web.name, "addresses"), {"type": "v6"})
    own = App(web.name, f"[{made['address']}]")
    rig.settle()
    for scheme, port in (("http", "80"), ("https", "443")):
        rig.until(lambda scheme=scheme: bool(fetch(rig, own, scheme)), "it is served", 10)
        found = headers(fetch(rig, own, scheme))
        assert ":" in found["fly-client-ip"]
        assert found["fly-forwarded-port"] == port
    words = json.loads(curl(rig, own, "http://x:9001/").stdout)["proxy"].split()
    assert (words[:2], words[3]) == (["PROXY", "TCP6"], made["address"])
    release = {"addresses": [made["address"]]}
    rig.api().post(path("apps", web.name, "addresses", "release"), release)
    rig.settle()


def test_without_handlers_in_the_kernel(rig: Rig, web: App) -> None:
    """The same machine and port, and the client's own address."""
    answer = json.loads(curl(rig, web, "http://x:7000/").stdout)
    assert answer["peer"] == rig.lab.clients["client1"].address


def test_a_vm_as_client(rig: Rig, web: App) -> None:
    """The proxy of its own host serves it, by its own address."""
    done = curl(rig, web, f"http://{HOST}/", node="web1")
    assert headers(json.loads(done.stdout))["fly-client-ip"] == "172.16.0.2"


@pytest.fixture(scope="module")
def flycast(rig: Rig, other: App) -> App:
    """The other app at a private address of its network."""
    made = rig.api().post(path("apps", other.name, "addresses"), {"type": "private_v6"})
    rig.settle()
    return App(other.name, f"[{made['address']}]")


def test_flycast(rig: Rig, web: App, flycast: App) -> None:
    """From another app of its network, by the proxy of the caller's host."""
    asked = lambda: curl(rig, flycast, "http://x/", node="web1", check=False).stdout  # noqa: E731
    rig.until(lambda: "other1" in asked(), "it is served", 10)
    found = headers(json.loads(asked()))
    assert found["fly-client-ip"].startswith("fdaa:")
    rig.run("web1", "ping", "-c", "1", "-W", "2", flycast.vip.strip("[]"))
    sent = curl(rig, flycast, "http://x/", "--data-binary", "x" * 100_000, node="web1")
    assert json.loads(sent.stdout)["body"] == 100_000


def test_flycast_from_elsewhere(rig: Rig, web: App, flycast: App) -> None:
    """Another network's machines and clients outside have no way there; on the network
    nothing answers but what is served."""
    rig.api().post(path("apps"), {"name": "stranger", "org": ORG, "network": "apart"})
    rig.add_vm(App("stranger", ""), "stranger1")
    try:
        url = f"http://{flycast.vip}/"
        with rig.dropping("sixpn_network"):
            rig.cannot_curl("stranger1", url)
        rig.cannot_curl("client1", url)
        refused = rig.run(
            "web1", "curl", "-sS", "-m", "2", f"http://{flycast.vip}:22/", check=False
        )
        assert refused.returncode == 7  # at once, and by nobody
    finally:
        rig.command("lab", "vm", "remove", "stranger1")


def test_default_deny(rig: Rig, web: App, other: App) -> None:
    """The host's own services are at none of these addresses."""
    refused = f"import socket; socket.create_connection(({other.vip!r}, 9464), 2)"
    done = rig.run("client1", sys.executable, "-c", refused, check=False)
    assert "ConnectionRefusedError" in done.stderr
    with rig.dropping("no_service"):
        rig.cannot_curl("client1", f"http://{web.vip}:22/")
    with rig.dropping("vm_to_private"):
        rig.cannot_curl("web1", "http://172.16.0.1:80/")
    with rig.dropping("not_for_vm"):
        rig.run("host1", "curl", "-sS", "-m", "0.6", "--interface", "172.16.0.1",
                f"http://{rig.vm('web1').private_ip}:22/", check=False)  # fmt: skip


def envoys(rig: Rig) -> set[int]:
    """Ids of the host's Envoys."""
    listed = rig.run("host1", "sh", "-c", "ip netns pids $(ip netns identify)").stdout.split()
    found = set()
    for pid in listed:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"--disable-hot-restart" in command:
            found.add(int(pid))
    return found


def test_envoy_ends(rig: Rig, web: App) -> None:
    """Served again within two seconds, and it is told."""
    (before,) = envoys(rig)
    os.kill(before, signal.SIGKILL)
    begun = time.monotonic()
    rig.until(lambda: fetch(rig, web, "http").get("name") == "web1", "it is served again", 5)
    took = time.monotonic() - begun
    (after,) = envoys(rig)
    assert after != before
    assert took < 2.0
    (problem,) = rig.api().get("/v1/status")["problems"]
    assert problem["object"] == "proxy"
    assert problem["message"].startswith("Envoy has ended by itself and was started again (1 ")
    metrics = rig.run("host1", "curl", "-sS", "http://127.0.0.1:9464/metrics").stdout
    assert "flyebpf_proxy_up 1.0" in metrics
    assert 'flyebpf_proxy_restarts_total{process="envoy"} 1.0' in metrics
    assert 'flyebpf_proxy_requests_total{code="2xx"}' in metrics


def test_the_daemon_ends(rig: Rig, web: App) -> None:
    """Envoy serves on, and the next daemon finds it and goes on with it."""
    (before,) = envoys(rig)
    rig.command("lab", "daemon", "stop", "host1")
    assert fetch(rig, web, "http")["name"] == "web1"
    assert fetch(rig, web, "https")["name"] == "web1"
    rig.command("lab", "daemon", "start", "host1")
    assert envoys(rig) == {before}
    add_server(rig, web, "web2")
    rig.machine("stop", "web1")
    rig.until(lambda: fetch(rig, web, "http").get("name") == "web2", "the new machine serves", 10)
    rig.machine("start", "web1")
    rig.remove_vm(web, "web2")
    rig.until(lambda: fetch(rig, web, "http").get("name") == "web1", "the old one does", 10)


def test_the_daemon_is_killed_under_load(rig: Rig, web: App) -> None:
    """No request is lost, by its end as by the next one's start."""
    load = rig.begin("client1", "http_load", web.vip, 80, 30, 25)
    (before,) = envoys(rig)
    os.kill(rig.host().daemon.pid, signal.SIGKILL)
    assert fetch(rig, web, "https")["name"] == "web1"
    rig.command("lab", "daemon", "start", "host1")
    rig.settle()
    found = load.finish()
    assert envoys(rig) == {before}
    assert found["failed"] == 0, found
    assert found["ok"] > 0


def test_no_machine(rig: Rig, web: App) -> None:
    """One that is cordoned is not started for a client either."""
    rig.machine("cordon", "web1")
    rig.machine("stop", "web1")

    def code() -> str:
        """Of a request that waits for a second only: one that was on its way to the
        machine when it was stopped waits for longer."""
        ask = ("-m", "1", "-w", "%{http_code}", "-o", "/dev/null")
        return curl(rig, web, f"http://{HOST}/", *ask, check=False).stdout

    rig.until(lambda: code() == "503", "it is said that nobody serves", 10)
    rig.machine("start", "web1")
    rig.machine("uncordon", "web1")
    rig.until(lambda: fetch(rig, web, "http").get("name") == "web1", "it is served again")
