# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from flyebpf.dns.asker import Asker, asker_of
from flyebpf.dns.limits import Rates, Shares
from flyebpf.model.sixpn import HOST_BIT, PEER_MACHINE, machine_address, peer_address
from tests.dns_rig import ALICE, MALLORY


def test_a_burst_and_then_the_rate() -> None:
    rates = Rates(rate=10, burst=5)
    assert [rates.delay(ALICE, 100.0) for _ in range(6)] == [0.0] * 6
    assert rates.delay(ALICE, 100.0) == pytest.approx(0.1)
    assert rates.delay(MALLORY, 100.0) == 0
    assert rates.delay(ALICE, 100.05) == pytest.approx(0.05)
    assert rates.delay(ALICE, 100.101) == 0
    assert rates.delay(ALICE, 100.101) > 0
    assert sum(rates.delay(ALICE, 101.0 + n / 1000) == 0 for n in range(1000)) in range(14, 18)


def test_many_askers_take_bounded_memory() -> None:
    rates = Rates(rate=10, burst=5)
    for number in range(40_000):
        rates.delay(Asker(1, HOST_BIT, number), number / 1000)
    assert len(rates._full) < 20_000


def test_shares() -> None:
    shares = Shares(each=2, total=3)
    assert [shares.take(ALICE) for _ in range(3)] == [True, True, False]
    assert [shares.take(MALLORY) for _ in range(2)] == [True, False]
    shares.give(ALICE)
    assert shares.take(MALLORY)
    for asker in (ALICE, MALLORY, MALLORY):
        shares.give(asker)
    assert shares.used == 0
    assert shares._of == {}


def test_askers_of_addresses() -> None:
    host = HOST_BIT | 9
    assert asker_of(machine_address(5, host, 77)) == Asker(5, host, 77)
    assert asker_of(machine_address(5, host, 77)[:-1] + "ffff") == Asker(5, host, 77)
    assert asker_of(peer_address(5, host, 3)) == Asker(5, host, PEER_MACHINE, 3)
    assert asker_of(peer_address(5, host, 4)) == Asker(5, host, PEER_MACHINE, 4)


@pytest.mark.parametrize(
    "address",
    [
        *("::1", "fe80::1%eth0", "2001:db8::1", "fdaa::3", "fdaa:0:5::3", "fdab:0:5:8000:1:0:10:2"),
        *("fdaa:8000:5:8000:1:0:10:2", "fdaa:0:5:1:1:0:10:2", "fdaa:0:5:8000:1::2"),
        *("fdaa:0:0:8000:1:0:10:2", "192.0.2.1", "nonsense", ""),
    ],
)
def test_addresses_of_nobody(address: str) -> None:
    assert asker_of(address) is None
