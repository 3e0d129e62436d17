# SPDX-License-Identifier: Apache-2.0
"""``flyebpf doctor -a APP`` in a lab: each cause is made, and named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.api.client import path
from flyebpf.lab import state, vms
from tests.netns.rig import ORG, TOOLS, App, Rig, service
from tests.pki import make

pytestmark = pytest.mark.root

WEB = """
[http_service]
internal_port = 8080
force_https = {force}
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 7000
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 8443
handlers = ["tls"]
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 5432
handlers = ["pg_tls"]
[[services]]
protocol = "udp"
internal_port = 5000
[[services.ports]]
port = 5000
"""
Found = list[dict[str, str]]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One host with a proxy and a certificate for all apps' default names."""
    made = Rig(f"d{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-doctor"))
    up = made.command("lab", "up", "--empty", "--proxy", check=False)
    if up.returncode != 0:
        pytest.exit(f"the lab does not come up:\n{up.stdout}{up.stderr}", returncode=1)
    folder = tmp_path_factory.mktemp("doctor")
    pair = make("*.fly.test")
    (folder / "chain.pem").write_text(pair.pem)
    (folder / "key.pem").write_text(pair.key_pem)
    files = ("--cert", str(folder / "chain.pem"), "--key", str(folder / "key.pem"))
    flyebpf(made, "certs", "add", "*.fly.test", "--operator", *files)
    yield made
    made.command("lab", "down")


def flyebpf(rig: Rig, *arguments: str, check: bool = True) -> str:
    return rig.command("lab", "exec", "host1", "--", "flyebpf", *arguments, check=check).stdout


def doctor(rig: Rig, app: str, only: str = "app-") -> Found:
    """What the checks found whose names begin so."""
    told = flyebpf(rig, "doctor", "-a", app, "--only", only, "--json", check=False)
    found: Found = json.loads(told)
    assert found
    return found


def wrong(found: Found) -> Found:
    return [f for f in found if f["state"] not in ("ok", "skipped")]


def make_vm(rig: Rig, app: App, name: str, *command: str) -> None:
    """Without a process for the command line."""
    with state.locked(rig.where):
        vms.add(rig.where, rig.lab, host="host1", app=app.name, name=name, command=command)


def allocate(rig: Rig, app: str, kind: str, **more: str) -> str:
    body = {"type": kind, **more}
    made = rig.api().post(path("apps", app, "addresses"), body)
    return str(made["address"])


@pytest.fixture(scope="module")
def web(rig: Rig) -> App:
    """Reached in every way: by the kernel and the proxy, IPv4, IPv6, Flycast, UDP."""
    app = rig.create_app("web", WEB.format(force="false"))
    server = f"{sys.executable} {TOOLS / 'listen.py'} [::] 8080"
    echo = f"{sys.executable} -m flyebpf.lab.udp_echo --name web1 --port 5000"
    rig.add_vm(app, "web1", "sh", "-c", f"{server} & exec {echo}")
    for protocol, port in (("tcp", 8080), ("udp", 5000)):
        rig.until(lambda p=protocol, n=port: rig.listening("web1", p, n), "web1 listens")  # type: ignore[misc]
    for kind in ("v6", "private_v6"):
        allocate(rig, app.name, kind)
    rig.settle()
    rig.until(lambda: not _failed(doctor(rig, "web")), "all is well", 20)
    return app


def _failed(found: Found) -> Found:
    """But for UDP over IPv6: the echo server listens on fly-global-services."""
    return [f for f in found if f["state"] == "failed" and "udp 5000 at 2001:" not in f["message"]]


def test_all_is_well(rig: Rig, web: App) -> None:
    """Each way is really asked, and answers."""
    found = doctor(rig, "web")
    texts = [f"{f['check']} {f['message']}" for f in found if f["state"] == "ok"]
    for part in (
        "app-listening machine ", "port 8080: it listens, on IPv4 and IPv6",
        f"app-edge tcp 7000 at {web.vip}: machine ", "app-edge tcp 7000 at 2001:db8:a:1::",
        f"app-edge udp 5000 at {web.vip}: machine ",
        f"app-anycast tcp 80 [http] at {web.vip}, http://web.fly.test:80/: 200",
        f"app-anycast tcp 443 [http, tls] at {web.vip}, https://web.fly.test:443/: 200",
        f"app-anycast tcp 8443 [tls] at {web.vip}, server name web.fly.test: the handshake is made",
        f"app-anycast tcp 5432 [pg_tls] at {web.vip}, server name web.fly.test: the handshake is",
        "https://web.fly.test:443/: 200", "app-flycast tcp 80 [http] at fdaa:",
        "app-flycast tcp 7000 at fdaa:", "app-6pn machine ",
        "app-certificates the certificate of *.fly.test is valid until",
    ):  # fmt: skip
        assert any(part in text for text in texts), (part, found)
    udp6 = [f for f in found if f["state"] == "failed"]
    assert ["nobody listens at [::]:5000" in f["message"] for f in udp6] == [True], udp6
    (warned, *_) = [f for f in found if f["state"] == "warning"]
    assert "do not know who issued" in warned["message"]


def test_nothing_is_left_behind(rig: Rig, web: App) -> None:
    """No connection stays half open in the machine, and no answer was dropped."""
    ours = ("dns_limit", "vm_to_host", "host_source", "not_for_vm", "reply_no_flow", "ipv6",
            "no_service", "needs_proxy", "redirect")  # fmt: skip
    before = rig.drops()
    for check in ("app-edge", "app-listening", "app-6pn"):
        doctor(rig, "web", check)
    half = ("ss", "-Htn", "state", "syn-recv")
    rig.until(lambda: rig.run("web1", *half).stdout == "", "no connection is half open")
    after = rig.drops()
    assert {r: after.get(r, 0) - before.get(r, 0) for r in ours} == dict.fromkeys(ours, 0)


