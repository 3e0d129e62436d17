# SPDX-License-Identifier: Apache-2.0
"""DNS as machines use it: real resolvers in a lab's VMs, answers of the program at
their interfaces and of the server behind the host port."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.api.client import path
from flyebpf.unixpeer import listener
from tests.dns_rig import question
from tests.netns.conftest import CreateApp
from tests.netns.rig import TOOLS, Load, Rig

pytestmark = pytest.mark.usefixtures("names")
OTHER_ORG = "rivals"


def address(rig: Rig, name: str) -> str:
    """A VM's 6PN address."""
    return str(rig.api().get(path("machines", rig.vm(name).machine))["ip_6pn"])


@pytest.fixture(scope="module")
def names(rig: Rig, create_app: CreateApp) -> Iterator[None]:
    """Two VMs of one app; and one of another organization."""
    app = create_app("names")
    rig.add_vm(app, "dns1")
    rig.add_vm(app, "dns2")
    api = rig.api()
    api.post(path("orgs"), {"name": OTHER_ORG})
    api.post(path("apps"), {"name": "rival", "org": OTHER_ORG})
    rig.command("lab", "vm", "add", "--host", "host1", "-a", "rival", "--name", "dns3")
    rig.settle()
    rig.until(lambda: dig(rig, "dns1", "TXT", "_apps.internal") != "", "the server knows names")
    yield
    rig.command("lab", "vm", "remove", "dns3")
    api.delete(path("apps", "rival"))
    rig.settle()


def dig(rig: Rig, node: str, *words: str) -> str:
    done = rig.run(node, "dig", "+short", "+time=2", "+tries=2", *words, check=False)
    return done.stdout.strip()


def counts(rig: Rig) -> dict[str, int]:
    return dict(rig.api().get("/v1/status")["counts"])


def both(rig: Rig) -> set[str]:
    return {address(rig, "dns1"), address(rig, "dns2")}


PYTHON = "import socket; print(*{a[4][0] for a in socket.getaddrinfo('names.internal', 80)})"
NODE = "require('dns').resolve6('names.internal', (e, a) => console.log(a.join(' ')))"
LOOKUP = (
    "require('dns').lookup('names.internal', {all: true},"
    " (e, a) => console.log(a.map(x => x.address).join(' ')))"
)
BY_TCP = ("env", "RES_OPTIONS=use-vc")
"""What glibc asks is asked by TCP."""


@pytest.mark.parametrize(
    "command",
    [
        ("dig", "+short", "names.internal", "AAAA"),
        ("dig", "+short", "+noedns", "NAMES.Internal", "AAAA"),
        ("dig", "+short", "+dnssec", "+cookie", "names.internal", "AAAA"),
        ("getent", "ahostsv6", "names.internal"),
        ("busybox", "nslookup", "names.internal"),
        ("python3", "-c", PYTHON),
        ("node", "-e", NODE),
        ("node", "-e", LOOKUP),
    ],
    ids=" ".join,
)
def test_resolvers(rig: Rig, command: tuple[str, ...]) -> None:
    output = rig.run("dns1", *command, check=command[0] != "busybox").stdout
    assert both(rig) <= set(output.split())


@pytest.mark.parametrize(
    "command",
    [
        ("dig", "+short", "+tcp", "names.internal", "AAAA"),
        (*BY_TCP, "getent", "ahostsv6", "names.internal"),
        (*BY_TCP, "python3", "-c", PYTHON),
        (*BY_TCP, "node", "-e", LOOKUP),
    ],
    ids=" ".join,
)
def test_resolvers_by_tcp(rig: Rig, command: tuple[str, ...]) -> None:
    """No program answers that: the server has a connection more."""
    before = counts(rig)["dns_answer"]
    assert both(rig) <= set(rig.run("dns1", *command).stdout.split())
    assert counts(rig)["dns_answer"] == before


def test_musl(rig: Rig, tmp_path: Path) -> None:
    """Its resolver asks for everything at once and believes the first answer."""
    program = tmp_path / "getaddrinfo"
    source = str(TOOLS / "getaddrinfo.c")
    subprocess.run(["musl-gcc", "-static", "-o", str(program), source], check=True)
    assert set(rig.run("dns1", str(program), "names.internal").stdout.split()) == both(rig)
    other = rig.run("dns1", str(program), "rival.internal", check=False)
    assert (other.returncode, other.stdout) == (1, "")


