# SPDX-License-Identifier: Apache-2.0
"""A VM, a host and a user's peer that send what they must not, on real wires."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flyebpf.api.client import path
from flyebpf.drivers.wireguard_go import WireguardGo
from flyebpf.lab import hosts, net, vms
from flyebpf.lab.state import Vm
from flyebpf.model import sixpn
from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, service, tool_argv

pytestmark = pytest.mark.root

MARK = "flyebpf-hostile-frame"
COUNT = 100_000
ALL = ("host1", "host2", "host3")
VICTIMS = ("h-same", "h-far", "h-third")
FRIENDS = ("h-friend", "h-friend2")


@pytest.fixture(scope="module")
def bad(cluster: Cluster, cluster_app: CreateApp) -> App:
    """VM h-bad on host1; two others of its network, and three of another tenant."""
    app = cluster_app("h-bad", org="h-bad", vip=False)
    cluster.make_vm(app, "h-bad", host="host1")
    cluster.make_vm(app, "h-friend", host="host1")
    cluster.make_vm(app, "h-friend2", host="host2")
    victim = cluster_app("h-victim", service("tcp", 8080, 80), org="h-victim")
    for name, host in zip(VICTIMS, ALL, strict=True):
        cluster.make_vm(victim, name, *tool_argv("udp_mirror", 5000), host=host)
    cluster.settle()
    return app


def arms(cluster: Cluster, vm: Vm, count: int, seed: int) -> dict[str, Any]:
    """For tools/hostile.py: all that ``vm`` may not reach."""
    lab = cluster.lab
    victims = [lab.vms[name] for name in VICTIMS]
    v6 = [victim.sixpn for victim in victims]
    v6 += [mesh_form(victim.sixpn) for victim in victims]
    v6 += [sixpn.host_address(number) for number in numbers(cluster).values()]
    v6 += ["fe80::1", "fe80::2", "::1", "2001:db8::1", "fdaa::5", "fd00::1", "::ffff:127.0.0.1"]
    v4 = [victim.private_ip for victim in victims] + [victim.services_ip for victim in victims]
    v4 += [host.address for host in lab.hosts.values()]
    v4 += [host.fabric for host in lab.hosts.values()]
    v4 += [member.address for member in lab.members.values()]
    v4 += ["127.0.0.1", "169.254.0.1", "100.64.0.2", "10.0.0.1", "224.0.0.1", "255.255.255.255"]
    return {
        "namespace": vm.namespace,
        "mark": MARK,
        "seed": seed,
        "count": count,
        "mac": vm.mac,
        "gateway": "02:00:00:00:00:01",
        "macs": [*(victim.mac for victim in victims), "33:33:00:00:00:01"],
        "own": [vm.private_ip, vm.sixpn],
        "v4": v4,
        "v6": v6,
        "net6": [lab.vms[name].sixpn for name in FRIENDS],
        "public4": [client.address for client in lab.clients.values()],
    }


def mesh_form(address: str) -> str:
    words = address_words(address)
    return ":".join(f"{word:x}" for word in (words[0], *words[3:5], *words[1:3], *words[5:]))


def address_words(address: str) -> list[int]:
    packed = sixpn.IPv6Address(address).packed
    return [int.from_bytes(packed[at : at + 2], "big") for at in range(0, 16, 2)]


def everywhere(cluster: Cluster, *senders: str) -> list[dict[str, Any]]:
    """Where no hostile frame may be: on the wires of all nodes and in the stacks
    of the hosts; of the host of a sender, on all interfaces but its own."""
    lab = cluster.lab
    own = {lab.vms[name].interface for name in senders if name in lab.vms}
    own |= {f"vm-{name}" for name in senders}
    places: list[dict[str, Any]] = [{"namespace": lab.router}]
    for host in lab.hosts.values():
        links = json.loads(net.run("ip", "-n", host.namespace, "-j", "link", "show"))
        names = [link["ifname"] for link in links if link["ifname"] not in own | {"lo"}]
        places.append({"namespace": host.namespace, "interfaces": names, "local": True})
    others = [vm for name, vm in lab.vms.items() if name not in senders]
    places += [{"namespace": vm.namespace, "interfaces": ["eth0"]} for vm in others]
    return places


def check_no_leak(answer: list[Any]) -> None:
    [found] = answer
    assert found["leaks"] == []
    assert found["missed"] == 0


def test_a_hundred_thousand_hostile_frames_reach_nobody(cluster: Cluster, bad: App) -> None:
    del bad
    before = cluster.drops("host1")
    given = {"mark": MARK, "listen": everywhere(cluster, "h-bad")}
    with cluster.scripting("leaks", given) as answer:
        vm = cluster.vm("h-bad")
        result = cluster.script("hostile", arms(cluster, vm, COUNT, 1))
        time.sleep(1)
    assert result == {"sent": COUNT, "refused": 0}
    check_no_leak(answer)
    after = cluster.drops("host1")
    grown = {key: count - before.get(key, 0) for key, count in after.items()}
    # Not all: what asks the gateway for its own address is answered.
    assert sum(grown.values()) > 0.9 * COUNT, grown
    for reason in ("spoofed_mac", "spoofed_ip", "sixpn_network", "spoofed_arp", "vm_to_private"):
        assert grown.get(reason, 0) > 100, (reason, grown)


def test_the_listener_does_find_a_mark(cluster: Cluster, bad: App) -> None:
    """Else the tests of this file would prove nothing: what is allowed is found
    on the friend's interface, on the host's side of it, and on no wire outside."""
    del bad
    given = {"mark": MARK, "listen": everywhere(cluster, "h-bad")}
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.sendto(sys.argv[1].encode(), (sys.argv[2], 9))\n"
    )
    with cluster.scripting("leaks", given) as answer:
        for name in FRIENDS:
            cluster.run("h-bad", "python3", "-c", script, MARK, cluster.sixpn(name))
    places = {name for name, _, _ in answer[0]["leaks"]}
    for name in FRIENDS:
        assert f"{cluster.vm(name).namespace} eth0" in places
    assert not any(place.startswith(cluster.lab.router) for place in places), places
    assert not any(place.endswith(" uplink") for place in places), places
    assert not any(" stack" in place for place in places), places


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_leaves_while_programs_come_and_go(
    cluster: Cluster, bad: App, killed: bool
) -> None:
    """A flood from before the machine is known until after it is gone."""
    name = f"h-flood{int(killed)}"
    host = cluster.host("host1")
    vm = Vm(name, host.name, bad.name, f"{cluster.name}-{name}", f"vm-{name}", vms.new_mac())
    given = {"mark": MARK, "listen": everywhere(cluster, name)}
    net.add_namespace(vm.namespace)
    try:
        vms.plug(vm, host)
        net.batch(vm.namespace, "link set eth0 addrgenmode none", "link set eth0 up")
        own = cluster.vm("h-bad")  # as whom it sends: nothing of this is its own
        weapons = {**arms(cluster, own, 0, 2), "namespace": vm.namespace, "mac": vm.mac}
        with (
            cluster.scripting("leaks", given) as answer,
            cluster.scripting("hostile", weapons) as sent,
        ):
            time.sleep(0.3)
            machine = register(cluster, vm)
            if killed:
                cluster.daemon("stop", "host1", "--kill")
                cluster.daemon("start", "host1")
            vms.wait_guarded(vm, host)
            time.sleep(0.5)
            hosts.api(host).delete(path("machines", machine))
            cluster.settle("host1")
            time.sleep(0.3)
        assert sent[0]["sent"] > 500, sent
        check_no_leak(answer)
    finally:
        net.delete_link(host.namespace, vm.interface)
        net.delete_namespace(vm.namespace)


def register(cluster: Cluster, vm: Vm) -> str:
    body = {"interface": vm.interface, "mac": vm.mac, "name": vm.name}
    machine = cluster.api(vm.host).post(path("apps", vm.app, "machines"), body)
    return str(machine["id"])


# A host of the cluster that sends as another, or what no host sends.


def numbers(cluster: Cluster) -> dict[str, int]:
    items = cluster.api().get("/v1/hosts")["items"]
    return {item["name"]: int(item["id"], 16) for item in items}


def swapped(network: int, host: int, machine: int, suffix: int = 2) -> str:
    """In mesh form."""
    return str(
        sixpn.IPv6Address(sixpn.PREFIX << 112 | host << 80 | network << 48 | machine << 16 | suffix)
    )


@pytest.fixture(scope="module")
def target(cluster: Cluster, bad: App) -> tuple[int, int]:
    """Network and machine number of h-same, on host1."""
    del bad
    words = address_words(cluster.sixpn("h-same"))
    return words[1] << 16 | words[2], words[5] << 16 | words[6]


def send_from_host2(cluster: Cluster, source: str, destination: str) -> None:
    """A datagram into host2's own mesh device, past all programs there."""
    given = {
        "namespace": cluster.host("host2").namespace,
        "source": source,
        "destination": destination,
        "mark": MARK,
        "count": 20,
    }
    assert cluster.script("mesh_inject", given) == 20


