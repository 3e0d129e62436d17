# SPDX-License-Identifier: Apache-2.0
"""``flyebpf doctor -a APP``: why an app is not reached is found, named and given its
remedy. What machines and the proxy answer is set here; the lab's tests ask real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.backend import Problem, Severity
from flyebpf.api.probes import Edge, Fetched, Reply, Trust, Way
from flyebpf.config import ProxyConfig
from flyebpf.model.certificates import Certificate
from flyebpf.model.health import CheckResult, MachineChecks
from flyebpf.model.records import Address, AddressKind, Host
from flyebpf.ops import cluster
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.sqlite import SqliteStore
from tests.api import Api, use_proxy
from tests.fakes_backend import WEB, FakeBackend, FakeProbes, serving
from tests.unit.test_cli_commands import Cli, add_machine

FLY_TOML = """
app = "web"
[http_service]
internal_port = 8080
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 7000
[[services]]
protocol = "udp"
internal_port = 5000
[[services.ports]]
port = 5000
"""
UP = {"up": 1}
EMPTY = replace(WEB, answers=())


def deploy(cli: Cli, *changes: tuple[str, str]) -> None:
    text = FLY_TOML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path("fly.toml").write_text(text)
    cli.ok("deploy -a web --no-public-ips")


@dataclass
class Served:
    """A server for all tests; each gets a copy of the store that the first one filled."""

    backend: FakeBackend
    path: str
    filled: bytes = b""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as (backend, path):
        first = backend.store
        yield Served(backend, path)
        backend.store = first  # which the server's end closes


@pytest.fixture
def web(
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Cli]:
    """An app that is reached in every way."""
    monkeypatch.setenv("FLYEBPF_SOCKET", served.path)
    monkeypatch.delenv("FLY_APP", raising=False)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "state.db"
    if served.filled:
        file.write_bytes(served.filled)
    store = SqliteStore(file, durable=False)
    found = Cli(served.backend, capsys)
    vars(served.backend).update(vars(FakeBackend(store)))
    if not served.filled:
        cluster.ensure(store, served.backend.config)
    use_proxy(Api(served.backend, served.path))
    if not served.filled:
        fill(found)
        store.close()
        served.filled = file.read_bytes()
        store = served.backend.store = SqliteStore(file, durable=False)
    prepare(found)
    yield found
    store.close()


def fill(cli: Cli) -> None:
    cli.ok("orgs create acme")
    cli.ok("apps create web -o acme")
    add_machine(cli)
    deploy(cli)
    for command in ("allocate-v4", "allocate-v6", "allocate-v6 --private"):
        cli.ok(f"ips {command} -a web")


def prepare(cli: Cli) -> None:
    """What is told beside the store."""
    cli.backend.proxy_says = UP
    (machine,) = cli.json("machines list -a web")
    record = replace(WEB.answers[0], data=machine["ip_6pn"])
    cli.backend.answers["web.internal", "AAAA"] = replace(WEB, answers=(record,))
    edge = Edge(Way.MACHINE, machine["private_ip"], reply=Reply.OPEN)
    cli.backend.probes.edges = {("tcp", 7000): [edge], ("udp", 5000): [edge]}


def findings(cli: Cli) -> list[dict[str, str]]:
    """Those of the app's own checks."""
    _, out, _ = cli("doctor", "-a", "web", "--json")
    return [f for f in json.loads(out) if f["check"].startswith("app-")]


def wrong(cli: Cli) -> list[tuple[str, str, str, str]]:
    """Check, state, message and remedy of what is not well."""
    return [
        (f["check"], f["state"], f["message"], f["remedy"])
        for f in findings(cli)
        if f["state"] not in ("ok", "skipped")
    ]


def test_all_is_well(web: Cli) -> None:
    found = findings(web)
    skipped = [f["check"] for f in found if f["state"] == "skipped"]
    assert skipped == ["app-checks"]
    assert {f["state"] for f in found} == {"ok", "skipped"}
    assert not [f for f in found if f["remedy"]]
    texts = [f["message"] for f in found if f["check"] == "app-anycast"]
    assert texts == [
        f"tcp {port} at {address}, {url}: 200"
        for port, url in (("80 [http]", "http://web.fly.test:80/"),
                          ("443 [http, tls]", "https://web.fly.test:443/"))
        for address in ("198.51.100.1", "2001:db8:f::1")
    ]  # fmt: skip
    assert ("fdaa:0:1:0:1::1", 80, "web.flycast") in web.backend.probes.asked


