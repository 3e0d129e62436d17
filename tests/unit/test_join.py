# SPDX-License-Identifier: Apache-2.0
"""A host joins: all of it or nothing. The cluster's store is a file here, as
what is tested asks nothing of it but transactions."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from flyebpf import configfile, join
from flyebpf.config import DaemonConfig, EgressConfig, EtcdConfig, MeshConfig
from flyebpf.errors import ConflictError, FlyebpfError, InvalidError, UnavailableError
from flyebpf.join import Newcomer
from flyebpf.join.files import Staged, write_new
from flyebpf.join.text import render
from flyebpf.model.records import Host, JoinToken
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.ops import cluster, tokens
from flyebpf.ops.transact import every, find, transact
from flyebpf.store.base import StoreUnavailableError, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.etcdrig import etcd
from tests.stores import config

NEWCOMER = Newcomer("h2", "fra", ("eth0",), endpoint="192.0.2.2")


@dataclass
class World:
    """A cluster of h1, and the folder of the host that is to join."""

    store: SqliteStore
    config: DaemonConfig
    etc: Path
    opened: list[EtcdConfig]

    def token(self) -> str:
        return tokens.create(self.store, self.config, 60).token

    def open(self, config: EtcdConfig) -> SqliteStore:
        """What the certificate's files say is read while they are there."""
        self.opened.append(config)
        if config.key:
            assert "PRIVATE KEY" in Path(config.key).read_text()
            assert os.stat(config.key).st_mode & 0o777 == 0o600
        return SqliteStore(self.store.path, durable=False)

    def join(self, token: str, newcomer: Newcomer = NEWCOMER) -> join.Joined:
        return join.with_token(token, newcomer, self.etc / "flyebpf.toml", self.open)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    names = ["-keyout", str(folder / "one.key"), "-out", str(folder / "one.pem")]
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subprocess.run([*command.split(), "-subj", "/CN=one", *names], check=True, capture_output=True)
    (folder / "one.key").chmod(0o600)
    return folder


@pytest.fixture
def world(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("flyebpf.join.socket.if_nameindex", lambda: [(1, "eth0"), (2, "eth1")])
    files = [str(certificate / name) for name in ("one.pem", "one.pem", "one.key")]
    own = replace(
        config(),
        store="etcd",
        domain="fly.example",
        egress=EgressConfig(("10.20.0.0/16",)),
        mesh=MeshConfig("wireguard", "192.0.2.1", 7000, latency=("ams fra 8",)),
        etcd=EtcdConfig(("https://192.0.2.9:2379",), files[0], files[1], files[2]),
    )
    store = SqliteStore(tmp_path / "state.db", durable=False)
    cluster.ensure(store, own)
    yield World(store, own, tmp_path / "etc", [])
    store.close()


def test_a_host_joins(world: World) -> None:
    token = world.token()
    joined = world.join(token)
    host = find(world.store, Host, "h2")
    assert joined.host == host
    assert host.number == find(world.store, Host, "h1").number + 1
    assert (host.region, host.block, host.underlay) == ("fra", "172.16.16.0/20", "wireguard")
    assert (host.endpoint, host.port) == ("192.0.2.2", 7000)
    assert every(world.store, JoinToken) == []
    made = configfile.load(joined.config)
    assert made == replace(
        world.config,
        host="h2",
        region="fra",
        private=replace(world.config.private, block="172.16.16.0/20"),
        mesh=replace(world.config.mesh, endpoint="192.0.2.2"),
        etcd=replace(
            world.config.etcd,
            ca=str(world.etc / "etcd-ca.pem"),
            cert=str(world.etc / "etcd-cert.pem"),
            key=str(world.etc / "etcd-key.pem"),
        ),
    )
    for name in ("flyebpf.toml", "etcd-ca.pem", "etcd-cert.pem", "etcd-key.pem"):
        assert (world.etc / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in world.etc.iterdir()) == [
        "etcd-ca.pem", "etcd-cert.pem", "etcd-key.pem", "flyebpf.toml",
    ]  # fmt: skip
    assert not Path(world.opened[0].key).exists()
    # Its daemon finds all as it should be.
    before = world.store.revision()
    assert cluster.ensure(world.store, made)[1] == host
    assert world.store.revision() == before


def refused(world: World, token: str, newcomer: Newcomer, error: type[FlyebpfError]) -> str:
    """What is said; nothing is registered, used up, written or left behind."""
    before = world.store.revision()
    there = sorted(world.etc.iterdir()) if world.etc.exists() else []
    with pytest.raises(error) as caught:
        world.join(token, newcomer)
    assert world.store.revision() == before
    assert (sorted(world.etc.iterdir()) if world.etc.exists() else []) == there
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"host": "h1"}, ConflictError, "the cluster has a host 'h1' already"),
        ({"host": "H 2"}, FlyebpfError, "host: 'H 2' is not a valid name; use lower"),
        ({"region": "A"}, FlyebpfError, "region: 'A'"),
        ({"uplinks": ("eth9",)}, InvalidError, "uplink 'eth9' does not exist on this machine"),
        ({"uplinks": ("eth0", "eth0")}, FlyebpfError, "'eth0' is listed twice"),
        ({"endpoint": ""}, InvalidError, "with --endpoint"),
        ({"endpoint": "192.0.2.1"}, ConflictError, "is that of host 'h1'"),
        ({"endpoint": "203.0.113.5"}, FlyebpfError, "203.0.113.5 is in 203.0.113.0/24"),
        ({"block": "172.16.0.0/24"}, ConflictError, "overlaps 172.16.0.0/20 of host 'h1'"),
        ({"block": "10.0.0.0/20"}, FlyebpfError, "is not inside private.prefix"),
        ({"block": "nonsense"}, FlyebpfError, "'nonsense' is not a network"),
    ],
)
def test_what_is_wrong_is_refused(
    world: World, change: dict[str, Any], error: type[FlyebpfError], said: str
) -> None:
    token = world.token()
    assert said in refused(world, token, replace(NEWCOMER, **change), error)
    assert world.join(token).host.name == "h2"  # the token is still good