def test_a_host_that_sends_as_another_is_not_heard(
    cluster: Cluster, target: tuple[int, int]
) -> None:
    """WireGuard itself: an address belongs to the key that may send it. The
    datagrams arrive, as its bytes show, and none comes out."""
    (network, machine), hosts_ = target, numbers(cluster)
    before, programs = received(cluster, "host1"), cluster.drops("host1")
    destination = swapped(network, hosts_["host1"], machine)
    given = {"mark": MARK, "listen": everywhere(cluster)}
    with cluster.scripting("leaks", given) as answer:
        send_from_host2(cluster, swapped(network, hosts_["host3"], machine + 1), destination)
        cluster.until(
            lambda: received(cluster, "host1") >= before + 20 * len(MARK), "they have arrived"
        )
    sender = cluster.host("host2").namespace
    places = {place for place, _, _ in answer[0]["leaks"]}
    assert places <= {f"{sender} fly0", f"{sender} fly1"}
    after = cluster.drops("host1")
    for reason in after:
        if reason.startswith("mesh_"):
            assert after[reason] == programs.get(reason, 0), reason


def received(cluster: Cluster, host: str) -> int:
    """Bytes that the host's mesh has had from its peers."""
    total = 0
    with net.inside(cluster.host(host).namespace):
        devices = WireguardGo(cluster.where.host(host) / "state")
        for name in devices.devices() & {"fly0", "fly1"}:
            total += sum(peer.received for peer in devices.read(name).peers.values())
    return total


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("network", "mesh_network"),
        ("machine", "mesh_machine"),
        ("form", "mesh_form"),
        ("source network", "mesh_network"),
    ],
)
def test_what_no_host_sends_is_dropped_with_its_reason(
    cluster: Cluster, target: tuple[int, int], case: str, reason: str
) -> None:
    (network, machine), hosts_ = target, numbers(cluster)
    here, there = hosts_["host1"], hosts_["host2"]
    source, destination = swapped(network, there, 99), swapped(network, here, machine)
    if case == "network":
        destination = swapped(network + 1, here, machine)
    elif case == "machine":
        destination = swapped(network, here, 0xFFFFFF)
    elif case == "form":
        destination = swapped(hosts_["host3"], here, machine)
    elif case == "source network":
        source = swapped(network + 1, there, 99)
    before = cluster.drops("host1").get(reason, 0)
    given = {"mark": MARK, "listen": everywhere(cluster)}
    with cluster.scripting("leaks", given) as answer:
        send_from_host2(cluster, source, destination)
        cluster.until(
            lambda: cluster.drops("host1").get(reason, 0) >= before + 20, f"{reason} is counted"
        )
    wires = {f"{cluster.host(host).namespace} {name}" for host in ALL for name in ("fly0", "fly1")}
    assert {place for place, _, _ in answer[0]["leaks"]} <= wires


