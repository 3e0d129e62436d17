# SPDX-License-Identifier: Apache-2.0
"""Dumps over rtnetlink, compared with what the tools of iproute2 say."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest

from flyebpf.drivers.netlink_dumps import Dumps
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
