# SPDX-License-Identifier: Apache-2.0
"""Which certificate clients are shown, and where their connections lead: openssl and
curl against servers in VMs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flyebpf.api.client import path
from tests.netns.proxied import proxied
from tests.netns.rig import ORG, TOOLS, App, Rig
from tests.pki import Made, make

pytestmark = pytest.mark.root

SIGNED = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 443
handlers = ["http", "tls"]
tls_options = { default_self_signed = true }
[[services.ports]]
port = 8443
handlers = ["tls"]
tls_options = { default_self_signed = true, alpn = ["http/1.1"], versions = ["TLSv1.3"] }
"""
PLAIN = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 443
handlers = ["http", "tls"]
[[services.ports]]
port = 8443
handlers = ["tls"]
tls_options = { alpn = ["http/1.1"] }
"""
VOUCHES_FOR_NOBODY = "*.fly.test"
"""What the certificate of ``default_self_signed`` is called."""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One host with a proxy, one client."""
    with proxied("s") as made:
        yield made


def serve(rig: Rig, name: str, services: str) -> App:
    app = rig.create_app(name, services)
    rig.add_vm(app, f"{name}1", sys.executable, str(TOOLS / "say.py"), "8080", f"{name}1")
    rig.until(lambda: rig.listening(f"{name}1", "tcp", 8080), f"{name}1 listens")
    return app


@pytest.fixture(scope="module")
def signed(rig: Rig) -> App:
    """Without a certificate."""
    app = serve(rig, "signed", SIGNED)
    rig.until(lambda: said(rig, app, "x.example.com") == "signed1", "it is served", 10)
    return app


@pytest.fixture(scope="module")
def plain(rig: Rig) -> App:
    """With certificates, one of them for all names of a domain."""
    app = serve(rig, "plain", PLAIN)
    certify(rig, app, "www.plain.example", make("www.plain.example", "more.plain.example"))
    certify(rig, app, "*.wild.example", make("*.wild.example"))
    rig.until(lambda: said(rig, app, "www.plain.example") == "plain1", "it is served", 10)
    return app


def certify(rig: Rig, app: App, host: str, made: Made) -> None:
    body = {"hostname": host, "app": app.name, "certificate": made.pem, "key": made.key_pem}
    rig.api().post("/v1/certificates", body)
    rig.settle()


def said(rig: Rig, app: App, host: str, port: int = 443, *options: str) -> str:
    """The name of the server that answers; "" for none."""
    url = f"https://{host}:{port}/"
    command = ("curl", "-sSk", "-m", "5", "--connect-to", f"::{app.vip}:", *options, url)
    done = rig.run("client1", *command, check=False)
    try:
        return str(json.loads(done.stdout)["name"])
    except ValueError:
        return ""


def shake(rig: Rig, app: App, port: int, *options: str) -> subprocess.CompletedProcess[str]:
    """What openssl says of a handshake."""
    target = ("-connect", f"{app.vip}:{port}")
    command = ("timeout", "5", "openssl", "s_client", *target, *options)
    argv = rig.argv("client1", command)
    return subprocess.run(
        argv, env=rig.environment, input="", capture_output=True, text=True, check=False
    )


def shown(rig: Rig, app: App, port: int, *options: str) -> str:
    """The common name of the certificate that a client is shown; "" for none."""
    found = re.search(r"subject=CN = (\S+)", shake(rig, app, port, *options).stdout)
    return found[1] if found else ""


@pytest.mark.parametrize("port", [443, 8443])
@pytest.mark.parametrize(
    "name", [("-noservername",), ("-servername", "a.example.com"), ("-servername", "signed.test")]
)
def test_without_a_certificate(rig: Rig, signed: App, port: int, name: tuple[str, ...]) -> None:
    assert shown(rig, signed, port, *name) == VOUCHES_FOR_NOBODY
    assert said(rig, signed, "any.example.com", port) == "signed1"
    assert said(rig, signed, signed.vip, port) == "signed1"  # which says no name


def test_another_apps_name_shows_nothing_of_that_app(rig: Rig, signed: App, plain: App) -> None:
    assert shown(rig, signed, 443, "-servername", "www.plain.example") == VOUCHES_FOR_NOBODY


