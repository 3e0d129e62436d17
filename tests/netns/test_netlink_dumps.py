# SPDX-License-Identifier: Apache-2.0
"""Dumps over rtnetlink, compared with what the tools of iproute2 say."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator

import pytest

from flyebpf.drivers.netlink_dumps import DeviceRoute, Dumps, link_kind
from flyebpf.drivers.netlink_io import INGRESS, MAIN, PERMANENT, ROUTE_PROTOCOL
from tests.netns.driver_rig import namespace, sh

pytestmark = pytest.mark.root
MANY = 700  # interfaces: an answer of several datagrams


@pytest.fixture
def dumps() -> Iterator[Dumps]:
    with namespace():
        sh("ip link add a0 type veth peer name a1; ip addr add 10.0.0.1/24 dev a0")
        sh("ip link set a0 group 3870 up; ip link set a1 up")
        opened = Dumps()
        yield opened
        opened.close()


def index(name: str) -> int:
    return int(json.loads(sh(f"ip -j link show {name}"))[0]["ifindex"])


def test_every_interface(dumps: Dumps) -> None:
    pairs = "\n".join(f"link add b{i} type veth peer name c{i}" for i in range(MANY // 2))
    sh(f"echo '{pairs}' | ip -batch -")
    wanted = {
        (link["ifname"], link["ifindex"], "UP" in link["flags"])
        for link in json.loads(sh("ip -j link show"))
    }
    found = dumps.links()
    assert {(name, ifindex, up) for name, ifindex, _, up in found} == wanted
    assert len(found) == MANY + 3
    assert [group for name, _, group, _ in found if name == "a0"] == [3870]


def test_only_host_routes_of_the_protocol_and_the_table(dumps: Dumps) -> None:
    sh("ip route add 172.16.0.2 dev a0 proto 254; ip route add 172.16.0.3 dev a0 proto static")
    sh("ip route add 172.16.0.4 dev a0 proto 254 table 7")
    sh("ip route add 172.17.0.0/24 dev a0 proto 254")
    assert dumps.host_routes(MAIN, ROUTE_PROTOCOL) == {(index("a0"), "172.16.0.2")}


def test_only_permanent_neighbours(dumps: Dumps) -> None:
    sh("ip neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev a0 nud permanent")
    sh("ip neigh add 10.0.0.8 lladdr 02:00:00:00:00:08 dev a0 nud stale")
    found = dumps.neighbours(PERMANENT)
    assert found == {(index("a0"), "10.0.0.7", "02:00:00:00:00:07")}


def test_what_is_not_there_is_an_error_or_nothing_and_the_next_answer_is_right(
    dumps: Dumps,
) -> None:
    assert dumps.filters(index("a0"), INGRESS) == [], "no clsact"
    assert dumps.filters(999_999, INGRESS) == [], "no interface"
    with pytest.raises(OSError, match="refused") as caught:
        dumps.host_routes(77, ROUTE_PROTOCOL)
    assert caught.value.errno == errno.ENOENT
    assert "a0" in {name for name, *_ in dumps.links()}


def test_routes_of_both_families(dumps: Dumps) -> None:
    sh("ip -6 addr add 2001:db8::1/64 dev a0 nodad")
    sh("ip -6 route add fdaa:8000:2::/48 dev a0 proto 254 metric 1025")
    sh("ip -6 route add fdaa:8000:3::/48 via 2001:db8::9 dev a0 proto 254")
    sh("ip -6 route add fdaa:8000:4::/48 dev a0 proto static")
    sh("ip route add 172.16.16.0/20 via 10.0.0.9 dev a0 proto 254; ip route add default dev a0")
    a0 = index("a0")
    found = dumps.device_routes(socket.AF_INET6, MAIN, ROUTE_PROTOCOL)
    assert found == {
        DeviceRoute(a0, "fdaa:8000:2::/48", "", 1025),
        DeviceRoute(a0, "fdaa:8000:3::/48", "2001:db8::9", 1024),
    }
    found = dumps.device_routes(socket.AF_INET, MAIN, ROUTE_PROTOCOL)
    assert found == {DeviceRoute(a0, "172.16.16.0/20", "10.0.0.9", 0)}


def test_what_kind_an_interface_is_of(dumps: Dumps) -> None:
    sh("ip link add br0 type bridge; ip tuntap add tun0 mode tun")
    kinds = {name: link_kind(name) for name in ("a0", "br0", "tun0", "lo", "none0")}
    assert kinds == {"a0": "veth", "br0": "bridge", "tun0": "tun", "lo": "", "none0": ""}
