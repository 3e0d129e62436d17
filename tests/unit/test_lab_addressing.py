# SPDX-License-Identifier: Apache-2.0
"""The lab's addresses never overlap."""

from __future__ import annotations

from itertools import combinations

import pytest

from flyebpf.lab import addressing


def test_links_are_inside_their_block_and_disjoint() -> None:
    for link_of, block, count in (
        (addressing.client_link, addressing.CLIENTS, addressing.MAX_CLIENTS),
        (addressing.host_link, addressing.UPLINKS, addressing.MAX_HOSTS),
    ):
        links = [link_of(number) for number in range(1, count + 1)]
        ends = [end for link in links for end in (link.router, link.node)]
        assert len(set(ends)) == 2 * count
        assert all(end in block for end in ends)


def test_pools_and_private_blocks_are_disjoint() -> None:
    for part_of, whole in (
        (addressing.anycast_pool, addressing.ANYCAST),
        (addressing.private_block, addressing.PRIVATE),
    ):
        parts = [part_of(number) for number in range(1, addressing.MAX_HOSTS + 1)]
        assert all(part.subnet_of(whole) for part in parts)
        assert not any(one.overlaps(other) for one, other in combinations(parts, 2))


@pytest.mark.parametrize("number", [0, addressing.MAX_HOSTS + 1])
def test_there_is_no_part_beyond_the_last(number: int) -> None:
    with pytest.raises(ValueError, match="no part"):
        addressing.anycast_pool(number)


def test_hosts_and_etcd_have_addresses_of_their_own_on_the_fabric() -> None:
    found = [addressing.fabric_address(number) for number in range(1, addressing.MAX_HOSTS + 1)]
    found += [addressing.etcd_address(number) for number in range(1, addressing.ETCD_MEMBERS + 1)]
    assert len(set(found)) == addressing.MAX_HOSTS + addressing.ETCD_MEMBERS
    assert all(address in addressing.FABRIC for address in found)


def test_every_host_has_a_region_and_every_pair_of_regions_a_distance() -> None:
    regions = [addressing.region(number) for number in range(1, addressing.MAX_HOSTS + 1)]
    assert regions[:5] == ["ams", "ams", "fra", "fra", "iad"]
    pairs = {tuple(text.split()[:2]) for text in addressing.latencies(addressing.MAX_HOSTS)}
    assert pairs == set(combinations(dict.fromkeys(regions), 2))
    assert addressing.latencies(2) == ()
    assert addressing.latencies(3) == ("ams fra 8",)