Change = Callable[[Cli], object]


def probes(**values: Any) -> Change:
    def change(cli: Cli) -> None:
        for name, value in values.items():
            assert hasattr(cli.backend.probes, name)
            setattr(cli.backend.probes, name, value)

    return change


def backend(**values: Any) -> Change:
    def change(cli: Cli) -> None:
        for name, value in values.items():
            setattr(cli.backend, name, value)

    return change


def run(*lines: str) -> Change:
    def change(cli: Cli) -> None:
        for line in lines:
            cli.ok(line)

    return change


def machine(verb: str) -> Change:
    return lambda c: c.ok(f"machines {verb} {c.json('machines list -a web')[0]['id']}")


def deployed(*changes: tuple[str, str]) -> Change:
    return lambda c: deploy(c, *changes)


def edges(*found: Edge) -> Change:
    return lambda c: c.backend.probes.edges.update({("tcp", 7000): list(found)})


def no_proxy(cli: Cli) -> None:
    cli.backend.config = replace(cli.backend.config, proxy=ProxyConfig())


def drained(cli: Cli) -> None:
    def action(tx: Tx) -> None:
        tx.put(replace(tx.require(Host, "h1"), drained=True))

    transact(cli.backend.store, action)


def certificate(days: int, begins: int = -90) -> Change:
    """The operator's, which ends and begins so many days from now."""

    def change(cli: Cli) -> None:
        def text(more: int) -> str:
            when = datetime.now(UTC) + timedelta(days=more, hours=1)
            return when.strftime("%Y-%m-%dT%H:%M:%SZ")

        def action(tx: Tx) -> None:
            record = tx.require(Certificate, "*.fly.test")
            tx.put(replace(record, not_after=text(days), not_before=text(begins)))

        transact(cli.backend.store, action)

    return change


def no_certificate(cli: Cli) -> None:
    transact(cli.backend.store, lambda tx: tx.delete(Certificate, "*.fly.test"))


