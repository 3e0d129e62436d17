# SPDX-License-Identifier: Apache-2.0
"""The commands for hosts, their tokens and keys, and for users' WireGuard peers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flyebpf import wireguardkeys
from flyebpf.api.backend import MeshDevice, MeshPeer, MeshStatus, PeerStatus
from flyebpf.cli.ages import ago
from flyebpf.cli.main import run
from flyebpf.config import EtcdConfig
from flyebpf.model.records import Host, HostStatus, WireguardPeer
from flyebpf.ops import tokens
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Entry, StoreUnavailableError
from flyebpf.store.sqlite import SqliteStore
from tests.api import Api, make_cluster
from tests.fakes_backend import FakeBackend, serving
from tests.stores import GATEWAY_KEY

KEY = wireguardkeys.generate()[1]


class Cli:
    """Runs command lines as a shell would, without a terminal."""

    def __init__(self, backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
        self.backend = backend
        self.capsys = capsys

    def __call__(self, line: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = run(line.split())
        out, err = self.capsys.readouterr()
        return code, out, err

    def ok(self, line: str) -> str:
        code, out, err = self(line)
        assert (code, err) == (0, "")
        return out

    def json(self, line: str) -> Any:
        return json.loads(self.ok(line + " --json"))

    def put(self, record: Any) -> None:
        transact(self.backend.store, lambda tx: tx.put(record))


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """Hosts h1, which answers, and h2; app web of organization acme."""
    with serving(tmp_path) as (backend, path):
        monkeypatch.setenv("FLYEBPF_SOCKET", path)
        monkeypatch.delenv("FLY_APP", raising=False)
        monkeypatch.chdir(tmp_path)
        made = Cli(backend, capsys)
        make_cluster(Api(backend, path))
        made.ok("orgs create acme")
        made.ok("apps create web -o acme")
        yield made


def cells(text: str) -> list[list[str]]:
    return [re.split(" {2,}", line) for line in text.splitlines()]


def add_machine(cli: Cli) -> dict[str, Any]:
    found: dict[str, Any] = cli.json("machines add -a web --interface t0 --mac 02:00:00:00:00:01")
    return found


def test_hosts_list(cli: Cli) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    cli.put(HostStatus("h1", now, version="0.9", connected=1, mtu=1420))
    cli.backend.known_handshakes = {"h2": now}
    header, one, two = cells(cli.ok("hosts list"))
    assert header[:4] == ["NAME", "ID", "REGION", "STATE"]
    assert one[:8] == [
        "h1", "80000001", "ams", "up", "wireguard", "192.0.2.1", "172.16.0.0/20",
        "fdaa:8000:1::1",
    ]  # fmt: skip
    assert (one[8], one[10], one[-1]) == ("1420", "0.9", "-")
    assert re.fullmatch(r"\d s ago", one[11])
    assert two[:2] == ["h2", "80000002"]
    assert two[8:12] == ["-", "0", "unknown", "never"]
    assert re.fullmatch(r"\d s ago", two[12])
    shown = {host["name"]: host for host in cli.json("hosts list")}
    assert shown["h2"]["handshake"] == now
    assert shown["h1"]["this"]
    assert not shown["h2"]["this"]


def test_hosts_show(cli: Cli) -> None:
    cli.put(HostStatus("h2", "2020-01-01T00:00:00Z", kernel="6.1", unconnected=1, peers={"h1": ""}))
    text = cli.ok("hosts show h2")
    for line in (
        r"ID +80000002", r"Kernel +6\.1", r"Seen +\d+ d ago", r"No session with +h1 never",
        r"Sessions +with 0 of 1 other hosts",
    ):  # fmt: skip
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert cli.json("hosts show h2")["handshakes"] == {"h1": ""}
    cli.backend.known_handshakes = {"h2": "2020-01-01T00:00:00Z"}
    assert re.search(r"^Handshakes +h2 \d+ d ago$", cli.ok("hosts show h1"), re.MULTILINE)


def test_draining(cli: Cli) -> None:
    add_machine(cli)
    assert cli.ok("hosts drain h1") == "Host h1 is drained: its 1 machine gets no new flows.\n"
    assert cli.ok("hosts drain h2") == "Host h2 is drained: its 0 machines get no new flows.\n"
    assert "up, drained" in cli.ok("hosts list")
    assert cli.ok("hosts undrain h2") == "Host h2 is in use: its 0 machines get new flows.\n"
    assert not find(cli.backend.store, Host, "h2").drained


def test_a_host_with_machines_is_removed_by_force(cli: Cli) -> None:
    machine = add_machine(cli)["id"]
    cli.ok(f"machines move {machine} --host h2 --interface t5")
    code, _, err = cli("hosts remove h2 -y")
    assert code == 1
    assert "running" in err
    assert cli.ok("hosts remove h2 --force -y") == (
        f"Removed machine {machine} of app web.\nRemoved host h2.\n"
    )
    assert [host["name"] for host in cli.json("hosts list")] == ["h1"]


def peer(host: str, age: float | None, rtt: float | None = None) -> MeshPeer:
    return MeshPeer(host, "fly0", True, "192.0.2.2:51820", age, 1, 2, rtt)


def test_the_status_shows_the_mesh(cli: Cli) -> None:
    assert re.search("^Mesh +none$", cli.ok("status"), re.MULTILINE)
    assert cli.json("status")["mesh"] is None
    devices = [MeshDevice("fly0", "wireguard-go", 0, 51820), MeshDevice("fly1", "", 1, 51821)]
    peers = [peer("h2", 0.0), peer("h3", 181.0), peer("h3", None), peer("h4", None, 0.003)]
    cli.backend.mesh = MeshStatus(0, 1, devices, peers)
    assert re.search(
        r"^Mesh +fly0 by wireguard-go, port 51820, fly1 \(not there\); 2 of 3 other hosts "
        r"reached; keys are being rotated to generation 1$",
        cli.ok("status"),
        re.MULTILINE,
    )
    assert cli.json("status")["mesh"]["peers"][3]["rtt"] == 0.003
    cli.backend.mesh = MeshStatus(0, 0, [MeshDevice("eth1", "plain", 0, 0)], [])
    assert re.search(
        r"^Mesh +eth1 \(plain\); 0 of 0 other hosts reached$", cli.ok("status"), re.MULTILINE
    )


class Away(SqliteStore):
    """A store that answers nothing."""

    def get(self, kind: str, id: str) -> Entry | None:
        raise StoreUnavailableError("etcd is away: it does not answer", "Start it.")

    def list(self, kind: str) -> list[Entry]:
        raise StoreUnavailableError("etcd is away: it does not answer", "Start it.")


def test_a_store_that_is_away(cli: Cli, tmp_path: Path) -> None:
    """Questions are answered from the copy, and say so; nothing is changed."""
    machine = add_machine(cli)["id"]
    there = cli.backend.store
    cli.backend.store = Away(tmp_path / "state.db", durable=False)
    code, out, err = cli("machines list")
    assert (code, out) == (1, "")
    assert err == "Error: etcd is away: it does not answer\n  Start it.\n"
    cli.backend.copy = there
    code, out, err = cli("machines list")
    assert (code, machine in out) == (0, True)
    assert err == (
        "Warning: the store is away: this is what this host read of it last, at revision "
        f"{there.revision()}\n"
    )
    code, out, err = cli("hosts list --json")
    assert (code, len(json.loads(out))) == (0, 2)
    before = there.revision()
    code, out, err = cli("hosts drain h2")
    assert (code, out, "etcd is away" in err) == (1, "", True)
    code, out, err = cli(f"machines remove {machine} -y")
    assert (code, out) == (1, "")
    assert "Error: etcd is away" in err
    code, _, err = cli("machines show 00000000000000")
    assert (code, "does not exist" in err) == (1, True)
    assert there.revision() == before
    cli.backend.store.close()
    cli.backend.store = there


def test_tokens(cli: Cli) -> None:
    token = cli.ok("hosts token --minutes 5").strip()
    assert tokens.read(token).endpoints == ("https://192.0.2.9:2379",)
    made = cli.json("hosts token")
    assert tokens.read(made["token"]).secret != tokens.read(token).secret
    code, _, err = cli("hosts token --revoke --minutes 5")
    assert (code, "leave it out with --revoke" in err) == (2, True)
    assert cli.ok("hosts token --revoke") == "Revoked 2 tokens.\n"


def test_join(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(config: EtcdConfig) -> SqliteStore:
        assert config.endpoints == ("https://192.0.2.9:2379",)
        return SqliteStore(tmp_path / "state.db", durable=False)

    monkeypatch.setattr("flyebpf.store.etcd.EtcdStore", opened)
    monkeypatch.setattr("flyebpf.join.socket.if_nameindex", lambda: [(1, "eth0")])
    token = cli.ok("hosts token").strip()
    rest = "--host h3 -r fra --uplink eth0 --endpoint 192.0.2.3 --to new.toml"
    assert cli.ok(f"hosts join {token} {rest}") == (
        "Joined as host h3 (80000003) with the block 172.16.16.0/20.\n"
        f"Start its daemon: flyebpf daemon --config {tmp_path}/new.toml\n"
    )
    assert (tmp_path / "new.toml").stat().st_mode & 0o777 == 0o600
    code, _, err = cli(f"hosts join {token} {rest}")
    assert (code, "does not know the token" in err) == (1, True)


def test_join_reads_a_token_from_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("no-token\n"))
    code, _, err = cli("hosts join - -r fra --uplink eth0")
    assert (code, "this is not a token" in err) == (1, True)


def test_rotation(cli: Cli) -> None:
    assert cli.ok("hosts rotate-keys --status") == "Hosts send with keys of generation 0.\n"
    text = cli.ok("hosts rotate-keys")
    assert text.startswith("Keys are being rotated: generation 0 to 1.\n")
    assert "Waiting for: h2." in text
    assert "Away, and waited for: h1." in text
    assert cli("hosts rotate-keys")[0] == 1
    code, _, err = cli("hosts rotate-keys --force")
    assert (code, "host h2 is there and not ready" in err) == (1, True)

    def publish(tx: Tx) -> None:
        host = tx.require(Host, "h2")
        tx.put(replace(host, keys={**host.keys, "1": GATEWAY_KEY}))
        tx.put(HostStatus("h2", "", ready_generation=1))

    transact(cli.backend.store, publish)
    assert cli.json("hosts rotate-keys --force") == {
        "running": False, "generation": 1, "next": 1, "waiting": [], "away": ["h1"],
    }  # fmt: skip


def test_moving_a_machine(cli: Cli) -> None:
    machine = add_machine(cli)
    text = cli.ok(f"machines move {machine['id']} --host h2 --interface t5")
    assert text.startswith(f"Moved machine {machine['id']} to host h2.\n")
    moved = cli.json(f"machines show {machine['id']}")
    assert (moved["host"], moved["interface"], moved["org"]) == ("h2", "t5", "acme")
    assert moved["ip_6pn"] == "fdaa:0:1:8000:2:0:10:2"
    assert moved["private_ip"] in text
    back = cli.json(f"machines move {machine['id']} --interface t0 --mac 02:00:00:00:00:07")
    assert (back["host"], back["mac"]) == ("h1", "02:00:00:00:00:07")


def test_a_peers_configuration(cli: Cli) -> None:
    text = cli.ok("wireguard create laptop -o acme")
    assert re.search(r"^PrivateKey = \S{44}$", text, re.MULTILINE)
    assert "Endpoint = 192.0.2.1:51822\n" in text
    made = cli.json("wireguard create phone -o acme --gateway h2 --public-key " + KEY)
    assert made["peer"]["gateway"] == "h2"
    assert (made["peer"]["org"], made["peer"]["network_id"]) == ("acme", "00000001")
    assert "Endpoint = 192.0.2.2:51822\n" in made["config"]


def test_a_peers_file(cli: Cli, tmp_path: Path) -> None:
    text = cli.ok("wireguard create laptop laptop.conf -o acme")
    assert text == (
        "Created WireGuard peer laptop (fdaa:0:1:8000:1:0:a:2) in network default of "
        "organization acme; wrote laptop.conf.\n"
    )
    file = tmp_path / "laptop.conf"
    assert file.stat().st_mode & 0o777 == 0o600
    content = file.read_text()
    assert "PrivateKey = " in content
    code, out, err = cli("wireguard create other laptop.conf -o acme")
    assert (code, out) == (1, "")
    assert "laptop.conf is there already and is not overwritten; nothing was done" in err
    assert file.read_text() == content
    assert [peer.name for peer in every(cli.backend.store, WireguardPeer)] == ["laptop"]
    said = cli.json("wireguard create third third.conf -o acme")
    assert (said["config"], said["file"]) == ("", "third.conf")


@pytest.mark.parametrize("line", ["laptop x.conf -o acme", "new x.conf -o none"])
def test_no_file_is_left_without_a_peer(cli: Cli, tmp_path: Path, line: str) -> None:
    cli.ok("wireguard create laptop -o acme")
    assert cli(f"wireguard create {line}")[0] == 1
    assert not (tmp_path / "x.conf").exists()


def test_no_peer_is_left_without_its_file(cli: Cli) -> None:
    code, _, err = cli("wireguard create laptop /nowhere/x.conf -o acme")
    assert code == 1
    assert "cannot write /nowhere/x.conf: No such file or directory; nothing was done" in err
    assert every(cli.backend.store, WireguardPeer) == []


def test_a_full_disk_takes_the_peer_back(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flyebpf.cli.files.os.fsync", full)
    code, _, err = cli("wireguard create laptop x.conf -o acme")
    assert code == 1
    assert "cannot write x.conf: No space left on device; no peer was created" in err
    assert every(cli.backend.store, WireguardPeer) == []
    assert not (tmp_path / "x.conf").exists()


def test_peers_are_listed_with_their_network(cli: Cli) -> None:
    cli.ok(f"wireguard create laptop -o acme --public-key {KEY}")
    _, row = cells(cli.ok("wireguard list -o acme"))
    assert row[:6] == ["laptop", "acme", "default", "fdaa:0:1:8000:1:0:a:2", "h1", KEY]
    (peer,) = cli.json("wireguard list")
    assert peer["prefix"] == "fdaa:0:1:8000:1:0:a:0/120"


def test_the_status_of_peers(cli: Cli) -> None:
    cli.ok(f"wireguard create laptop -o acme --public-key {KEY}")
    cli.ok("wireguard create phone -o acme --gateway h2")
    cli.backend.peer_status = {
        KEY: PeerStatus("198.51.100.9:4711", "2020-01-01T00:00:00Z", 1234, 5678)
    }
    _, laptop, phone = cells(cli.ok("wireguard status"))
    assert re.fullmatch(r"\d+ d ago", laptop[5])
    assert laptop[6:] == ["1234", "5678", "198.51.100.9:4711"]
    assert phone[4:] == ["h2", "not known here"]
    first, second = cli.json("wireguard status")
    assert (first["known"], first["received"], second["known"]) == (True, 1234, False)


def test_removing_peers(cli: Cli) -> None:
    for name in ("a", "b"):
        cli.ok(f"wireguard create {name} -o acme")
    code, _, err = cli("wireguard remove a c -o acme -y")
    assert (code, "'acme/c' does not exist" in err) == (1, True)
    assert len(cli.json("wireguard list")) == 2
    assert "Removed WireGuard peer b." in cli.ok("wireguard remove a b -o acme -y")
    assert cli.json("wireguard list") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "never"),
        ("nonsense", "nonsense"),
        ("2026-11-20T12:00:00Z", "0 s ago"),
        ("2026-11-20T12:00:01Z", "0 s ago"),  # the other host's clock is ahead
        ("2026-11-20T11:59:01Z", "59 s ago"),
        ("2026-11-20T11:59:00Z", "1 min ago"),
        ("2026-11-20T10:30:00", "1 h ago"),
        ("2026-11-18T12:00:00Z", "2 d ago"),
    ],
)
def test_ages(text: str, said: str) -> None:
    assert ago(text, datetime(2026, 11, 20, 12, tzinfo=UTC)) == said