def test_redirects(rig: Rig, web: App) -> None:
    """Flycast cannot have them: ``deploy`` refuses, so its address goes first."""
    (private,) = [a["address"] for a in rig.api().get(path("addresses"), {"app": "web"})["items"]
                  if a["type"] == "private_v6"]  # fmt: skip
    release = path("apps", "web", "addresses", "release")
    rig.api().post(release, {"addresses": [private]})
    rig.deploy(web, WEB.format(force="true"))
    said = "http://web.fly.test:80/: 301 to https"
    rig.until(
        lambda: any(said in f["message"] for f in doctor(rig, "web", "app-anycast")), said, 20
    )
    rig.deploy(web, WEB.format(force="false"))
    allocate(rig, "web", "private_v6")
    rig.settle()


def test_machines_that_get_nothing(rig: Rig, web: App) -> None:
    for verb, back, text in (("cordon", "uncordon", "are cordoned"), ("stop", "start", "none of")):
        rig.machine(verb, "web1")
        (finding,) = doctor(rig, "web", "app-machines")
        assert finding["state"] == "failed"
        assert text in finding["message"]
        assert finding["remedy"].endswith(rig.vm("web1").machine)
        rig.machine(back, "web1")


@pytest.fixture(scope="module")
def sick(rig: Rig, web: App) -> dict[str, dict[str, str]]:
    """What is found of an app whose machines each have something wrong, by machine."""
    app = rig.create_app("sick", service("tcp", 8080, 80), service("udp", 5000, 5000))
    allocate(rig, "sick", "private_v6")
    for name, address, port in (
        ("v4", "0.0.0.0", 8080),
        ("loopback", "127.0.0.1", 8080),
        ("elsewhere", "[::]", 3000),
        ("sixpn", "sixpn", 8080),
    ):
        make_vm(rig, app, name, sys.executable, str(TOOLS / "listen.py"), address, str(port))
        rig.until(lambda n=name, p=port: rig.listening(n, "tcp", p), f"{name} listens")  # type: ignore[misc]
    make_vm(rig, app, "hangs")
    drop = "add table inet x; add chain inet x in { type filter hook input priority 0; }; " \
           "add rule inet x in meta l4proto tcp drop"  # fmt: skip
    rig.run("hangs", "nft", drop)
    rig.settle()
    listening, edge = doctor(rig, "sick", "app-listening"), doctor(rig, "sick", "app-edge")
    by_machine = {
        name: next(f for f in listening if rig.vm(name).machine in f["message"])
        for name in ("v4", "loopback", "elsewhere", "sixpn", "hangs")
    }
    by_machine["edge"] = {f["message"]: f["state"] for f in edge}
    return by_machine


CAUSES = {
    "v4": ("warning", "it listens on IPv4 alone"),
    "sixpn": ("failed", "bound to the wrong address family: it listens on IPv6 alone"),
    "loopback": ("failed", "or on 127.0.0.1 alone"),
    "elsewhere": ("failed", "something does on port 3000: the wrong port"),
    "hangs": ("failed", "does not answer: it hangs, or has a firewall of its own"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_where_it_listens(sick: dict[str, dict[str, str]], name: str) -> None:
    wanted, text = CAUSES[name]
    assert sick[name]["state"] == wanted
    assert text in sick[name]["message"]
    assert sick[name]["remedy"]


def test_what_clients_without_the_proxy_get(rig: Rig, sick: dict[str, dict[str, str]]) -> None:
    """Of the machines that the first packets meet."""
    found = sick["edge"]
    refused = [text for text, state in found.items() if "nobody listens at 0.0.0.0:8080" in text]
    udp = [text for text in found if "nobody listens at fly-global-services:5000" in text]
    assert refused, found
    assert udp, found
    assert not [t for t in found if rig.vm("v4").machine in t and t in refused]


def test_an_app_without_anything(rig: Rig, web: App) -> None:
    rig.api().post(path("apps"), {"name": "bare", "org": ORG})
    found = {f["check"]: f for f in wrong(doctor(rig, "bare"))}
    assert "no service is configured: the app has never been" in found["app-services"]["message"]
    assert "has no machine" in found["app-machines"]["message"]
    bare = App("bare", "")
    rig.deploy(bare, service("tcp", 8080, 7000))
    found = {f["check"]: f for f in wrong(doctor(rig, "bare"))}
    assert found["app-addresses"]["message"].startswith("no IP address is allocated")
    assert found["app-addresses"]["remedy"] == "flyebpf ips allocate-v4 -a bare"


def test_flycast_of_another_network(rig: Rig, web: App) -> None:
    rig.api().post(path("apps"), {"name": "far", "org": ORG, "network": "apart"})
    rig.api().post(path("apps"), {"name": "near", "org": ORG})
    rig.deploy(App("near", ""), service("tcp", 8080, 7000))
    allocate(rig, "near", "private_v6", network="apart")
    (finding,) = doctor(rig, "near", "app-callers")
    assert finding["state"] == "warning"
    assert "can be called from network test/apart alone" in finding["message"]
    assert finding["remedy"].startswith("flyebpf ips allocate-v6 --private -a near")