def test_the_program_answers_and_the_server_does(rig: Rig) -> None:
    before = counts(rig)
    dig(rig, "dns1", "AAAA", "names.internal")
    between = counts(rig)
    assert between["dns_answer"] == before.get("dns_answer", 0) + 1
    assert between["dns_passed"] == before["dns_passed"]
    assert dig(rig, "dns1", "TXT", "regions.names.internal") == '"ams"'
    assert counts(rig)["dns_passed"] > between["dns_passed"]


def test_both_say_the_same(rig: Rig) -> None:
    """By TCP the server answers, by UDP the program."""
    machine = rig.vm("dns2").machine
    for name in (
        "names.internal",
        "global.names.internal",
        "ams.names.internal",
        "app.process.names.internal",
        f"{machine}.vm.names.internal",
    ):
        found = [set(dig(rig, "dns1", how, "AAAA", name).split()) for how in ("+notcp", "+tcp")]
        assert found[0] == found[1] != set(), name


def test_curl_finds_a_machine_by_its_name(rig: Rig) -> None:
    with rig.background("dns2", "python3", "-m", "http.server", "--bind", "::", "8081"):
        rig.until(lambda: rig.listening("dns2", "tcp", 8081), "the server listens")
        url = f"http://{rig.vm('dns2').machine}.vm.names.internal:8081/"
        curl = ("curl", "-so", "/dev/null", "-w", "%{http_code}", "-m", "5", url)
        for command in (curl, (*BY_TCP, *curl)):
            assert rig.run("dns1", *command).stdout == "200"


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("kind", ["AAAA", "TXT"])
def test_names_of_others_are_like_names_that_do_not_exist(
    rig: Rig, kind: str, transport: str
) -> None:
    """To the byte, but for the name itself."""

    def answer(name: str) -> list[str]:
        shown = rig.run("dns3", "dig", transport, "+noall", "+comments", "+authority", kind, name)
        lines = [line for line in shown.stdout.splitlines() if "id:" not in line]
        return [*lines, *(line for line in shown.stdout.splitlines() if "status: NXDOMAIN" in line)]

    theirs, nobodys = (
        [line.split("id:")[0] for line in answer(name)]
        for name in ("names.internal", "nomes.internal")
    )
    assert theirs == nobodys
    assert any("NXDOMAIN" in line for line in theirs)
    machine = rig.vm("dns1").machine
    assert dig(rig, "dns3", transport, "AAAA", f"{machine}.vm.names.internal") == ""
    assert dig(rig, "dns3", transport, "-x", address(rig, "dns1")) == ""


def test_reverse(rig: Rig) -> None:
    machine = rig.vm("dns2").machine
    assert dig(rig, "dns1", "-x", address(rig, "dns2")) == f"{machine}.vm.names.internal."


def test_a_stopped_machine_leaves_the_answers(rig: Rig) -> None:
    rig.machine("stop", "dns2")
    for transport in ("+notcp", "+tcp"):
        rig.until(
            lambda transport=transport: (
                dig(rig, "dns1", transport, "AAAA", "names.internal") == address(rig, "dns1")
            ),
            "the stopped machine is no answer",
            patience=1.5,
        )
    rig.machine("start", "dns2")
    rig.until(
        lambda: set(dig(rig, "dns1", "AAAA", "names.internal").split()) == both(rig), "it is back"
    )


def test_nothing_else_of_the_host_is_there(rig: Rig) -> None:
    """Other ports of fdaa::3, and every port of it for the host's own use."""
    with rig.dropping("vm_to_host"):
        done = rig.run("dns1", "curl", "-m", "1", "http://[fdaa::3]:9464/", check=False)
        assert done.returncode != 0
    with rig.dropping("vm_to_host"):
        rig.run("dns1", "ping", "-c", "1", "-W", "1", "fdaa::3", check=False)
    with rig.dropping("host_source"):
        rig.run("host1", "ping", "-c", "1", "-W", "1", address(rig, "dns1"), check=False)


def test_dig_from_the_host(rig: Rig) -> None:
    rig.environment["FLYEBPF_SOCKET"] = rig.host().socket
    try:
        found = rig.command("dig", "--short", "names.internal").stdout.split()
        assert set(found) == both(rig)
        rival = json.loads(rig.command("dig", "names.internal", "-a", "rival", "--json").stdout)
        assert rival["rcode"] == "NXDOMAIN"
    finally:
        del rig.environment["FLYEBPF_SOCKET"]


# Load.

FLOOD = (("names.internal", "AAAA"), ("nobody.internal", "AAAA"), ("_apps.internal", "TXT"))


def load(rig: Rig, node: str, rate: int) -> Load:
    asked = [question(name, kind).hex() for name, kind in FLOOD]
    return rig.begin(node, "dns_load", "fdaa::3", rate, *asked)


