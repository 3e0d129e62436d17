# SPDX-License-Identifier: Apache-2.0
"""The mesh driver with wireguard-go: two and three hosts, real handshakes."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.drivers.process_sockets import udp_sockets
from flyebpf.drivers.wireguard import Peer
from flyebpf.drivers.wireguard_devices import WireguardReader
from flyebpf.drivers.wireguard_go import ROOM
from flyebpf.lab.net import inside
from flyebpf.model.rows import MeshPeerRow, MeshRow, UserPeerRow
from tests.netns.driver_rig import sh
from tests.netns.mesh_rig import Fabric, Host, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    made = Fabric(f"m{os.getpid()}n", tmp_path)
    yield made
    made.close()


@pytest.fixture
def pair(fabric: Fabric) -> tuple[Host, Host]:
    """Two hosts, connected."""
    one, two = fabric.add(), fabric.add()
    connect(one, two)
    return one, two


def connect(*hosts: Host, generation: int = 0) -> None:
    for host in hosts:
        others = [host.peer(other, generation) for other in hosts if other is not host]
        host.apply(host.mesh(generation), *others)


def peers(host: Host, device: str = "fly0") -> dict[str, Peer]:
    """What the device has, by public key."""
    with inside(host.name):
        return WireguardReader(host.folder).read(device).peers


def handshake(host: Host, other: Host) -> float:
    return peers(host)[other.keys.public(0)].handshake


def test_hosts_reach_each_other_over_the_mesh(pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert one.pings(two)
    assert two.pings(one)
    assert time.time() - handshake(one, two) < 30
    for host, other in ((one, two), (two, one)):
        assert host.in_place(host.mesh())
        assert host.in_place(host.peer(other))
        assert host.created == ["fly0"]


def test_the_device_is_guarded_and_says_nothing_by_itself(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    shown = one.sh("tc filter show dev fly0 ingress")
    assert f"flyebpf:mesh_tc:{one.programs['mesh_tc'].id} direct-action" in shown
    addresses = json.loads(one.sh("ip -j address show dev fly0"))[0]
    assert [a["local"] for a in addresses["addr_info"]] == [one.address], "no link-local one"
    assert addresses["mtu"] == 1420
    assert one.sh("cat /proc/sys/net/ipv4/conf/fly0/rp_filter") == "2\n"


def test_the_program_is_there_before_the_device_is_up(fabric: Fabric) -> None:
    """What ``ip monitor`` sees: no moment in which it is up and unguarded."""
    host = fabric.add()
    with inside(host.name):
        watched = subprocess.Popen(
            ["sh", "-c", "timeout 2 tc -t monitor & timeout 2 ip -t monitor link; wait"],
            stdout=subprocess.PIPE,
            text=True,
        )
    time.sleep(0.5)
    host.apply(host.mesh())
    lines = watched.communicate()[0].splitlines()
    guarded = next(n for n, line in enumerate(lines) if "flyebpf:mesh_tc" in line)
    up = next(n for n, line in enumerate(lines) if "fly0" in line and ",UP" in line)
    stamps = [n for n, line in enumerate(lines) if line.startswith("Timestamp")]
    assert stamp(lines, stamps, guarded) < stamp(lines, stamps, up)


def stamp(lines: list[str], stamps: list[int], at: int) -> str:
    """The time of an event: the last one printed before it."""
    words = lines[max(n for n in stamps if n < at)].split()
    return " ".join(words[4:5] + words[6:7])


def rooms(host: Host) -> list[int]:
    """Receive buffers of the host's UDP sockets, bytes."""
    return [int(size) for size in re.findall(r"rb(\d+)", host.sh("ss -H -uamn"))]


