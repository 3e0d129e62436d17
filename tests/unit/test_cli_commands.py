# SPDX-License-Identifier: Apache-2.0
"""The commands, against the API on its socket."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.backend import DropCounter, Problem, ProxyStatus, ServiceCounters, Severity
from flyebpf.cli.main import run
from flyebpf.config import AcmeConfig, ProxyConfig
from tests.api import Api, use_proxy
from tests.fakes_backend import FakeBackend, serving
from tests.pki import chain, make

FLY_TOML = """
app = "web"

[[services]]
internal_port = 8080
protocol = "tcp"
[[services.ports]]
port = 80
"""


@dataclass
class Cli:
    """Runs command lines as a shell would, without a terminal."""

    backend: FakeBackend
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = run(arguments)
        out, err = self.capsys.readouterr()
        return code, out, err

    def ok(self, line: str, *more: str) -> str:
        code, out, err = self(*line.split(), *more)
        assert (code, err) == (0, "")
        return out

    def json(self, line: str) -> Any:
        return json.loads(self.ok(line + " --json"))


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    with serving(tmp_path) as (backend, path):
        monkeypatch.setenv("FLYEBPF_SOCKET", path)
        monkeypatch.delenv("FLY_APP", raising=False)
        monkeypatch.chdir(tmp_path)
        yield Cli(backend, capsys)


@pytest.fixture
def web(cli: Cli) -> Cli:
    cli.ok("orgs create acme")
    cli.ok("apps create web -o acme")
    return cli


def add_machine(cli: Cli, app: str = "web", number: int = 1) -> dict[str, Any]:
    mac = f"02:00:00:00:00:{number:02x}"
    found: dict[str, Any] = cli.json(f"machines add -a {app} --interface tap{number} --mac {mac}")
    return found


def table(text: str) -> list[list[str]]:
    """Cells of a printed table: columns are at least two blanks apart."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in text.splitlines()]


def test_orgs(cli: Cli) -> None:
    assert cli.ok("orgs create acme") == "Created organization acme.\n"
    assert table(cli.ok("orgs list")) == [["NAME", "NETWORKS", "APPS"], ["acme", "default", "0"]]
    assert "Networks                  default" in cli.ok("orgs show acme")
    assert cli.json("orgs list") == [
        {
            "name": "acme",
            "networks": ["default"],
            "apps": [],
            "cross_network_replays": False,
            "replay_sources": [],
        }
    ]


def test_who_may_replay(cli: Cli) -> None:
    for org in ("acme", "others", "third"):
        cli.ok(f"orgs create {org}")
    said = cli.ok("orgs replay-sources add others third -o acme")
    assert said == "Apps of others, third may replay requests to those of acme.\n"
    assert cli.json("orgs replay-sources add others -o acme") == ["others", "third"]
    assert "Replays from" in cli.ok("orgs show acme")
    cli.ok("orgs replay-sources remove others -o acme")
    assert table(cli.ok("orgs replay-sources list -o acme")) == [["SOURCE"], ["third"]]
    for wrong in ("add nobody", "add acme", "remove others"):
        code, _, err = cli("orgs", "replay-sources", *wrong.split(), "-o", "acme")
        assert code == 1
        assert "organization" in err
    assert cli.json("orgs cross-network-replays status -o acme") == {
        "org": "acme",
        "enabled": False,
    }
    assert cli.ok("orgs cross-network-replays enable -o acme").endswith("are enabled.\n")
    assert cli.json("orgs cross-network-replays enable -o acme")["enabled"] is True
    assert cli.ok("orgs cross-network-replays disable -o acme").endswith("are disabled.\n")


def test_apps_always_show_their_network(web: Cli) -> None:
    web.ok("apps create api -o acme --network lan")
    header, *rows = table(web.ok("apps list"))
    assert header[:3] == ["NAME", "ORG", "NETWORK"]
    assert [row[:3] for row in rows] == [["api", "acme", "lan"], ["web", "acme", "default"]]
    assert "Destroyed app api." in web.ok("apps destroy api --yes")
    assert [app["name"] for app in web.json("apps list")] == ["web"]


