# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.model import sixpn

NETWORKS = st.integers(1, 2**31 - 1)
HOSTS = st.integers(2**31, 2**32 - 1)
MACHINES = st.integers(1, 2**32 - 1)


def test_fields_are_where_the_contract_has_them() -> None:
    address = sixpn.machine_address(0x11112222, 0x83334444, 0x55556666)
    assert address == "fdaa:1111:2222:8333:4444:5555:6666:2"
    prefix = sixpn.machine_prefix(0x11112222, 0x83334444, 0x55556666)
    assert prefix == "fdaa:1111:2222:8333:4444:5555:6666:0/112"
    assert sixpn.network_prefix(0x11112222) == "fdaa:1111:2222::/48"


@given(network=NETWORKS, host=HOSTS, machine=MACHINES)
def test_an_address_is_in_its_prefixes(network: int, host: int, machine: int) -> None:
    address = IPv6Address(sixpn.machine_address(network, host, machine))
    assert address in IPv6Network(sixpn.machine_prefix(network, host, machine))
    assert address in IPv6Network(sixpn.network_prefix(network))


@pytest.mark.parametrize(
    "numbers",
    [(0, 2**31, 1), (2**31, 2**31, 1), (1, 2**31 - 1, 1), (1, 2**32, 1), (1, 2**31, 0)],
)
def test_numbers_out_of_range(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="number"):
        sixpn.machine_address(*numbers)


@pytest.mark.parametrize("network", [0, 2**31])
def test_network_out_of_range(network: int) -> None:
    with pytest.raises(ValueError, match="number"):
        sixpn.network_prefix(network)