def test_a_burst_finds_room_while_the_process_waits_for_a_core(
    pair: tuple[Host, Host],
) -> None:
    """Stopped, as one that gets no core: datagrams wait for it and none is lost."""
    one, two = pair
    assert one.pings(two)
    assert min(rooms(two)) >= ROOM
    count = 2000
    os.kill(two.process(), signal.SIGSTOP)
    with inside(one.name), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        for _ in range(count):
            client.sendto(b"x" * 100, (two.address, 9))
    time.sleep(0.2)  # one's process encrypts them
    counters = [line.split() for line in two.sh("cat /proc/net/snmp").splitlines()]
    names, values = (words for words in counters if words[0] == "Udp:")
    assert dict(zip(names, values, strict=True))["RcvbufErrors"] == "0"
    os.kill(two.process(), signal.SIGCONT)


def test_packets_wait_for_a_process_that_waits_for_a_core(pair: tuple[Host, Host]) -> None:
    """As many as with the kernel's WireGuard."""
    one, two = pair
    assert one.pings(two)
    os.kill(one.process(), signal.SIGSTOP)
    with inside(one.name), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        for _ in range(1000):
            client.sendto(b"x" * 100, (two.address, 9))
    os.kill(one.process(), signal.SIGCONT)
    (shown,) = json.loads(one.sh("ip -s -j link show dev fly0"))
    assert shown["stats64"]["tx"]["dropped"] == 0


def test_room_that_was_lost_is_given_back(pair: tuple[Host, Host]) -> None:
    """As when its device goes down and up, and it opens new sockets."""
    one, _ = pair
    with udp_sockets(one.process()) as found:
        for connection in found:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    assert len(found) == 2, "IPv4 and IPv6"
    assert not one.in_place(one.mesh())
    one.apply(one.mesh())
    assert min(rooms(one)) >= ROOM
    one.sh("ip link set fly0 txqueuelen 500")
    assert not one.in_place(one.mesh())
    one.apply(one.mesh())
    assert one.in_place(one.mesh())