def test_a_token_that_was_used(world: World) -> None:
    token = world.token()
    world.join(token)
    other = replace(NEWCOMER, host="h3", endpoint="192.0.2.3")
    assert "does not know the token" in refused(world, token, other, InvalidError)


def test_a_token_of_another_cluster(world: World) -> None:
    invitation = replace(tokens.read(world.token()), secret="x" * 43)
    said = refused(world, tokens.write(invitation), NEWCOMER, InvalidError)
    assert "does not know the token" in said
    assert "x" * 43 not in said


def test_an_expired_token(world: World) -> None:
    token = world.token()
    (record,) = every(world.store, JoinToken)
    old = replace(record, expires="2020-01-01T00:00:00Z")
    transact(world.store, lambda tx: tx.put(old))
    assert "has expired" in refused(world, token, NEWCOMER, InvalidError)


def test_pools_that_overlap(world: World) -> None:
    invitation = tokens.read(world.token())
    pools = replace(invitation.pools, shared_v4=("203.0.113.128/25",))
    token = tokens.write(replace(invitation, pools=pools))
    said = refused(world, token, NEWCOMER, FlyebpfError)
    assert "overlaps 203.0.113.0/24 of pools.anycast_v4" in said


def test_a_store_that_is_away(world: World) -> None:
    def away(config: EtcdConfig) -> Any:
        raise StoreUnavailableError("etcd does not answer", "Start it.")

    with pytest.raises(StoreUnavailableError, match="does not answer"):
        join.with_token(world.token(), NEWCOMER, world.etc / "flyebpf.toml", away)
    assert not world.etc.exists()


def test_a_store_without_a_cluster(world: World, tmp_path: Path) -> None:
    def empty(config: EtcdConfig) -> SqliteStore:
        store = SqliteStore(tmp_path / "empty.db", durable=False)
        record = every(world.store, JoinToken)[0]
        transact(store, lambda tx: tx.put(record))
        return store

    with pytest.raises(UnavailableError, match="holds no cluster"):
        join.with_token(world.token(), NEWCOMER, world.etc / "flyebpf.toml", empty)


@pytest.mark.parametrize("name", ["flyebpf.toml", "etcd-key.pem"])
def test_files_are_not_overwritten(world: World, name: str) -> None:
    world.etc.mkdir()
    (world.etc / name).write_text("mine")
    said = refused(world, world.token(), NEWCOMER, ConflictError)
    assert f"{name} is there already and is not overwritten" in said
    assert (world.etc / name).read_text() == "mine"


def test_files_that_are_the_same_are_left_as_they_are(world: World) -> None:
    first = world.join(world.token())
    transact(world.store, lambda tx: tx.delete(Host, "h2"))
    before = first.config.stat()
    assert world.join(world.token()).host.number == first.host.number + 1
    assert first.config.stat().st_ino == before.st_ino


def test_the_host_is_forgotten_when_its_files_get_no_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = world.token()
    real = os.link

    def full(source: Path, target: Path) -> None:
        if target.name == "flyebpf.toml":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("flyebpf.join.files.os.link", full)
        with pytest.raises(UnavailableError, match=r"flyebpf\.toml: No space left on device"):
            world.join(token)
    assert [host.name for host in every(world.store, Host)] == ["h1"]
    assert list(world.etc.iterdir()) == []
    assert world.join(token).host.name == "h2"


def test_a_folder_that_cannot_be_made(world: World) -> None:
    world.etc.write_text("a file")
    token = world.token()
    before = world.store.revision()
    with pytest.raises(UnavailableError, match=r"cannot write .*etcd-ca\.pem: Not a directory"):
        world.join(token)
    assert world.store.revision() == before


def test_blocks_are_the_first_that_are_free(world: World) -> None:
    blocks = []
    for number in range(2, 7):
        newcomer = replace(NEWCOMER, host=f"h{number}", endpoint=f"192.0.2.{number}")
        if number == 3:
            newcomer = replace(newcomer, block="172.16.48.0/24")
        path = world.etc / f"{number}" / "flyebpf.toml"
        blocks.append(join.with_token(world.token(), newcomer, path, world.open).host.block)
    assert blocks == [
        "172.16.16.0/20", "172.16.48.0/24", "172.16.32.0/20", "172.16.64.0/20", "172.16.80.0/20",
    ]  # fmt: skip


