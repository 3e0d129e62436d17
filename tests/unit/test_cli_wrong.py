# SPDX-License-Identifier: Apache-2.0
"""Wrong command lines: exit code, and what the message says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flyebpf
from flyebpf.cli.main import run
from tests.api import Api, make_cluster
from tests.fakes_backend import FakeBackend, serving

ROOT = Path(flyebpf.__file__).parents[1]
MAC = "--mac 02:00:00:00:00:01"

USAGE = [
    ("machnes", "Did you mean 'machines'?"),
    ("bogus", "Commands: status,"),
    ("--socket '' status", "--socket: is empty"),
    ("machines lst", "Did you mean 'list'?"),
    ("machines metadata sett x", "Did you mean 'set'?"),
    ("zzzz", "Commands: status,"),
    ("machines list --jsn", "No such option '--jsn'"),
    ("--sokcet /x status", "No such option '--sokcet'"),
    ("orgs create", "Missing argument 'NAME'"),
    ("orgs create a b", "unexpected extra argument"),
    ("apps create web", "Missing option '-o'"),
    ("apps destroy web", "--yes"),
    ("machines remove {machine}", "--yes"),
    ("machines add -a web --interface tap1", "Missing option '--mac'"),
    (f"machines add -a web {MAC}", "Missing option '--interface'"),
    (f"machines add --interface tap1 {MAC}", "No app named. Give -a APP, set FLY_APP"),
    (f"machines add -a '' --interface tap1 {MAC}", "an app's name is not empty"),
    (f"machines add -a web --interface tap1 {MAC} --metadata x", "'x' is not KEY=VALUE"),
    ("machines metadata set {machine} =1", "'=1' is not KEY=VALUE"),
    ("machines metadata set {machine} a=1 a=2", "'a' is given twice"),
    ("machines metadata set {machine}", "Missing argument 'KEY=VALUE...'"),
    ("machines list --all -a web", "contradict"),
    ("machines start", "Missing argument 'ID...'"),
    ("machines move {machine}", "Missing option '--interface'"),
    ("hosts lst", "Did you mean 'list'?"),
    ("hosts remove h2", "confirm with -y/--yes"),
    ("hosts token --minutes 0", "not in the range"),
    ("hosts token --minutes soon", "not a valid integer"),
    ("hosts rotate-keys --status --force", "contradict"),
    ("hosts join", "Give either a TOKEN or --config FILE."),
    ("hosts join TOKEN --config x.toml", "Give either a TOKEN or --config FILE."),
    ("hosts join --config x.toml --host h3", "--config says all"),
    ("hosts join --config x.toml --block 172.16.0.0/20", "--config says all"),
    ("hosts join TOKEN", "give --region and --uplink"),
    ("hosts join TOKEN -r ams", "give --region and --uplink"),
    ("wiregaurd list", "Did you mean 'wireguard'?"),
    ("wireguard create laptop", "Missing option '-o'"),
    ("wireguard create -o acme", "Missing argument 'NAME'"),
    ("wireguard remove laptop", "Missing option '-o'"),
    ("ips allocate-v4", "No app named"),
    ("certs add www.example.com -a web --cert c.pem", "Missing option '--key'"),
    ("certs add www.example.com -a web --key k.pem", "Missing option '--cert'"),
    ("certs add www.example.com --cert c.pem --key k.pem", "No app named"),
    ("certs add x.example --operator -a web --cert c --key k", "contradict"),
    ("certs remove", "Missing argument 'HOSTNAME'"),
    ("ips allocate-v6 -a web --network lan", "give --private too"),
    ("ips allocate-v6 -a web -o acme", "give --private too"),
    ("ips release -a web", "Missing argument 'ADDRESS...'"),
    ("status --timeout soon", "'soon' is not a valid float"),
    ("status --timeout -1", "not in the range"),
    ("drops --interval 0", "not in the range"),
]

FAILED = [
    ("certs add www.example.com -a web --cert none --key none", "cannot read none"),
    ("certs add www.example.com -a web --cert binary --key binary", "binary is no PEM file"),
    ("certs add www.example.com -a web --cert good.toml --key good.toml", "is no PEM text"),
    ("certs show www.example.com", "host name www.example.com has no certificate"),
    ("certs show a/b", "'a/b' is not a name"),
    ("certs remove www.example.com -y", "host name www.example.com has no certificate"),
    ("certs list -a none", "none"),
    ("ips allocate-v4 -a web --shared", "a shared IPv4 address needs the proxy"),
    ("ips allocate-v6 -a web --private", "a Flycast address needs the proxy"),
    ("deploy -a web -c good.toml --flycast", "a Flycast address needs the proxy"),
    ("orgs create acme", "acme"),
    ("orgs create 'No Way'", "\n  Use lower-case letters"),
    ("orgs show none", "none"),
    ("orgs show a/b", "'a/b' is not a name"),
    ("orgs show ''", "'' is not a name"),
    ("networks list -o none", "none"),
    ("apps create web -o acme", "web"),
    ("apps create new -o none", "none"),
    ("apps create new -o acme --network 1x", "1x"),
    ("apps list -o none", "none"),
    ("apps destroy none -y", "none"),
    ("apps destroy web -y", "machine"),
    (f"machines add -a none --interface tap2 {MAC}", "none"),
    ("machines add -a web --interface tap2 --mac nonsense", "nonsense"),
    (f"machines add -a web --interface a/b {MAC}", "a/b"),
    (f"machines add -a web --interface eth0 {MAC}", "uplink"),
    (f"machines add -a web --interface tap2 {MAC} --id xyz", "xyz"),
    (f"machines add -a web --interface tap2 {MAC} -r nowhere!", "nowhere!"),
    ("machines list -a none", "none"),
    ("machines show 00000000000000", "00000000000000"),
    ("machines show xyz", "xyz"),
    ("machines start 00000000000000", "00000000000000"),
    ("machines stop {machine} 00000000000000", "00000000000000"),
    ("machines env 00000000000000", "00000000000000"),
    ("machines hosts 00000000000000", "00000000000000"),
    ("machines metadata unset {machine} nothing", "nothing"),
    ("machines move {machine} --interface t --host h9", "host 'h9' does not exist"),
    ("machines move {machine} --interface a/b", "a/b"),
    ("machines move {machine} --interface eth0", "uplink"),
    ("machines move {machine} --interface t --mac x", "MAC address 'x'"),
    ("machines move 00000000000000 --interface t", "00000000000000"),
    ("hosts show h9", "host 'h9' does not exist"),
    ("hosts show h22", 'Did you mean "h2"'),
    ("hosts show a/b", "'a/b' is not a name"),
    ("hosts drain h9", "host 'h9' does not exist"),
    ("hosts undrain h9", "host 'h9' does not exist"),
    ("hosts remove h9 -y", "host 'h9' does not exist"),
    ("hosts remove h1 -y", "host 'h1' is the one that was asked"),
    ("hosts remove h2 -y", "the daemon of host 'h2' is running"),
    ("hosts rotate-keys --force", "no rotation of keys is going on"),
    ("hosts join nonsense -r ams --uplink eth0", "this is not a token"),
    ("hosts join --config none.toml", "none.toml"),
    ("hosts join --config broken.toml", "broken.toml"),
    ("hosts join --config host.toml", "store is 'sqlite'"),
    ("wireguard create laptop -o none", "organization 'none'"),
    ("wireguard create laptop -o acme --network lan", "network 'acme/lan' does not exist"),
    ("wireguard create laptop -o acme --gateway h9", "host 'h9' does not exist"),
    ("wireguard create laptop -o acme --public-key x", "public key 'x'"),
    ("wireguard create 'a b' -o acme", "WireGuard peer name 'a b'"),
    ("wireguard create laptop good.toml -o acme", "good.toml is there already"),
    ("wireguard create laptop / -o acme", "/ is there already"),
    ("wireguard create laptop /none/x -o acme", "cannot write /none/x: No such file"),
    ("wireguard list -o none", "none"),
    ("wireguard status -o none", "none"),
    ("wireguard remove laptop -o acme -y", "WireGuard peer 'acme/laptop' does not exist"),
    ("services list -a none", "none"),
    ("ips list -a none", "none"),
    ("ips allocate-v4 -a none", "none"),
    ("ips release -a web 198.51.100.7", "198.51.100.7"),
    ("ips release -a web nonsense", "nonsense"),
    ("deploy -a web", "cannot read fly.toml: No such file"),
    ("deploy -a web -c /", "cannot read /: Is a directory"),
    ("deploy -a web -c broken.toml", "line 2"),
    ("deploy -c broken.toml", "broken.toml"),
    ("deploy -a none -c good.toml", "none"),
    ("deploy -a web -c ports.toml", "Error: ports.toml: services[0]"),
    ("deploy -a web -c handlers.toml", "needs the proxy"),
    ("config validate -c none.toml", "cannot read none.toml"),
    ("config validate -c broken.toml", "Error: broken.toml"),
    ("config validate -c unknown.toml --strict", "surprise"),
    ("daemon --check-config --config none.toml", "none.toml"),
    ("daemon --check-config --config broken.toml", "broken.toml"),
    ("--socket /nowhere/api.sock status", "the daemon is not running"),
    ("--socket /nowhere/api.sock status --wait --timeout 0.2", "the daemon is not running"),
]

FILES = {
    "good.toml": 'app = "web"\n[[services]]\n[[services.ports]]\nport = 80\n',
    "broken.toml": 'app = "web"\nport = = 1\n',
    "unknown.toml": 'app = "web"\nsurprise = 1\n',
    "ports.toml": 'app = "web"\n[[services]]\n[[services.ports]]\nport = 0\n',
    "host.toml": 'host = "h3"\nregion = "ams"\nuplinks = ["lo0"]\n',
    "handlers.toml": 'app = "web"\n[http_service]\ninternal_port = 8080\n',
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeBackend, Path, str]]:
    """A daemon with one app of one machine; its folder; the machine's id."""
    folder = tmp_path_factory.mktemp("cli")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "binary").write_bytes(bytes(range(256)))
    with serving(folder) as (backend, path):
        where = ["--socket", path]
        run([*where, "orgs", "create", "acme"])
        run([*where, "apps", "create", "web", "-o", "acme"])
        add = f"machines add -a web --interface tap1 {MAC} --id 0123456789abcd"
        assert run([*where, *add.split()]) == 0
        make_cluster(Api(backend, path))
        yield backend, folder, "0123456789abcd"