FORCED = ("[http_service]\n", "[http_service]\nforce_https = true\n")
GOOD = Fetched(Reply.OPEN, Trust.TRUSTED, 200)
REFUSED = Edge(Way.MACHINE, "172.16.0.2", reply=Reply.REFUSED)
CASES: dict[str, tuple[Change, str, str, str, str]] = {
    "not listening": (probes(v4=Reply.REFUSED, open6=set()),
        "app-listening", "failed", "not listening", "ss -tln; have the app listen on [::]:8080"),
    "wrong port": (probes(v4=Reply.REFUSED, open6={3000}),
        "app-listening", "failed", "port 3000: the wrong port", "internal_port = 3000"),
    "IPv6 alone": (probes(v4=Reply.REFUSED),
        "app-listening", "failed", "wrong address family: it listens on IPv6 alone", "[::]:8080"),
    "IPv4 alone": (probes(open6=set()),
        "app-listening", "warning", "listens on IPv4 alone", "[::]:8080"),
    "hangs": (probes(v4=Reply.SILENT, open6=set()),
        "app-listening", "failed", "does not answer", "console"),
    "not on 6PN": (probes(open6=set()), "app-6pn", "warning", "no connection of its network",
        "app-listening"),
    "not in names": (lambda c: c.backend.answers.update({("web.internal", "AAAA"): EMPTY}),
        "app-6pn", "warning", "web.internal leaves it out", "dns-app"),
    "kernel: refused": (edges(REFUSED),
        "app-edge", "failed", "nobody listens at 0.0.0.0:8080", "0.0.0.0:8080"),
    "kernel: silent": (edges(replace(REFUSED, reply=Reply.SILENT)),
        "app-edge", "failed", "gets a client's first packet and does not answer", "drops"),
    "kernel: reset": (edges(Edge(Way.RESET)),
        "app-edge", "failed", "no machine can take them", "machines list"),
    "kernel: dropped": (edges(Edge(Way.DROPPED, reasons=("no_service",))),
        "app-edge", "failed", "dropped (no_service)", "status --wait"),
    "kernel: not known": (edges(Edge(Way.STACK)),
        "app-edge", "failed", "the programs do not know it", "status --wait"),
    "no service": (lambda c: (Path("none.toml").write_text('app = "web"\n'),
                                c.ok("ips release 198.51.100.1 2001:db8:f::1 fdaa:0:1:0:1::1 "
                                       "-a web"), c("deploy", "-aweb", "-cnone.toml", "-y")),
        "app-services", "warning", "neither [http_service] nor [[services]]", "deploy -a web"),
    "no address": (run("ips release 198.51.100.1 2001:db8:f::1 fdaa:0:1:0:1::1 -a web"),
        "app-addresses", "failed", "no IP address is allocated", "ips allocate-v4 --shared -a web"),
    "raw on shared": (run("ips release 198.51.100.1 2001:db8:f::1 fdaa:0:1:0:1::1 -a web",
                          "ips allocate-v4 --shared -a web"),
        "app-addresses", "failed", "tcp 7000 is at none of its addresses: only the handler tls",
        "ips allocate-v4 -a web"),
    "no machine": (lambda c: c.ok(f"machines remove {ident(c)} -y"),
        "app-machines", "failed", "has no machine", "machines add -a web"),
    "stopped": (machine("stop"), "app-machines", "failed", "none of its 1 machines is started",
        "flyebpf machines start "),
    "cordoned": (machine("cordon"), "app-machines", "failed", "are cordoned", "machines uncordon "),
    "drained": (drained, "app-machines", "failed", "host h1, which is drained", "undrain h1"),
    "no proxy": (no_proxy, "app-proxy", "failed", "this host has no proxy", 'engine = "envoy"'),
    "Envoy down": (backend(proxy_says={"up": 0}), "app-proxy", "failed", "Envoy does not serve",
        "envoy.log"),
    "Envoy unwell": (backend(problems=[Problem("proxy", "refused x", "See.", Severity.WARNING)]),
        "app-proxy", "warning", "Envoy serves, but: refused x", "See."),
    "expired": (certificate(-2), "app-certificates", "failed", "expired on", "certs add *"),
    "expires soon": (certificate(3), "app-certificates", "warning", "in 3 days", "certs add"),
    "not yet": (certificate(30, 2), "app-certificates", "failed", "is not valid before", "clock"),
    "none": (no_certificate, "app-certificates", "failed", "web.fly.test, the app's default",
        "certs add web.fly.test -a web"),
    "untrusted": (probes(by_port={443: replace(GOOD, trust=Trust.UNKNOWN_ISSUER)}),
        "app-anycast", "warning", "do not know who issued", "certs add web.fly.test"),
    "wrong name": (probes(by_port={443: replace(GOOD, trust=Trust.WRONG_NAME)}),
        "app-anycast", "failed", "refuse the certificate: wrong name", "certs add web.fly.test"),
    "handshake": (probes(by_port={443: Fetched(Reply.CLOSED, fault="the TLS handshake fails: x")}),
        "app-anycast", "failed", "the TLS handshake fails: x", "app-certificates"),
    "no redirect": (lambda c: (c.ok("ips release fdaa:0:1:0:1::1 -a web"),
                                 deployed(FORCED)(c)),
        "app-anycast", "failed", "200 in place of a redirect", "status"),
    "503": (probes(by_port={80: Fetched(Reply.OPEN, status=503, text="no healthy upstream")}),
        "app-anycast", "failed", "503, no machine can take it", "checks list -a web"),
    "503 connect": (probes(by_port={80: Fetched(Reply.OPEN, status=503,
                                                text="upstream connect error or disconnect")}),
        "app-flycast", "failed", "the proxy reaches no machine", "app-listening"),
    "404": (probes(by_port={80: Fetched(Reply.OPEN, status=404)}),
        "app-anycast", "failed", "does not know this name", "status --wait"),
    "500": (probes(by_port={80: Fetched(Reply.OPEN, status=500)}),
        "app-anycast", "warning", "the app answers 500", "log"),
    "no answer": (probes(by_port={80: Fetched(Reply.OPEN, fault="no answer came")}),
        "app-anycast", "failed", "takes the request and does not answer", "log"),
    "refused": (probes(by_port={80: Fetched(Reply.REFUSED, fault="the connection is refused")}),
        "app-flycast", "failed", "the connection is refused", "app-proxy"),
    "not to the proxy": (lambda c: c.backend.probes.edges.update(
                             {("tcp", 80): [Edge(Way.DROPPED, reasons=("needs_proxy",))]}),
        "app-anycast", "failed", "not reach the proxy: dropped (needs_proxy)", "status --wait"),
    "raw": (probes(connected=Reply.CLOSED),
        "app-flycast", "failed", "tcp 7000 at fdaa:0:1:0:1::1: the proxy takes the connection and",
        "app-listening"),
}  # fmt: skip


def ident(cli: Cli) -> str:
    return str(cli.json("machines list -a web")[0]["id"])