@pytest.mark.parametrize("port", [443, 8443])
def test_wildcards(rig: Rig, plain: App, port: int) -> None:
    """Every name one label below, and no other."""
    for name in ("a.wild.example", "B.wild.example", "www.plain.example"):
        assert said(rig, plain, name, port) == "plain1"
    for name in ("wild.example", "a.b.wild.example", "more.plain.example", plain.vip):
        assert said(rig, plain, name, port) == ""


SHARED = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 8443
handlers = ["http", "tls"]
[[services.ports]]
port = 443
handlers = ["http", "tls"]
"""
ALONE = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 8443
handlers = ["tls"]
"""


def test_other_ports_of_shared_addresses(rig: Rig, signed: App) -> None:
    """At the same port one app's connections are HTTP, and another's are as they are."""
    api = rig.api()
    for name, services in (("both", SHARED), ("alone", ALONE)):
        api.post(path("apps"), {"name": name, "org": ORG})
        given = api.post(path("apps", name, "addresses"), {"type": "shared_v4"})
        app = App(name, given["address"])
        rig.deploy(app, services)
        rig.add_vm(app, f"{name}1", sys.executable, str(TOOLS / "say.py"), "8080", f"{name}1")
        certify(rig, app, f"www.{name}.example", make(f"www.{name}.example"))
    for name in ("both", "alone"):
        rig.until(
            lambda name=name: said(rig, app, f"www.{name}.example", 8443) == f"{name}1",
            "it is served",
            10,
        )
    url, to = "https://www.both.example:8443/x", ("--connect-to", f"::{app.vip}:")
    for host in ("www.both.example", "WWW.both.example:8443"):
        options = ("-sSk", "-m", "5", *to, "-H", f"Host: {host}")
        answer = json.loads(rig.run("client1", "curl", *options, url).stdout)
        found = dict(answer["headers"])
        assert found["fly-client-ip"] == rig.lab.clients["client1"].address
        assert (found["fly-forwarded-port"], found["x-forwarded-proto"]) == ("8443", "https")
        assert "x-flyebpf-vhost" not in found
    plain = json.loads(
        rig.run("client1", "curl", "-sSk", "-m", "5", *to, "https://www.alone.example:8443/").stdout
    )
    assert "fly-client-ip" not in dict(plain["headers"])
    assert said(rig, app, "www.other.example", 8443) == ""


def test_versions_and_protocols(rig: Rig, signed: App, plain: App) -> None:
    old = shake(rig, signed, 8443, "-tls1_2")
    assert "alert protocol version" in old.stderr
    for protocols, chosen in (("h2,http/1.1", "http/1.1"), ("h2", "")):
        done = shake(rig, signed, 8443, "-alpn", protocols)
        assert (f"ALPN protocol: {chosen}" in done.stdout) is bool(chosen)
        assert ("No ALPN negotiated" in done.stdout) is not bool(chosen)
    done = shake(rig, plain, 443, "-servername", "www.plain.example", "-alpn", "http/1.1,h2")
    assert "ALPN protocol: h2" in done.stdout
    assert "-----BEGIN CERTIFICATE" in done.stdout


def test_the_first_certificate_and_the_last(rig: Rig, signed: App) -> None:
    """Then clients that say its name are shown it, those that say none the other one,
    and those of other names nothing."""
    certify(rig, signed, "own.example", make("own.example"))
    for port in (443, 8443):
        rig.until(
            lambda port=port: said(rig, signed, "own.example", port) == "signed1", "it is served"
        )
        assert shown(rig, signed, port, "-servername", "own.example") == "own.example"
        assert shown(rig, signed, port, "-noservername") == VOUCHES_FOR_NOBODY
        assert said(rig, signed, signed.vip, port) == "signed1"
        assert shown(rig, signed, port, "-servername", "other.example") == ""
    rig.api().delete(path("certificates", "own.example"))
    rig.settle()
    rig.until(
        lambda: shown(rig, signed, 443, "-servername", "own.example") == VOUCHES_FOR_NOBODY,
        "it is shown no longer",
    )
