# SPDX-License-Identifier: Apache-2.0
"""Who asks: what a source address says about its sender.

The data plane has verified the source before a query gets here, so it is proof.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from flyebpf.model.sixpn import HOST_BIT, PEER_MACHINE, PREFIX


class Asker(NamedTuple):
    """Fields of the source address (``model.sixpn``). ``peer``: which of the
    users' peers on that host, whose machine field is the same; 0 for machines.
    Equal for all addresses that one machine or peer may send from."""

    network: int
    host: int
    machine: int
    peer: int = 0


def asker_of(address: str) -> Asker | None:
    """The sender at an IPv6 address in text. None: no machine's or peer's."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return None
    return asker_of_packed(packed)


def asker_of_packed(packed: bytes) -> Asker | None:
    """The same for 16 bytes in network order."""
    number = int.from_bytes(packed, "big")
    network = number >> 80 & 0xFFFFFFFF
    host = number >> 48 & 0xFFFFFFFF
    machine = number >> 16 & 0xFFFFFFFF
    if number >> 112 != PREFIX or not 0 < network < HOST_BIT <= host or not machine:
        return None
    peer = number >> 8 & 0xFF if machine == PEER_MACHINE else 0
    return Asker(network, host, machine, peer)