@pytest.mark.parametrize("name", CASES)
def test_causes(web: Cli, name: str) -> None:
    change, check, state, message, remedy = CASES[name]
    change(web)
    all_found = wrong(web)
    found = [w for w in all_found if w[0] == check]
    assert found, all_found
    assert found[0][1] == state
    assert message in found[0][2]
    assert remedy in found[0][3]


def test_flycast_of_another_network(web: Cli) -> None:
    web.ok("ips release fdaa:0:1:0:1::1 -a web")
    web.ok("apps create api -o acme --network lan")
    web.ok("ips allocate-v6 --private --network lan -a web")
    ((check, state, message, remedy),) = wrong(web)
    assert (check, state) == ("app-callers", "warning")
    assert "can be called from network acme/lan alone" in message
    assert "nor from the app's own, acme/default" in message
    assert remedy.startswith("flyebpf ips allocate-v6 --private -a web")


def test_force_https_and_flycast(web: Cli) -> None:
    """``deploy`` refuses it; a store that has it nevertheless is told of."""
    web.ok("ips release fdaa:0:1:0:1::1 -a web")
    deploy(web, FORCED)
    backend_with_flycast(web.backend)
    found = {w[0]: w for w in wrong(web)}
    assert "forces https, which Flycast cannot" in found["app-callers"][2]
    assert "force_https = false" in found["app-callers"][3]


def backend_with_flycast(backend: FakeBackend) -> None:
    """An address that was given while nothing forced https."""
    record = Address("fdaa:0:1:0:1::2", "web", AddressKind.PRIVATE_V6, "default", org="acme")
    transact(backend.store, lambda tx: tx.put(record))


def test_tls_alone_is_asked_for_a_handshake(web: Cli) -> None:
    with_tls = ("port = 7000", 'port = 8443\nhandlers = ["tls"]')
    deploy(web, with_tls)
    assert not wrong(web)
    assert ("198.51.100.1", 8443, "web.fly.test") in web.backend.probes.asked
    web.backend.probes.shaken = Fetched(Reply.CLOSED, Trust.TRUSTED)
    assert "the proxy reaches no machine" in wrong(web)[0][2]
    web.backend.probes.shaken = Fetched(Reply.CLOSED, fault="the TLS handshake fails")
    assert wrong(web)[0][2].endswith("the TLS handshake fails")


def test_postgresql_is_asked_as_its_clients_do(web: Cli) -> None:
    deploy(web, ("port = 7000", 'port = 5432\nhandlers = ["pg_tls"]'))
    assert not wrong(web)
    assert ("198.51.100.1", 5432, "web.fly.test, as PostgreSQL") in web.backend.probes.asked


SERVICE = "[http_service]\ninternal_port = 8080\n"
CHECKED = (SERVICE, f"{SERVICE}[[http_service.checks]]\npath = '/up'\n")
REPORTED = (SERVICE, f"{SERVICE}[checks.disk]\ntype = 'tcp'\nport = 9\n")


@pytest.mark.parametrize(
    ("change", "name", "state", "effect"),
    [
        (CHECKED, "servicecheck-00-http-8080", "failed", "which get nothing new of its service"),
        (REPORTED, "disk", "warning", "nothing follows from it"),
    ],
)
def test_health_checks(
    web: Cli, change: tuple[str, str], name: str, state: str, effect: str
) -> None:
    deploy(web, change)
    (before,) = [f for f in findings(web) if f["check"] == "app-checks"]
    assert (before["state"], before["message"]) == ("ok", "none of 1 health checks fails")
    record = MachineChecks(ident(web), (CheckResult(name, False, "500 at /up"),))
    transact(web.backend.store, lambda tx: tx.put(record))
    ((check, found, message, remedy),) = wrong(web)
    assert (check, found) == ("app-checks", state)
    assert effect in message
    assert message.endswith("500 at /up")
    assert remedy.startswith("flyebpf checks list -a web")


def test_machines_of_other_hosts_are_not_asked(web: Cli) -> None:
    web.backend.config = replace(web.backend.config, host="h9")
    texts = {f["check"]: f for f in findings(web)}
    assert texts["app-listening"]["state"] == "skipped"


def test_without_a_proxy_there_is_no_question_that_it_would_have_to_ask(web: Cli) -> None:
    class Nobody(FakeProbes):
        def private(self, address: str, port: int) -> Reply:
            raise AssertionError

    web.backend.probes = Nobody(edges=web.backend.probes.edges)
    no_proxy(web)
    assert [w[0] for w in wrong(web)] == ["app-proxy"]