def test_a_host_with_an_impossible_block_keeps_nobody_out(world: World) -> None:
    strange = Host("h9", HOST_BIT | 99, "ams", "everything")
    transact(world.store, lambda tx: tx.put(strange))
    assert world.join(world.token()).host.block == "172.16.16.0/20"


def test_no_block_is_free(world: World) -> None:
    invitation = tokens.read(world.token())
    full = replace(invitation, private_prefix="172.16.0.0/19", private_alias="100.64.0.0/19")
    token = tokens.write(full)
    world.join(token)
    again = tokens.write(replace(full, secret=tokens.read(world.token()).secret))
    other = replace(NEWCOMER, host="h3", endpoint="192.0.2.3")
    path = world.etc / "3" / "flyebpf.toml"
    with pytest.raises(FlyebpfError, match=r"172\.16\.0\.0/19 has no free block of /20"):
        join.with_token(again, other, path, world.open)


class Racing(SqliteStore):
    """Another host joins with the block that looked free."""

    rival: Callable[[], None] | None = None

    def commit(self, transaction: Transaction) -> int:
        rival, Racing.rival = Racing.rival, None
        if rival is not None:
            rival()
        return super().commit(transaction)


def test_two_hosts_that_join_at_once_get_blocks_of_their_own(world: World) -> None:
    mine, theirs = world.token(), world.token()
    other = replace(NEWCOMER, host="h3", endpoint="192.0.2.3")

    def open_racing(config: EtcdConfig) -> Racing:
        return Racing(world.store.path, durable=False)

    def rival() -> None:
        join.with_token(theirs, other, world.etc / "3" / "flyebpf.toml", world.open)

    Racing.rival = rival
    join.with_token(mine, NEWCOMER, world.etc / "2" / "flyebpf.toml", open_racing)
    hosts = every(world.store, Host)
    assert [host.name for host in hosts] == ["h1", "h2", "h3"]
    blocks = [IPv4Network(host.block) for host in hosts]
    assert len({host.number for host in hosts}) == 3
    assert not any(a.overlaps(b) for a in blocks for b in blocks if a is not b)
    assert configfile.load(world.etc / "2" / "flyebpf.toml").private.block == hosts[1].block


def test_by_a_configuration(world: World, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    own = replace(
        world.config,
        host="h5",
        uplinks=("eth1",),
        private=replace(world.config.private, block="172.20.0.0/20"),
        mesh=replace(world.config.mesh, endpoint="192.0.2.5"),
    )
    path.write_text(render(own))
    assert configfile.load(path) == own
    joined = join.with_config(path, world.open)
    assert joined.host == find(world.store, Host, "h5")
    with pytest.raises(ConflictError, match="has a host 'h5' already"):
        join.with_config(path, world.open)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"store": "sqlite"}, "store is 'sqlite'"),
        ({"uplinks": ("eth7",)}, "uplink 'eth7' does not exist"),
        ({"host": "h1"}, "the cluster has a host 'h1' already"),
    ],
)
def test_a_configuration_that_is_wrong(
    world: World, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(render(replace(world.config, **{"host": "h5", "uplinks": ("eth0",), **change})))
    before = world.store.revision()
    with pytest.raises(FlyebpfError, match=said):
        join.with_config(path, world.open)
    assert world.store.revision() == before


def test_all_hosts_have_one_prefix(world: World, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    private = replace(world.config.private, prefix="10.0.0.0/12", block="10.0.0.0/20")
    mesh = replace(world.config.mesh, endpoint="192.0.2.5")
    path.write_text(render(replace(world.config, host="h5", private=private, mesh=mesh)))
    with pytest.raises(ConflictError, match=r"does not contain the block 172\.16\.0\.0/20"):
        join.with_config(path, world.open)


def test_by_etcd_itself(world: World, tmp_path: Path) -> None:
    with etcd(tmp_path) as members, closing(join.open_store(members.config())) as store:
        own = replace(world.config, etcd=members.config())
        cluster.ensure(store, own)
        token = tokens.create(store, own, 60).token
        path = world.etc / "flyebpf.toml"
        host = join.with_token(token, NEWCOMER, path).host
        assert find(store, Host, "h2") == host
        assert every(store, JoinToken) == []
        with closing(join.open_store(configfile.load(path).etcd)) as theirs:
            assert every(theirs, Host) == every(store, Host)
        with pytest.raises(InvalidError, match="does not know the token"):
            join.with_token(token, replace(NEWCOMER, host="h3"), path)


def test_files_appear_all_or_none(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with Staged({one: "1", two: "2"}) as staged:
        two.write_text("somebody else's")
        with pytest.raises(ConflictError, match="two is there already"):
            staged.publish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two"]
    write_new(one, "text")
    assert (one.read_text(), one.stat().st_mode & 0o777) == ("text", 0o600)
    with pytest.raises(ConflictError):
        write_new(one, "other")
    assert one.read_text() == "text"
