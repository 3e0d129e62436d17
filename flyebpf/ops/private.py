# SPDX-License-Identifier: Apache-2.0
"""Private IPv4 addresses of machines: two of its host's block for each."""

from __future__ import annotations

from flyebpf.errors import ExhaustedError
from flyebpf.model.records import Host, Machine, PrivateAddress
from flyebpf.ops import pools
from flyebpf.ops.transact import Tx, sound


def pool_name(host: str) -> str:
    """The pool of a host's block. Whoever allocates from it writes its record."""
    return f"private/{host}"


def take(tx: Tx, host: Host, machine: str) -> str:
    """An address for ``machine``; ExhaustedError when the block is full."""
    with sound(f"host {host.name}"):
        block = pools.linked(host.block)
    address = pools.take(tx, pool_name(host.name), [block], PrivateAddress)
    if address is None:
        raise ExhaustedError(
            f"the private block {host.block} of host {host.name!r} has no free address",
            "remove machines that are gone, or give the host a larger `private.block`",
        )
    tx.put(PrivateAddress(address, machine))
    return address


def give_back(tx: Tx, machine: Machine) -> None:
    """Free the addresses that the machine has on its host, if they are its own."""
    for address in (machine.private_ip, machine.services_ip):
        used = tx.get(PrivateAddress, address)
        if used is not None and used.machine == machine.id:
            tx.delete(PrivateAddress, address)
            pools.give_back(tx, pool_name(machine.host), address)