def test_sockets_of_hosts_that_share_a_file_system_do_not_meet(pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert (one.folder / "wireguard" / "fly0.sock").is_socket()
    assert (two.folder / "wireguard" / "fly0.sock").is_socket()
    assert not Path("/run/wireguard/fly0.sock").exists()


def test_keys_are_the_owners_alone(pair: tuple[Host, Host]) -> None:
    for host in pair:
        path = host.folder / "mesh-0.key"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text().strip() not in (host.folder / "wireguard/fly0.log").read_text()


def test_a_pass_that_finds_all_in_place_changes_nothing(pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert one.pings(two)
    before = handshake(one, two)
    pid = one.process()
    for _ in range(3):
        one.apply(one.mesh(), one.peer(two))
        two.apply(two.mesh(), two.peer(one))
    assert one.pings(two)
    assert handshake(one, two) == before, "the session went on"
    assert one.process() == pid


def test_the_next_daemon_adopts_the_process_and_its_sessions(pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert one.pings(two)
    before, pid = handshake(one, two), one.process()
    one.restart()
    found = one.read(MeshRow)
    with inside(one.name):
        assert found == {"fly0": one.driver.fingerprint(one.mesh())}
    strangers = list(one.read(MeshPeerRow))
    one.apply(one.peer(two))
    with inside(one.name):
        assert one.driver.apply(MeshPeerRow, [], strangers) == []
    assert one.in_place(one.peer(two))
    assert one.pings(two)
    assert (handshake(one, two), one.process()) == (before, pid)
    assert os.getsid(pid) == pid, "no signal for the daemon's session reaches it"


@pytest.mark.parametrize(
    "damage",
    [
        "ip link set fly0 mtu 1300",
        "ip link set fly0 down",
        "tc filter del dev fly0 ingress",
        "ip address flush dev fly0",
        "ip address add 198.51.100.1/32 dev fly0",
        "ip link delete fly0",
        "echo 1 > /proc/sys/net/ipv6/conf/fly0/disable_ipv6",
    ],
)
def test_damage_to_the_device_is_noticed_and_repaired(pair: tuple[Host, Host], damage: str) -> None:
    one, two = pair
    one.sh(damage)
    assert not one.in_place(one.mesh())
    one.apply(one.mesh(), one.peer(two))
    assert one.in_place(one.mesh())
    assert one.in_place(one.peer(two))
    eventually(lambda: one.pings(two, 1))


def test_a_killed_process_is_replaced(pair: tuple[Host, Host]) -> None:
    one, two = pair
    os.kill(one.process(), signal.SIGKILL)
    eventually(lambda: not one.in_place(one.mesh()))
    one.apply(one.mesh(), one.peer(two))
    assert one.in_place(one.peer(two))
    eventually(lambda: one.pings(two, 1))
    assert one.created == ["fly0", "fly0"]


def wg(host: Host, *lines: str) -> None:
    """Somebody else writes to the device."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(host.folder / "wireguard" / "fly0.sock"))
        connection.sendall("\n".join(["set=1", *lines, "", ""]).encode())
        assert b"errno=0" in connection.recv(100)


def test_a_removed_peer_comes_back_and_a_foreign_one_goes(pair: tuple[Host, Host]) -> None:
    one, two = pair
    key = base64.b64decode(two.keys.public(0)).hex()
    foreign = base64.b64decode(two.keys.public(77)).hex()
    wg(one, f"public_key={key}", "remove=true", f"public_key={foreign}", "allowed_ip=::/0")
    found = one.read(MeshPeerRow)
    assert one.peer(two).key not in found
    (stranger,) = found
    one.apply(one.peer(two))
    with inside(one.name):
        assert one.driver.apply(MeshPeerRow, [], [stranger]) == []
    assert list(one.read(MeshPeerRow)) == [one.peer(two).key]
    eventually(lambda: one.pings(two, 1))


def test_sources_that_somebody_opened_are_closed(pair: tuple[Host, Host]) -> None:
    one, two = pair
    key = base64.b64decode(two.keys.public(0)).hex()
    wg(one, f"public_key={key}", "allowed_ip=fdaa::/16")
    assert not one.in_place(one.peer(two))
    one.apply(one.peer(two))
    assert one.in_place(one.peer(two))


def test_routes_are_kept(pair: tuple[Host, Host]) -> None:
    one, two = pair
    one.sh("ip -6 route delete fdaa:8000:2::/48; ip route add 10.9.0.0/16 dev fly0 proto 254")
    assert not one.in_place(one.peer(two))
    one.apply(one.peer(two))
    assert one.in_place(one.peer(two))
    strangers = [key for key in one.read(MeshPeerRow) if key != one.peer(two).key]
    with inside(one.name):
        assert one.driver.apply(MeshPeerRow, [], strangers) == []
    assert "10.9.0.0" not in one.sh("ip route")
    assert "172.16.32.0/20 dev fly0 proto 254" in one.sh("ip route")


def test_a_peer_that_roams_is_left_where_it_is(pair: tuple[Host, Host]) -> None:
    one, two = pair
    assert one.pings(two)
    wg(two, "listen_port=51999")  # as behind a NAT that chose another port
    assert two.pings(one)
    (peer,) = peers(one).values()
    assert peer.endpoint == "192.0.2.2:51999"
    assert one.in_place(one.peer(two)), "its session lives there"
    one.restart()
    one.apply(one.mesh(), one.peer(two))
    (peer,) = peers(one).values()
    assert peer.endpoint == "192.0.2.2:51999", "nor does the next daemon undo it"
    one.apply(replace(one.peer(two), endpoint="192.0.2.222:51820"))
    (peer,) = peers(one).values()
    assert peer.endpoint == "192.0.2.222:51820", "another endpoint was asked for"


def test_a_peer_with_a_new_key_takes_the_old_ones_place(pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.keys.remove(0)
    two.apply(two.mesh())
    one.apply(one.peer(two))
    assert list(peers(one)) == [two.keys.public(0)]
    eventually(lambda: one.pings(two, 1))


def test_bad_rows_fail_alone(pair: tuple[Host, Host], fabric: Fabric) -> None:
    one, two = pair
    three = fabric.add()
    good = one.peer(three)
    bad = [
        replace(good, host="a", public_key="short"),
        replace(good, host="b", endpoint="nowhere"),
        replace(good, host="c", allowed=("fdaa:8000:3::1/48",)),
        replace(one.peer(two), host="d", allowed=("fdaa:8000:9::/48",)),
    ]
    with inside(one.name):
        failures = one.driver.apply(MeshPeerRow, [*bad, good], [])
    assert {failure.key[1] for failure in failures} == {"a", "b", "c", "d"}  # type: ignore[index]
    assert "have one WireGuard key" in failures[-1].error
    assert one.in_place(good)
    assert one.in_place(one.peer(two))


@pytest.mark.parametrize("copy_first", [True, False])
def test_of_two_hosts_with_one_key_the_first_keeps_it(
    pair: tuple[Host, Host], copy_first: bool
) -> None:
    """A folder that was copied, in a pass over all of them and in later ones."""
    one, two = pair
    first = one.peer(two)
    copied = replace(first, host="a", allowed=("fdaa:8000:9::/48",))
    with inside(one.name):
        one.driver.apply(MeshPeerRow, [], [first.key])
        rows = [copied, first] if copy_first else [first, copied]
        for batch in (rows, [first], [copied]):
            failed = {failure.key for failure in one.driver.apply(MeshPeerRow, batch, [])}
            assert failed == {row.key for row in batch if row is copied}
    assert one.in_place(first)
    assert one.pings(two)


def test_keys_are_rotated_without_loss(fabric: Fabric) -> None:
    hosts = [fabric.add() for _ in range(3)]
    one, two, three = hosts
    connect(*hosts)
    assert one.pings(two)
    assert one.pings(three)
    ping = f"ping -D -i 0.01 -c 600 -I {one.address} {two.address}"
    stream = subprocess.Popen(
        ["ip", "netns", "exec", one.name, *ping.split()], stdout=subprocess.PIPE, text=True
    )
    for host in hosts:  # each in its own time, as daemons do
        host.apply(host.mesh(1, sending=False))
        time.sleep(0.2)
    for host in hosts:
        host.apply(*(host.peer(other, 1) for other in hosts if other is not host))
        time.sleep(0.2)
    for host in hosts:
        host.apply(host.mesh(0, sending=False), host.mesh(1))
        time.sleep(0.2)
    for host in hosts:
        assert host.in_place(host.mesh(0))
        assert host.in_place(host.mesh(1))
        assert all(host.in_place(host.peer(o, g)) for o in hosts if o != host for g in (0, 1))
    for host in hosts:
        for other in hosts:
            if other is not host:
                host.delete(host.peer(other, 0))
        host.delete(host.mesh(0))
        time.sleep(0.2)
    for host in hosts:
        assert set(host.read(MeshRow)) == {"fly1"}
        assert not host.process("fly0")
    said = stream.communicate()[0]
    received = int(said.split(" received")[0].split()[-1])
    assert received == 600, said[-200:]
    assert one.pings(three)


def test_users_peers_have_a_device_while_there_is_one(pair: tuple[Host, Host]) -> None:
    one, two = pair
    laptop = UserPeerRow(two.keys.public(5), "o/laptop", "flyp", "fdaa:0:1:8000:1:0:a:100/120")
    tablet = replace(laptop, public_key=two.keys.public(6), address="fdaa:0:1:8000:1:0:a:200/120")
    assert one.read(UserPeerRow) == {}
    one.apply(laptop, tablet)
    assert one.in_place(laptop)
    assert "flyebpf:peer_tc" in one.sh("tc filter show dev flyp ingress")
    assert set(one.read(MeshRow)) == {"fly0"}, "it is no mesh device"
    assert (one.folder / "peers.key").stat().st_mode & 0o777 == 0o600
    one.sh("ip link delete flyp")
    eventually(lambda: not one.in_place(laptop))
    one.apply(laptop, tablet)
    assert one.in_place(laptop)
    assert one.in_place(tablet)
    one.restart()
    assert one.in_place(tablet)
    one.delete(laptop)
    assert list(one.read(UserPeerRow)) == [tablet.public_key]
    one.restart()
    for key in one.read(UserPeerRow):
        with inside(one.name):
            assert one.driver.apply(UserPeerRow, [], [key]) == []
    assert not one.process("flyp")
    assert one.in_place(one.mesh())


def test_a_device_that_nobody_wants_any_more_goes(pair: tuple[Host, Host]) -> None:
    one, _ = pair
    one.restart()
    one.delete(one.mesh())
    assert one.read(MeshRow) == {}
    assert not one.process()
    assert "fly0" not in one.sh("ip link")


def test_a_foreign_interface_of_that_name_is_left_alone(fabric: Fabric) -> None:
    host = fabric.add()
    host.sh("ip link add fly0 type bridge")
    with inside(host.name):
        (failure,) = host.driver.apply(MeshRow, [host.mesh()], [])
    assert "no WireGuard device of this daemon" in failure.error
    assert "mesh.interface" in failure.remedy
    host.delete(host.mesh())
    assert "fly0" in host.sh("ip link")


class Plain:
    """Rows of a plain underlay on eth0."""

    @staticmethod
    def mesh(host: Host, mtu: int = 1500) -> MeshRow:
        return MeshRow("eth0", "plain", 0, 0, (f"{host.address}/128",), mtu)

    @staticmethod
    def peer(host: Host, other: Host) -> MeshPeerRow:
        row = host.peer(other)
        return replace(row, interface="eth0", public_key="", endpoint=other.underlay)


def test_a_plain_underlay_is_guarded_addressed_and_routed(fabric: Fabric) -> None:
    one, two = fabric.add(), fabric.add()
    for host, other in ((one, two), (two, one)):
        host.apply(Plain.mesh(host), Plain.peer(host, other))
        assert host.in_place(Plain.mesh(host))
        assert host.in_place(Plain.peer(host, other))
        assert not host.process()
    assert "via 192.0.2.2 dev eth0" in one.sh("ip route show 172.16.32.0/20")
    assert one.pings(two)
    one.sh("ip address delete fdaa:8000:1::1/128 dev eth0")
    assert not one.in_place(Plain.mesh(one))
    one.restart()
    one.apply(Plain.mesh(one), Plain.peer(one, two))
    assert one.in_place(Plain.mesh(one))
    assert one.in_place(Plain.peer(one, two))
    one.restart()
    assert list(one.read(MeshRow)) == ["eth0"], "found again without memory"
    one.delete(Plain.mesh(one))
    assert one.read(MeshRow) == {}
    assert "flyebpf" not in one.sh("tc filter show dev eth0 ingress")
    assert "192.0.2.1" in one.sh("ip address show dev eth0"), "the rest stays"
    assert "proto 254" not in one.sh("ip route; ip -6 route")


def test_a_plain_underlay_with_too_small_an_mtu_is_refused(fabric: Fabric) -> None:
    host = fabric.add()
    host.sh("ip link set eth0 mtu 1400")
    with inside(host.name):
        (failure,) = host.driver.apply(MeshRow, [Plain.mesh(host)], [])
    assert failure.error == "mesh interface eth0 has an MTU of 1400, mesh.mtu is 1500"
    assert "flyebpf:mesh_tc" in host.sh("tc filter show dev eth0 ingress"), "guarded all the same"
    missing = replace(Plain.mesh(host), interface="none0")
    with inside(host.name):
        (failure,) = host.driver.apply(MeshRow, [missing], [])
    assert failure.permanent


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    fabric = Fabric(f"m{os.getpid()}z", tmp_path)
    host = fabric.add()
    host.apply(host.mesh())
    name = host.name
    fabric.close()
    eventually(lambda: name not in sh("ip netns list"))
