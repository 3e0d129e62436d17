# SPDX-License-Identifier: Apache-2.0
"""The lab's own commands for several hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.lab import net, process
from tests.netns.cluster import Cluster
from tests.netns.rig import Rig
from tests.netns.test_lab import traces

pytestmark = pytest.mark.root


@pytest.fixture
def second() -> Iterator[Rig]:
    made = Rig(f"v{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-third"))
    yield made
    made.command("lab", "down")


def listed(rig: Rig) -> dict[str, dict[str, str]]:
    return {node["name"]: node for node in json.loads(rig.command("lab", "list", "--json").stdout)}


def test_list_shows_the_members_of_etcd_and_their_state(cluster: Cluster) -> None:
    nodes = listed(cluster)
    assert {name for name, node in nodes.items() if node["kind"] == "etcd"} == {
        "etcd1",
        "etcd2",
        "etcd3",
    }
    assert "region fra" in nodes["host3"]["notes"]
    cluster.command("lab", "etcd", "stop", "--pause", "etcd2")
    assert listed(cluster)["etcd2"]["state"] == "paused"
    cluster.command("lab", "etcd", "stop", "--kill", "etcd3")
    assert listed(cluster)["etcd3"]["state"] == "ended"
    cluster.command("lab", "etcd", "start", "etcd2", "etcd3")
    assert {listed(cluster)[f"etcd{n}"]["state"] for n in (1, 2, 3)} == {"up"}


def test_every_host_is_in_the_list_of_every_other(cluster: Cluster) -> None:
    for host in cluster.hosts:
        shown = cluster.flyebpf(host, "hosts", "list")
        assert all(name in shown for name in cluster.hosts)
        assert "wireguard" in shown


def test_route_chooses_the_edge(cluster: Cluster) -> None:
    cluster.command("lab", "route", "203.0.113.77", "via", "host2")
    cluster.command("lab", "route", "203.0.113.78", "via", "host1", "host3")
    lines = [line.split() for line in cluster.command("lab", "route").stdout.splitlines()]
    assert ["203.0.113.77", "host2"] in lines
    assert ["203.0.113.78", "host1,", "host3"] in lines


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["203.0.113.1", "via", "host9"], "no host 'host9'"),
        (["203.0.113.1", "host1"], "the hosts are missing"),
        (["192.0.2.2", "via", "host1"], "is not an Anycast address"),
        (["nonsense", "via", "host1"], "is not an address or prefix"),
    ],
)
def test_a_wrong_route_is_refused(cluster: Cluster, arguments: list[str], complaint: str) -> None:
    done = cluster.command("lab", "route", *arguments, check=False)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_up_with_another_store_or_underlay_is_refused(cluster: Cluster) -> None:
    for option in (["--store", "sqlite"], ["--underlay", "plain"]):
        done = cluster.command("lab", "up", *option, check=False)
        assert done.returncode == 1
        assert "a lab is up already" in done.stderr
    assert "up already" in cluster.command("lab", "up").stdout


def test_hosts_of_their_own_have_no_mesh(second: Rig) -> None:
    options = ("--hosts", "2", "--store", "sqlite", "--underlay", "plain")
    done = second.command("lab", "up", *options, check=False)
    assert done.returncode == 1
    assert "--underlay plain needs hosts that know each other" in done.stderr
    assert traces(second) == []


def test_the_tour_over_a_fabric_without_encryption(second: Rig) -> None:
    second.command("lab", "up", "--hosts", "2", "--underlay", "plain")
    assert "the packets cross the fabric" in second.command("lab", "demo").stdout
    drops = second.command("lab", "exec", "host1", "--", "flyebpf", "drops").stdout
    assert "mesh_" not in drops
    second.command("lab", "down")
    assert traces(second) == []


def test_down_after_parts_were_killed_leaves_no_trace(second: Rig) -> None:
    options = ("--store", "etcd", "--underlay", "wireguard")
    second.command("lab", "up", "--empty", *options, timeout=300)
    lab = second.lab
    running = [pid for space in lab.ledger.namespaces for pid in net.processes(space)]
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in running]
    assert names.count("etcd") == 3
    assert "wireguard-go" in names or net.has_link(lab.hosts["host1"].namespace, "fly0")
    for host in lab.hosts.values():
        assert host.daemon is not None
        process.kill(host.daemon)
    first = lab.members["etcd1"].process
    assert first is not None
    process.kill(first)
    second.command("lab", "down")
    assert traces(second) == []
    for pid in running:
        assert not is_running(pid), pid


def is_running(pid: int) -> bool:
    """A zombie is not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