def test_networks_have_ids(web: Cli) -> None:
    (network,) = web.json("networks list -o acme")
    text = web.ok("networks list")
    assert network["network_id"] in text
    assert network["prefix"] in text


def test_a_machines_life(web: Cli) -> None:
    machine = add_machine(web)
    one = machine["id"]
    listed = web.ok("machines list -a web")
    for shown in (one, "acme", "default", "started", machine["private_ip"], machine["ip_6pn"]):
        assert shown in listed
    assert web.ok(f"machines stop {one}") == f"Machine {one} is stopped.\n"
    assert web.json(f"machines show {one}")["state"] == "stopped"
    web.ok(f"machines start {one}")
    web.ok(f"machines cordon {one}")
    assert "started, cordoned" in web.ok(f"machines show {one}")
    web.ok(f"machines uncordon {one}")
    assert "role=db" in web.ok(f"machines metadata set {one} role=db note=a=b")
    assert web.json(f"machines show {one}")["metadata"] == {"role": "db", "note": "a=b"}
    web.ok(f"machines metadata unset {one} role note")
    assert web.ok(f"machines remove {one} -y") == f"Removed machine {one}.\n"
    assert web.json("machines list") == []


def test_what_a_machine_gets(web: Cli) -> None:
    machine = add_machine(web)
    env = dict(line.split("=", 1) for line in web.ok(f"machines env {machine['id']}").splitlines())
    assert env["FLY_APP_NAME"] == "web"
    assert env["FLY_PRIVATE_IP"] == machine["ip_6pn"]
    hosts = web.ok(f"machines hosts {machine['id']}")
    assert f"{machine['ip_6pn']}" in hosts
    assert "fly-global-services" in hosts
    assert "nameserver fdaa::3" in web.ok(f"machines hosts {machine['id']} --resolv-conf")


def test_machine_options_reach_the_daemon(web: Cli) -> None:
    machine = web.json(
        "machines add -a web --interface tap9 --mac 02:00:00:00:00:09 --name db --group app "
        "-r ams --metadata a=1 --metadata b=2 --id 0123456789abcd"
    )
    assert (machine["id"], machine["name"], machine["region"]) == ("0123456789abcd", "db", "ams")
    assert machine["metadata"] == {"a": "1", "b": "2"}


def test_a_region_without_hosts_is_said(web: Cli) -> None:
    command = "machines add -a web --interface tap9 --mac 02:00:00:00:00:09 -r iad --json"
    code, out, err = web(*command.split())
    assert (code, json.loads(out)["region"]) == (0, "iad")
    assert err.startswith("Warning: no host is in region iad; known: ams. Machine ")


def test_a_file_without_services_needs_a_yes(web: Cli, tmp_path: Path) -> None:
    (tmp_path / "full.toml").write_text(FLY_TOML)
    (tmp_path / "empty.toml").write_text("")
    web.ok(f"deploy -a web --no-public-ips -c {tmp_path}/full.toml")
    code, _, err = web(*f"deploy -a web -c {tmp_path}/empty.toml".split())
    assert (code, "has 1 service in force, which would end" in err) == (1, True)
    assert "flyebpf deploy --yes" in err
    code, out, _ = web(*f"deploy -a web -c {tmp_path}/empty.toml --yes".split())
    assert (code, "0 services" in out) == (0, True)


def test_an_interface_that_is_not_there_is_said(web: Cli) -> None:
    """The machine is added: whoever runs the VM may make it later."""
    web.backend.missing_interfaces = {"tap7"}
    command = "machines add -a web --interface tap7 --mac 02:00:00:00:00:07"
    code, out, err = web(*command.split())
    assert code == 0
    assert "Added machine" in out
    assert err.startswith("Warning: host h1 has no interface tap7 now: machine ")
    ident = web.json("machines list")[0]["id"]
    assert f"flyebpf machines move {ident} --interface DEV" in err
    assert web(*command.split())[::2] == (0, err), "again"
    assert "started, no interface" in web.ok("machines list")
    assert "no interface" in web.ok(f"machines show {ident}")
    web.backend.missing_interfaces = set()
    assert web(*command.split())[2] == ""
    assert "no interface" not in web.ok("machines list")
    web.backend.missing_interfaces = {"tap8"}
    assert "no interface tap8 now" in web(*f"machines move {ident} --interface tap8".split())[2]
    assert web.json("machines list")[0]["interface_missing"]