def test_a_flood_of_one_machine_starves_no_other(rig: Rig) -> None:
    """What is over a machine's limit is dropped and counted; another one gets every
    answer, of the program and of the server."""
    before = rig.drops().get("dns_limit", 0)
    steady = load(rig, "dns2", 200)
    rival = load(rig, "dns3", 200)
    flood = load(rig, "dns1", 0)
    rig.until(lambda: rig.drops().get("dns_limit", 0) > before + 40_000, "the flood is limited", 60)
    time.sleep(1)  # whatever it took: the others ask beside it
    sent = flood.finish()["sent"]
    for other in (steady, rival):
        found = other.finish()
        assert found["sent"] > 10
        assert found["lost"] == 0
    assert sent > 10_000
    assert doctor(rig)["dns-limit"]["state"] == "warning"
    assert set(dig(rig, "dns1", "AAAA", "names.internal").split()) == both(rig)


def test_changes_are_applied_beside_a_flood(rig: Rig) -> None:
    flood = load(rig, "dns3", 0)
    for verb, wanted in (("stop", {address(rig, "dns1")}), ("start", both(rig))) * 3:
        rig.machine(verb, "dns2")
        for transport in ("+notcp", "+tcp"):
            rig.until(
                lambda transport=transport, wanted=wanted: (
                    set(dig(rig, "dns1", transport, "AAAA", "names.internal").split()) == wanted
                ),
                f"{verb} is in the names",
            )
    assert flood.finish()["sent"] > 10_000


def test_nobody_outside_is_answered(rig: Rig) -> None:
    """Not by the server's addresses, which the uplink does not let in, nor by the
    host's own."""
    host = str(rig.host().address)
    rig.run("client1", "ip", "route", "replace", "fdaa::3/128", "dev", "eth0")
    try:
        for server in ("fdaa::3", host):
            for how in ("+notcp", "+tcp"):
                done = rig.run(
                    "client1", "dig", how, "+time=1", "+tries=1", f"@{server}",
                    "names.internal", "AAAA", check=False,
                )  # fmt: skip
                assert done.returncode != 0
                assert "no servers could be reached" in done.stdout
    finally:
        rig.run("client1", "ip", "route", "del", "fdaa::3/128", "dev", "eth0")


# What doctor says of it.


def doctor(rig: Rig, *options: str) -> dict[str, dict[str, str]]:
    rig.environment["FLYEBPF_SOCKET"] = rig.host().socket
    try:
        done = rig.command("doctor", "--json", *options, check=False)
    finally:
        del rig.environment["FLYEBPF_SOCKET"]
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == any(f["state"] == "failed" for f in findings.values())
    return findings


def test_doctor(rig: Rig) -> None:
    found = doctor(rig, "-a", "names")
    for check in ("dns-process", "dns-faults", "dns-map", "dns-app", "dns-machines"):
        assert found[check]["state"] == "ok", found[check]
    assert "leads to 2 machines" in found["dns-app"]["message"]
    for name in ("dns1", "dns2"):
        rig.machine("stop", name)
    rig.until(lambda: dig(rig, "dns3", "AAAA", "names.internal") == "", "nobody is there")
    found = doctor(rig, "-a", "names")
    assert found["dns-app"]["state"] == "warning"
    assert found["dns-app"]["remedy"].startswith("flyebpf machines start ")
    for name in ("dns1", "dns2"):
        rig.machine("start", name)


def test_a_killed_daemon_takes_no_name_away(rig: Rig) -> None:
    wanted = both(rig)
    rig.command("lab", "daemon", "stop", "host1", "--kill")
    try:
        assert set(dig(rig, "dns1", "AAAA", "names.internal").split()) == wanted
        assert dig(rig, "dns1", "TXT", "regions.names.internal") == '"ams"'
    finally:
        rig.command("lab", "daemon", "start", "host1")
    rig.settle()
    assert set(dig(rig, "dns1", "+tcp", "AAAA", "names.internal").split()) == wanted


def test_a_killed_dns_process_comes_back(rig: Rig) -> None:
    """Names that the program answers are answered meanwhile."""
    process = Path(rig.host().socket).with_name("dns.sock")
    pid = listener(process)
    rig.run("host1", "kill", "-9", str(pid))
    assert set(dig(rig, "dns1", "AAAA", "names.internal").split()) == both(rig)
    rig.until(
        lambda: dig(rig, "dns1", "TXT", "regions.names.internal") == '"ams"',
        "the server is back",
        patience=20,
    )