def test_mesh_addresses_from_outside_end_at_the_uplink(
    cluster: Cluster, target: tuple[int, int]
) -> None:
    (network, machine), hosts_ = target, numbers(cluster)
    destinations = [
        cluster.sixpn("h-same"),
        swapped(network, hosts_["host1"], machine),
        sixpn.host_address(hosts_["host1"]),
    ]
    uplink = json.loads(cluster.run("host1", "ip", "-j", "link", "show", "uplink").stdout)[0]
    before = cluster.drops("host1").get("mesh_outside", 0)
    given = {"mark": MARK, "listen": everywhere(cluster)}
    with cluster.scripting("leaks", given) as answer:
        for destination in destinations:
            cluster.script(
                "mesh_inject",
                {
                    "namespace": cluster.lab.router,
                    "source": swapped(network, hosts_["host2"], 99),
                    "destination": destination,
                    "mark": MARK,
                    "count": 10,
                    "link": ["host1", uplink["address"]],
                },
            )
        cluster.until(
            lambda: cluster.drops("host1").get("mesh_outside", 0) >= before + 30, "it is counted"
        )
    allowed = {f"{cluster.lab.router} host1", f"{cluster.host('host1').namespace} uplink"}
    assert {place for place, _, _ in answer[0]["leaks"]} <= allowed


