# SPDX-License-Identifier: Apache-2.0
"""DNS in a cluster: for users' computers over WireGuard, and by where the asker is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App

TRANSPORTS = ("+notcp", "+tcp")
both_transports = pytest.mark.parametrize("how", TRANSPORTS)
NEAR, FAR = "n-near", "n-far"
"""VMs of the app; host1 and host3 are in different regions."""


@pytest.fixture(scope="module")
def app(cluster: Cluster, cluster_app: CreateApp) -> App:
    """One VM in each region; and an app of another organization."""
    made = cluster_app("n-own", org="n-own", vip=False)
    cluster.make_vm(made, NEAR, host="host1")
    cluster.make_vm(made, FAR, host="host3")
    other = cluster_app("n-other", org="n-other", vip=False)
    cluster.make_vm(other, "n-other", host="host1")
    cluster.settle()
    return made


class Computer:
    """A user's, client2: ``server`` is what its configuration names."""

    def __init__(self, cluster: Cluster, config: str) -> None:
        self._cluster = cluster
        fields = dict(line.split(" = ", 1) for line in config.splitlines() if " = " in line[:32])
        self.server = fields["DNS"]
        self.address = fields["Address"].partition("/")[0]

    def dig(self, *words: str, server: str = "") -> str:
        options = ("+time=2", "+tries=2", f"@{server or self.server}")
        return self._cluster.run("client2", "dig", *options, *words, check=False).stdout

    def data(self, *words: str) -> set[str]:
        """Of an answer; a server that does not answer gives none."""
        lines = self.dig("+short", *words).splitlines()
        return {line for line in lines if not line.startswith(";")}


@pytest.fixture(scope="module")
def computer(
    cluster: Cluster, app: App, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Computer]:
    """With a peer that the command line made, by way of host1."""
    del app
    file = tmp_path_factory.mktemp("peer") / "wg.conf"
    cluster.flyebpf("host1", "wireguard", "create", "desk", str(file), "-o", "n-own")
    given = {
        "namespace": cluster.lab.clients["client2"].namespace,
        "device": "user1",
        "config": file.read_text(),
        "folder": str(file.parent),
    }
    with cluster.scripting("user_peer", given) as ended:
        made = Computer(cluster, file.read_text())
        cluster.until(lambda: bool(made.data("AAAA", "_api.internal")), "it is let in", 20)
        yield made
    assert ended == ["ended"]
    cluster.flyebpf("host1", "wireguard", "remove", "desk", "-o", "n-own", "-y", check=False)
    shutil.rmtree(file.parent)


@both_transports
def test_a_users_computer_finds_names_of_its_network(
    cluster: Cluster, computer: Computer, how: str
) -> None:
    machine = cluster.vm(FAR).machine
    near, far = cluster.sixpn(NEAR), cluster.sixpn(FAR)
    assert computer.server.endswith("::3")
    assert computer.data(how, "AAAA", "_api.internal") == {computer.server}
    assert computer.data(how, "AAAA", "N-Own.internal") == {near, far}
    assert computer.data(how, "AAAA", f"{machine}.vm.n-own.internal") == {far}
    assert computer.data(how, "TXT", "_apps.internal") == {'"n-own"'}
    assert computer.data(how, "-x", far) == {f"{machine}.vm.n-own.internal."}
    assert computer.data(how, "AAAA", "desk._peer.internal") == {computer.address}
    assert computer.data(how, "AAAA", "top1.nearest.of.n-own.internal") == {near}
    shown = computer.dig(how, "AAAA", "n-own.internal")
    assert f"SERVER: {computer.server}#53" in shown
    assert f"({'TCP' if how == '+tcp' else 'UDP'})" in shown


@both_transports
def test_to_a_users_computer_other_networks_names_do_not_exist(
    cluster: Cluster, computer: Computer, how: str
) -> None:
    """The answers are those to names that nobody has, but for the name."""
    theirs, nobodys = (
        [line for line in computer.dig(how, "+noall", "+comments", "+authority", kind, name)
         .splitlines() if "id:" not in line]
        for kind in ("AAAA",)
        for name in ("n-other.internal", "nobody.internal")
    )  # fmt: skip
    assert theirs == nobodys
    assert any("SOA" in line for line in theirs)
    assert "status: NXDOMAIN" in computer.dig(how, "TXT", "vms.n-other.internal")
    assert computer.data(how, "-x", cluster.sixpn("n-other")) == set()


@both_transports
def test_a_users_computer_gets_nothing_from_other_networks_servers(
    cluster: Cluster, computer: Computer, how: str
) -> None:
    """Nor from the machines' server: its packets do not get there."""
    number = int(computer.server.split(":")[2] or "0", 16)
    cluster.run("client2", "ip", "route", "replace", "fdaa::/16", "dev", "user1", "metric", "5")
    before = cluster.drops("host1")
    for server in (f"fdaa:0:{number + 1:x}::3", "fdaa::3"):
        shown = computer.dig(how, "+tries=1", "+time=1", "AAAA", "n-other.internal", server=server)
        assert "no servers could be reached" in shown
    after = cluster.drops("host1")
    assert sum(after.values()) >= sum(before.values()) + 2
    assert computer.data(how, "AAAA", "_api.internal") == {computer.server}


def test_a_vm_finds_its_own_peers(cluster: Cluster, computer: Computer) -> None:
    asked = ("dig", "+short", "AAAA", "desk._peer.internal")
    for node in (NEAR, FAR):
        cluster.until(
            lambda node=node: cluster.run(node, *asked).stdout.split() == [computer.address],
            f"{node} knows",
        )
    assert cluster.run("n-other", *asked).stdout == ""


@both_transports
def test_nearest_is_nearest_to_who_asks(cluster: Cluster, app: App, how: str) -> None:
    del app
    for node in (NEAR, FAR):
        name = "top1.nearest.of.n-own.internal"
        found = cluster.run(node, "dig", how, "+short", "AAAA", name).stdout.split()
        assert found == [cluster.sixpn(node)]
        both = cluster.run(node, "dig", how, "+short", "AAAA", name.replace("1", "2")).stdout
        assert both.split()[0] == cluster.sixpn(node)
        assert set(both.split()) == {cluster.sixpn(NEAR), cluster.sixpn(FAR)}