def test_several_machines_at_once(web: Cli) -> None:
    ids = [add_machine(web, number=number)["id"] for number in (1, 2)]
    web.ok(f"machines stop {' '.join(ids)}")
    assert {machine["state"] for machine in web.json("machines list")} == {"stopped"}


def test_removing_machines_is_nothing_when_one_is_unknown(web: Cli) -> None:
    machine = add_machine(web)
    code, _, err = web("machines", "remove", machine["id"], "00000000000000", "-y")
    assert code == 1
    assert "00000000000000" in err
    assert len(web.json("machines list")) == 1


def test_addresses(web: Cli) -> None:
    address = web.json("ips allocate-v4 -a web")
    listed = web.ok("ips list -a web")
    for shown in (address["address"], "dedicated v4", "acme", "default"):
        assert shown in listed
    assert address["address"] in web.ok(f"ips release -a web {address['address']}")
    assert web.json("ips list") == []


def test_shared_and_private_addresses(web: Cli) -> None:
    use_proxy(Api(web.backend, ""))
    web.ok("apps create api -o acme --network lan")
    shared = web.json("ips allocate-v4 -a web --shared")["address"]
    assert web.json("ips allocate-v4 -a web --shared")["address"] == shared
    assert "fdaa:0:1:0:1::1" in web.ok("ips allocate-v6 -a web --private")
    web.ok("ips allocate-v6 -a web --private --network lan")
    _, *rows = table(web.ok("ips list -a web"))
    assert [row[:6] for row in rows] == [
        [shared, "shared v4", "web", "acme", "default", "global"],
        ["fdaa:0:1:0:1::1", "private v6 (Flycast)", "web", "acme", "default", "global"],
        ["fdaa:0:2:0:1::1", "private v6 (Flycast)", "web", "acme", "lan", "global"],
    ]
    assert "Released" in web.ok(f"ips release -a web {shared} fdaa:0:2:0:1::1")
    assert [item["address"] for item in web.json("ips list")] == ["fdaa:0:1:0:1::1"]


def test_a_first_deployment_gives_addresses(web: Cli) -> None:
    use_proxy(Api(web.backend, ""))
    web.ok("apps create api -o acme")
    Path("fly.toml").write_text("[http_service]\n")
    assert "Allocated 192.0.2." in web.ok("deploy -a web")
    assert "Allocated" not in web.ok("deploy -a web")
    Path("fly.toml").write_text("[http_service]\nforce_https = true\n")
    web.ok("deploy -a web")
    _, http, https = table(web.ok("services list -a web"))
    assert http[3:5] == ["tcp 80 => 8080", "http (force https)"]
    assert https[3:5] == ["tcp 443 => 8080", "http, tls"]
    Path("fly.toml").write_text("[http_service]\n")
    assert "Allocated fdaa:0:1:0:1::1." in web.ok("deploy -a api --flycast")


def test_release_is_all_or_nothing(web: Cli) -> None:
    address = web.json("ips allocate-v4 -a web")["address"]
    code, out, err = web("ips", "release", "-a", "web", address, "203.0.113.99")
    assert (code, out) == (1, "")
    assert "203.0.113.99" in err
    assert len(web.json("ips list")) == 1


