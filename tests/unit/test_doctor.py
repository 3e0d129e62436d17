# SPDX-License-Identifier: Apache-2.0
"""``flyebpf doctor``: each cause is found, named and given its remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.backend import DigAnswer, DigRecord, DropCounter, Problem, Severity
from flyebpf.doctor.all import CHECKS
from flyebpf.doctor.check import Check, Patient, State, examine, ok
from flyebpf.errors import UnavailableError
from flyebpf.model.reasons import DropReason
from flyebpf.store.base import StoreUnavailableError
from flyebpf.store.sqlite import SqliteStore
from tests.api import Api, use_proxy
from tests.fakes_backend import WEB, FakeBackend
from tests.unit.test_cli_commands import Cli, add_machine, cli  # noqa: F401 - a fixture

EMPTY = replace(WEB, answers=())
NXDOMAIN = replace(WEB, rcode="NXDOMAIN", answers=())


def answer(*data: str, kind: str = "AAAA") -> DigAnswer:
    return replace(WEB, answers=tuple(DigRecord("x.internal.", 5, kind, text) for text in data))


@pytest.fixture
def web(cli: Cli) -> Cli:  # noqa: F811
    """A host where all is well, and an app of one machine whose names are right."""
    cli.ok("orgs create acme")
    cli.ok("apps create web -o acme")
    machine = add_machine(cli)
    address = machine["ip_6pn"]
    cli.backend.answers = {
        (".", "NS"): answer("a.root-servers.net.", kind="NS"),
        ("web.internal", "AAAA"): answer(address),
        (f"{machine['id']}.vm.web.internal", "AAAA"): answer(address),
        (IPv6Address(address).reverse_pointer, "PTR"): answer(
            f"{machine['id']}.vm.web.internal.", kind="PTR"
        ),
        ("web.flycast", "AAAA"): EMPTY,
    }
    return cli


def found(cli: Cli, check: str, app: str = "web") -> dict[str, str]:  # noqa: F811
    """The one finding of a check."""
    _, out, _ = cli("doctor", "-a", app, "--json")
    (one,) = [finding for finding in json.loads(out) if finding["check"] == check]
    return dict(one)


def test_all_is_well(web: Cli) -> None:
    findings: Any = web.json("doctor -a web")
    assert [f["check"] for f in findings] == [check.name for check in CHECKS]
    states = {f["check"]: f["state"] for f in findings if not f["check"].startswith("app-")}
    assert states.pop("dns-flycast") == "skipped"
    assert set(states.values()) == {"ok"}
    assert not [f for f in findings if f["state"] == "ok" and f["remedy"]]
    shown = web.ok("doctor -a web")
    assert re.search("ok +dns-app +web.internal leads to 1 machines", shown)
    assert "→ flyebpf ips allocate-v6 --private -a web" in shown
    assert re.fullmatch(r"\d+ ok, \d+ skipped, 1 warning", shown.splitlines()[-1])


def test_without_an_app_the_host_is_looked_at(web: Cli) -> None:
    names = [f["check"] for f in web.json("doctor")]
    assert names == [check.name for check in CHECKS if not check.of_app]


def test_a_failure_is_shown_with_its_remedy_and_exits_with_1(web: Cli) -> None:
    web.backend.dns_says = None
    code, out, _ = web("doctor")
    assert code == 1
    assert "failed   dns-process" in out
    assert "→ journalctl -u flyebpf" in out
    assert "1 failed" in out


def test_a_warning_alone_exits_with_0(web: Cli) -> None:
    web.backend.names_used = 950
    code, out, _ = web("doctor")
    assert code == 0
    assert "warning  dns-map" in out


def test_a_daemon_that_is_away_is_a_finding(cli: Cli) -> None:  # noqa: F811
    code, out, _ = cli("--socket", "/nowhere/api.sock", "doctor", "--json")
    assert code == 1
    (finding,) = json.loads(out)
    assert (finding["check"], finding["state"]) == ("daemon", "failed")
    assert "/nowhere/api.sock" in finding["message"]
    assert finding["remedy"]


def test_an_app_that_is_not_there(web: Cli) -> None:
    code, _, err = web("doctor", "-a", "nobody")
    assert code == 1
    assert "nobody" in err


Change = Callable[[FakeBackend], None]


def says(**values: Any) -> Change:
    def change(backend: FakeBackend) -> None:
        assert backend.dns_says is not None
        backend.dns_says.update(values)

    return change


def answers(name: str, found: DigAnswer, kind: str = "AAAA") -> Change:
    return lambda backend: backend.answers.update({(name, kind): found})


def sets(**values: Any) -> Change:
    def change(backend: FakeBackend) -> None:
        for name, value in values.items():
            setattr(backend, name, value)

    return change


LIMITED = [DropCounter(DropReason.DNS_LIMIT, 12, 900)]
CASES: list[tuple[str, Change, str, str, str]] = [
    ("daemon", sets(problems=[Problem("interface tap7", "it is gone", "Plug it in.")]),
     "failed", "interface tap7: it is gone", "Plug it in."),
    ("daemon", sets(problems=[Problem("eth0", "is slow", "Wait.", Severity.WARNING)]),
     "warning", "eth0: is slow", "Wait."),
    ("kernel-in-sync", sets(pending=2), "warning", "2 rows are to go", "flyebpf status --wait"),
    ("dns-process", sets(dns_says=None), "failed", "does not answer the daemon", "journalctl"),
    ("dns-process", says(revision=-1), "failed", "has not been told", "journalctl"),
    ("dns-faults", says(counts={"faults": 3}), "warning", "3 queries", "report"),
    ("dns-faults", sets(dns_says=None), "skipped", "does not answer", ""),
    ("dns-resolvers", says(upstreams=[]), "failed", "no resolver", "dns.upstreams"),
    ("dns-resolvers", says(upstreams=[["192.0.2.1:53", 1, 4]]),
     "failed", "last asked: 192.0.2.1:53", "dig @192.0.2.1 . NS"),
    ("dns-resolvers", says(upstreams=[["[2001:db8::1]:53", 1, 4], ["192.0.2.2:53", 1, 0]]),
     "warning", "last asked: [2001:db8::1]:53", "dig @2001:db8::1 . NS"),
    ("dns-world", answers(".", replace(WEB, rcode="SERVFAIL"), "NS"),
     "warning", "SERVFAIL", "dns-resolvers"),
    ("dns-map", sets(names_used=900), "warning", "900 of 1000", "raise dataplane.names"),
    ("dns-limit", sets(drop_counters=LIMITED), "warning", "12 queries", "flyebpf drops"),
    ("dns-app", answers("web.internal", NXDOMAIN), "failed", "NXDOMAIN", "flyebpf status"),
    ("dns-app", answers("web.internal", EMPTY),
     "failed", "leaves out 1 started machines", "flyebpf hosts list"),
    ("dns-app", answers("web.internal", answer("fdaa::99")),
     "failed", "leads to fdaa::99, which no started machine has", "status --wait"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[3]}")
def test_causes(web: Cli, case: tuple[str, Change, str, str, str]) -> None:
    check, change, state, message, remedy = case
    change(web.backend)
    finding = found(web, check)
    assert finding["state"] == state
    assert message in finding["message"]
    assert remedy in finding["remedy"]
    assert bool(finding["remedy"]) == bool(remedy)


def test_a_stopped_machine_is_the_cause(web: Cli) -> None:
    (machine,) = web.json("machines list -a web")
    web.ok(f"machines stop {machine['id']}")
    web.backend.answers["web.internal", "AAAA"] = EMPTY
    finding = found(web, "dns-app")
    assert finding["state"] == "warning"
    assert finding["remedy"] == f"flyebpf machines start {machine['id']}"
    assert found(web, "dns-machines")["state"] == "skipped"
    web.backend.answers["web.internal", "AAAA"] = answer(machine["ip_6pn"])
    assert found(web, "dns-app")["state"] == "failed"  # a stopped machine is no answer


def test_an_app_without_machines(web: Cli) -> None:
    web.ok("apps create empty -o acme")
    web.backend.answers["empty.internal", "AAAA"] = EMPTY
    web.backend.answers["empty.flycast", "AAAA"] = EMPTY
    finding = found(web, "dns-app", "empty")
    assert (finding["state"], finding["remedy"]) == ("warning", "flyebpf machines add")


def test_machines_names_that_lead_elsewhere(web: Cli) -> None:
    (machine,) = web.json("machines list -a web")
    reverse = (IPv6Address(machine["ip_6pn"]).reverse_pointer, "PTR")
    for key in ((f"{machine['id']}.vm.web.internal", "AAAA"), reverse):
        right = web.backend.answers[key]
        web.backend.answers[key] = answer("fdaa::99")
        finding = found(web, "dns-machines")
        assert finding["state"] == "failed"
        assert finding["remedy"] == f"flyebpf dig {machine['id']}.vm.web.internal"
        web.backend.answers[key] = right
    assert found(web, "dns-machines")["state"] == "ok"


def test_flycast_is_asked_for_on_each_network_that_has_it(web: Cli) -> None:
    use_proxy(Api(web.backend, ""))
    web.ok("apps create other -o acme --network lan")
    web.ok("ips allocate-v6 -a web --private")
    web.ok("ips allocate-v6 -a web --private --network lan")
    asked = []
    right = {1: "fdaa:0:1:0:1::1", 2: "fdaa:0:2:0:1::1"}

    def dig(network: int, name: str, kind: str, *, tcp: bool) -> DigAnswer:
        if name != "web.flycast":
            return web.backend.answers[name, kind]
        asked.append((network, kind, tcp))
        return answer(right[network])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(web.backend, "dig", dig)
        _, out, _ = web("doctor", "-a", "web", "--json")
        findings = [f for f in json.loads(out) if f["check"] == "dns-flycast"]
        assert [f["state"] for f in findings] == ["ok", "ok"]
        assert asked == [(1, "AAAA", True), (2, "AAAA", True)]
        assert "on network acme/lan leads to fdaa:0:2:0:1::1" in findings[1]["message"]
        right[2] = "fdaa:0:2:0:1::9"
        _, out, _ = web("doctor", "-a", "web", "--json")
    failed = [f for f in json.loads(out) if f["state"] == "failed"]
    wrong = next(f for f in failed if f["check"] == "dns-flycast")
    assert "fdaa:0:2:0:1::9 instead of fdaa:0:2:0:1::1" in wrong["message"]
    assert wrong["remedy"]


def test_a_check_that_cannot_be_made_hides_no_other(web: Cli) -> None:
    def away(_: Patient) -> Any:
        raise UnavailableError("nobody is there", "wait")

    def broken(_: Patient) -> Any:
        raise ZeroDivisionError("oops")

    checks = (Check("a", away), Check("b", broken), Check("c", lambda _: [ok("well")]))
    patient = Patient(web.backend, web.backend.store)
    (_, first), (_, second), (_, third) = examine(checks, patient)
    assert (first.state, first.message, first.remedy) == (State.FAILED, "nobody is there", "wait")
    assert second.state is State.FAILED
    assert "ZeroDivisionError: oops" in second.message
    assert third == ok("well")


def test_while_the_store_is_away_checks_look_at_what_is_remembered(
    web: Cli, tmp_path: Path
) -> None:
    store = web.backend.store

    def look(patient: Patient) -> Any:
        if patient.store is store:
            raise StoreUnavailableError("etcd is away", "start it")
        return [ok("well")]

    patient = Patient(web.backend, store)
    ((_, without),) = examine([Check("a", look)], patient)
    assert (without.state, without.message) == (State.FAILED, "etcd is away")
    web.backend.copy = SqliteStore(tmp_path / "copy.db", durable=False)
    assert examine([Check("a", look)], patient) == [("a", ok("well"))]


def test_names_of_checks_are_unique_and_plain() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)