def attempt(
    served: tuple[FakeBackend, Path, str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str, str]:
    """Run it; also checks that it changed nothing."""
    backend, folder, machine = served
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FLY_APP", raising=False)
    monkeypatch.setenv("FLYEBPF_SOCKET", str(folder / "api.sock"))
    before = backend.store.revision()
    capsys.readouterr()
    code = run(shlex.split(line.format(machine=machine)))
    out, err = capsys.readouterr()
    assert backend.store.revision() == before
    return code, out, err


@pytest.mark.parametrize(("line", "message"), USAGE)
def test_wrong_use_is_2(
    served: tuple[FakeBackend, Path, str],
    line: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = attempt(served, line, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(("line", "message"), FAILED)
def test_what_fails_is_1_and_says_what_to_do(
    served: tuple[FakeBackend, Path, str],
    line: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = attempt(served, line, monkeypatch, capsys)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert message in err
    assert "Traceback" not in err


def test_a_reader_that_leaves_gets_no_complaint(served: tuple[FakeBackend, Path, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "FLYEBPF_SOCKET": str(served[1] / "api.sock")}
    done = subprocess.run(
        [sys.executable, "-m", "flyebpf", "machines", "list"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_fault_of_our_own_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("flyebpf.cli.options.api", broken)
    monkeypatch.delenv("FLYEBPF_DEBUG", raising=False)
    assert run(["orgs", "list"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first == "Error: a fault of flyebpf itself: ZeroDivisionError: division by zero"
    assert "FLYEBPF_DEBUG=1" in second
    monkeypatch.setenv("FLYEBPF_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["orgs", "list"])