def test_certificates(web: Cli) -> None:
    chain_pem, key_pem = chain("*.example.com")
    Path("chain.pem").write_text(chain_pem)
    Path("key.pem").write_text(key_pem)
    line = "certs add WWW.example.com -a web --cert chain.pem --key key.pem"
    code, said, err = web(*line.split())
    assert code == 0
    assert "no proxy runs, so no certificate is served yet" in err
    assert "www.example.com of app web is served with a certificate of Test CA 1" in said
    web.backend.config = replace(web.backend.config, proxy=ProxyConfig("envoy"))
    web.ok("certs add *.example.com -a web --cert chain.pem --key key.pem")
    headers, *rows = table(web.ok("certs list -a web"))
    assert headers == [
        "HOSTNAME", "APP", "ORG", "NETWORK", "STATE", "EXPIRES", "DAYS", "ISSUER", "KEY", "ACME",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["*.example.com", "www.example.com"]
    assert rows[0][1:5] == ["web", "acme", "default", "valid"]
    assert rows[0][7:9] == ["Test CA 1", "ECDSA P-256"]
    shown = web.ok("certs show *.example.com")
    assert re.search(r"^Names +\*\.example\.com$", shown, re.MULTILINE)
    (first, _) = web.json("certs list")
    assert first.pop("acme") is None
    assert web.json("certs show *.example.com") == first
    assert first["days_left"] in (88, 89)
    assert "PRIVATE" not in json.dumps(first) + shown
    assert "Removed the certificate of *.example.com (app web)." in web.ok(
        "certs remove *.example.com -y"
    )
    assert [item["hostname"] for item in web.json("certs list")] == ["www.example.com"]
    code, _, err = web("certs", "remove", "www.example.com", "-a", "db", "-y")
    assert (code, "it is that of app web" in err) == (1, True)


def test_certificates_by_acme(web: Cli) -> None:
    code, _, err = web("certs", "add", "www.example.com", "-a", "web", "--acme")
    assert (code, "acme.directory in the configuration" in " ".join(err.split())) == (1, True)
    acme = AcmeConfig("https://authority.example/directory")
    config = replace(web.backend.config, proxy=ProxyConfig("envoy"), acme=acme)
    web.backend.config = config
    assert "certs check www.example.com" in web.ok("certs add www.example.com -a web --acme")
    (row,) = web.ok("certs list -a web").splitlines()[1:]
    assert row.split() == ["www.example.com", "web", "none", "pending"]
    (listed,) = web.json("certs list")
    assert listed["acme"]["state"] == "pending"
    assert re.search(r"^State +pending$", web.ok("certs check www.example.com"), re.MULTILINE)
    assert "No certificate is ordered" in web.ok("certs remove www.example.com -y")
    assert web.json("certs list") == []
    code, _, err = web("certs", "add", "*.example.com", "-a", "web", "--acme")
    assert (code, "is a wildcard" in err) == (1, True)
    code, _, err = web("certs", "add", "a.example.com", "-a", "web", "--acme", "--cert", "x")
    assert (code, "--acme stands alone" in err) == (2, True)


def test_the_operators_certificate_and_warnings(web: Cli) -> None:
    made = make("*.fly.test", days=20)
    Path("chain.pem").write_text(made.pem)
    Path("key.pem").write_text(made.key_pem)
    add = "certs add *.fly.test --operator --cert chain.pem --key key.pem"
    code, out, err = web(*add.split())
    assert (code, "*.fly.test of the operator is served" in out) == (0, True)
    assert "Warning: the certificate of *.fly.test is self-signed" in err
    assert "Warning: the certificate of *.fly.test expires on" in err
    _, row = table(web.ok("certs list"))
    assert row[:2] == ["*.fly.test", "(operator)"]
    assert "expiring" in row
    assert web.json("certs list -a web") == []


def test_deploy_and_services(web: Cli, tmp_path: Path) -> None:
    Path("fly.toml").write_text(FLY_TOML)
    add_machine(web)
    web.ok("ips allocate-v4")
    assert "Deployed version 1 of app web (1 service)." in web.ok("deploy")
    web.backend.service_counters = [ServiceCounters("web/tcp/80", 11, 2222, 33, 4444, 5)]
    text = web.ok("services list")
    for shown in ("tcp 80 => 8080", "acme", "198.51.100.", "2222", "4444"):
        assert shown in text
    other = tmp_path / "other.toml"
    other.write_text(FLY_TOML.replace("80\n", "81\n"))
    assert "version 2" in web.ok(f"deploy -a web -c {other}")


FULL = """
app = "web"
primary_region = "ams"
[[services]]
internal_port = 8080
auto_stop_machines = "suspend"
min_machines_running = 1
concurrency = { type = "requests", soft_limit = 10, hard_limit = 25 }
[[services.ports]]
port = 8443
handlers = ["http", "tls"]
tls_options = { alpn = ["h2"], versions = ["TLSv1.3"] }
http_options = { compress = true, response = { headers = { Server = false, X-A = ["1", "2"] } } }
[[services.ports]]
port = 9000
handlers = ["proxy_proto"]
proxy_proto_options = { version = "v2" }
"""


def test_services_say_all_that_was_deployed(web: Cli) -> None:
    Path("fly.toml").write_text(FULL)
    use_proxy(Api(web.backend, ""))
    add_machine(web)
    web.ok("deploy -a web --no-public-ips")
    web.ok("ips allocate-v4")
    _, first, second = table(web.ok("services list"))
    assert first[3:8] == ["tcp 8443 => 8080", "http, tls", "10 / 25 requests", "app", "ams"]
    assert second[4] == "proxy_proto"
    first, second = web.json("services list")
    assert (first["auto_start"], first["auto_stop"]) == (True, "suspend")
    assert first["min_machines_running"] == 1
    assert first["regions"] == ["ams"]
    assert first["tls_options"] == {
        "alpn": ["h2"], "versions": ["TLSv1.3"], "default_self_signed": False
    }  # fmt: skip
    options = first["http_options"]
    assert (options["compress"], options["pristine"], options["replay_cache"]) == (True, False, [])
    assert {k.lower(): v for k, v in options["response_headers"].items()} == {
        "server": [], "x-a": ["1", "2"]
    }  # fmt: skip
    assert (first["proxy_proto"], second["proxy_proto"]) == (None, "v2")
    assert second["tls_options"] is second["http_options"] is None


def test_a_file_of_another_app_is_warned_about(web: Cli) -> None:
    Path("other.toml").write_text(FLY_TOML.replace('"web"', '"other"'))
    code, out, err = web("deploy", "-a", "web", "-c", "other.toml")
    assert (code, "Deployed version 1 of app web" in out) == (0, True)
    assert "Warning: other.toml is that of app other; it was deployed to web" in err


def test_warnings_of_a_deployment_go_to_stderr(web: Cli) -> None:
    Path("fly.toml").write_text(FLY_TOML + "\n[surprise]\nx = 1\n")
    code, out, err = web("deploy", "--json")
    assert code == 0
    assert json.loads(out)["version"] == 1
    assert err.startswith("Warning: fly.toml: ")
    assert "surprise" in err
    code, _, err = web("deploy", "--strict")
    assert code == 1
    assert "surprise" in err


def test_the_app_comes_from_option_environment_or_file(
    web: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("api", "job"):
        web.ok(f"apps create {name} -o acme")
    for number, name in enumerate(("web", "api", "job")):
        add_machine(web, name, number)

    def apps(line: str) -> set[str]:
        return {machine["app"] for machine in web.json(line)}

    assert apps("machines list") == {"web", "api", "job"}
    Path("fly.toml").write_text('app = "web"\n')
    assert apps("machines list") == {"web"}
    monkeypatch.setenv("FLY_APP", "api")
    assert apps("machines list") == {"api"}
    assert apps("machines list -a job") == {"job"}
    assert apps("machines list --all") == {"web", "api", "job"}


def test_config_validate_needs_no_daemon(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYEBPF_SOCKET", "/nowhere/api.sock")
    Path("fly.toml").write_text(FLY_TOML)
    assert cli.ok("config validate") == "fly.toml is valid (1 service).\n"
    assert cli.json("config validate") == {"valid": True, "error": None, "warnings": []}
    Path("fly.toml").write_text(FLY_TOML + "\n[surprise]\nx = 1\n")
    code, _, err = cli("config", "validate")
    assert code == 0
    assert "surprise" in err
    code, out, err = cli("config", "validate", "--strict", "--json")
    assert code == 1
    assert "surprise" in json.loads(out)["error"]["message"]


def test_status(cli: Cli) -> None:
    text = cli.ok("status")
    for shown in (
        "h1 (region ams)",
        "ok",
        "3m 20s",
        "eth0 (native)",
        "3f2a90c1 (adopted)",
        "service 2",
        "3: 2 by XDP, 1 through tc",
        "198.51.100.0/29 (3 of 8 allocated)",
        "services 98% of 64, flows <1% of 1024 (sampled), machines 0% of 64, names <1% of 1000, "
        "maglev entries 100% of 64",
    ):
        assert shown in text
    assert cli.json("status")["state"] == "ok"


def test_status_fails_with_the_cause(cli: Cli) -> None:
    cli.backend.problems = [
        Problem("uplink eth0", "only generic XDP", "Use another driver.", Severity.WARNING),
        Problem("interface tap7", "it does not exist", "Create it."),
    ]
    code, out, _ = cli("status")
    assert code == 1
    assert "failed (1 problem, see below)" in out
    error = out.index("error: interface tap7: it does not exist\n  Create it.")
    assert error < out.index("warning: uplink eth0: only generic XDP")
    code, out, _ = cli("status", "--json")
    assert code == 1
    assert json.loads(out)["state"] == "failed"


def test_warnings_alone_are_no_failure(cli: Cli) -> None:
    cli.backend.problems = [Problem("uplink eth0", "generic", "", Severity.WARNING)]
    assert "warning: uplink eth0" in cli.ok("status")


def test_many_problems_fit_one_screen(cli: Cli) -> None:
    cli.backend.problems = [Problem(f"machine {n}", "gone") for n in range(50)]
    _, out, _ = cli("status")
    assert "and 42 more: flyebpf status --json" in out


def test_status_waits_until_in_sync(cli: Cli) -> None:
    cli.backend.lag = 2
    assert cli.json("status --wait")["in_sync"] is True
    assert cli.backend.lag == 0


def test_status_waits_no_longer_than_told(cli: Cli) -> None:
    cli.backend.lag = 10_000
    code, _, err = cli("status", "--wait", "--timeout", "0.3")
    assert code == 1
    assert "not in sync after 0.3 s: revision" in err


def test_waiting_ends_when_what_is_left_has_failed(cli: Cli) -> None:
    cli.backend.pending = 1
    cli.backend.problems = [Problem("interface tap7", "it does not exist")]
    code, out, _ = cli("status", "--wait")
    assert code == 1
    assert "tap7" in out


def test_drops(cli: Cli) -> None:
    assert cli.ok("drops") == "No packet was dropped.\n"
    cli.backend.drop_counters = [DropCounter(5, 1, 60), DropCounter(6, 10, 1000)]
    rows = table(cli.ok("drops"))
    assert rows[1][:3] == ["no_service", "10", "1000"]
    assert rows[2][0] == "vip_unallocated"
    assert "no service" in rows[1][3]
    assert len(cli.json("drops")) == 2


def test_version(cli: Cli) -> None:
    assert cli.ok("version").startswith("flyebpf ")
    assert set(cli.json("version")) == {"version"}


def test_status_has_a_line_for_the_proxy(cli: Cli) -> None:
    assert re.search(r"Proxy +none\n", cli.ok("status"))
    cli.backend.proxy_status = ProxyStatus(True, 71, 7500.0, 2, 85, 1)
    line = "Envoy serves 1 app with 85 listeners, pid 71, up 2h 5m, 2 restarts\n"
    assert line in cli.ok("status")
    assert cli.json("status")["proxy"]["listeners"] == 85
    cli.backend.proxy_status = ProxyStatus(False, 0, 0.0, 0, 0, 1)
    assert re.search(r"Proxy +Envoy does not serve\n", cli.ok("status"))