# A user's own computer.


@pytest.fixture(scope="module")
def peer(cluster: Cluster, bad: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """client2 is in the network of h-bad, by way of host1; its address there."""
    del bad
    file = tmp_path_factory.mktemp("peer") / "wg.conf"
    cluster.flyebpf("host1", "wireguard", "create", "laptop", str(file), "-o", "h-bad")
    assert file.stat().st_mode & 0o777 == 0o600
    given = {
        "namespace": cluster.lab.clients["client2"].namespace,
        "device": "user0",
        "config": file.read_text(),
        "folder": str(file.parent),
    }
    with cluster.scripting("user_peer", given) as ended:
        address = next(
            line.split("=")[1].split("/")[0].strip()
            for line in file.read_text().splitlines()
            if line.startswith("Address")
        )
        yield address
    assert ended == ["ended"]
    cluster.flyebpf("host1", "wireguard", "remove", "laptop", "-o", "h-bad", "-y", check=False)


def ping(cluster: Cluster, node: str, address: str, *options: str) -> bool:
    command = ["ping", "-c", "1", "-W", "1", *options, address]
    return cluster.run(node, *command, check=False).returncode == 0


def test_a_users_peer_reaches_its_network(cluster: Cluster, peer: str) -> None:
    for name in ("h-bad", *FRIENDS):
        cluster.until(
            lambda name=name: ping(cluster, "client2", cluster.sixpn(name)), f"{name} answers", 20
        )
        assert ping(cluster, name, peer)
    status = cluster.flyebpf("host1", "wireguard", "status")
    assert "laptop" in status


def test_a_users_peer_reaches_nothing_else(cluster: Cluster, peer: str) -> None:
    del peer
    # Its computer is told of its own network alone; this one asks for more.
    net.batch(
        cluster.lab.clients["client2"].namespace, "route replace fdaa::/16 dev user0 metric 5"
    )
    cluster.run("client2", "sh", "-c", "true")
    before = cluster.drops("host1")
    for name in VICTIMS:
        assert not ping(cluster, "client2", cluster.sixpn(name))
        assert not ping(cluster, name, cluster.sixpn("h-bad"))
    after = cluster.drops("host1")
    assert after.get("sixpn_network", 0) >= before.get("sixpn_network", 0) + len(VICTIMS)
