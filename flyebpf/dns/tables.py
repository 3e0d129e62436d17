# SPDX-License-Identifier: Apache-2.0
"""What names lead to: an app's machines by everything that can be asked for, users'
peers, Flycast addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flyebpf.dns.wire import NAME_MAX


class Vm(NamedTuple):
    """What names say of a machine. ``metadata``: of its record, or None."""

    id: str
    app: str
    host: str
    region: str
    group: str
    number: int
    started: bool
    metadata: Mapping[str, str] | None


class Place(NamedTuple):
    """A machine with its address: 16 bytes. ``usable``: started, and on a host
    that gives answers."""

    vm: Vm
    address: bytes
    usable: bool


class Peer(NamedTuple):
    network: str
    name: str
    address: bytes


class Flycast(NamedTuple):
    """``callers``: the network that its record names."""

    app: str
    callers: str


class AppTable:
    """An app's machines by all that names can ask for. Keys are lower-case
    bytes, values the addresses of usable machines: a key without any is there
    because some machine has it. ``texts``: rdata of lists that were asked for."""

    __slots__ = (
        "by_group",
        "by_id",
        "by_metadata",
        "by_region",
        "epoch",
        "places",
        "texts",
        "usable",
    )

    def __init__(self, epoch: int, places: list[Place]) -> None:
        self.epoch = epoch
        self.places = places
        self.usable = tuple(place.address for place in places if place.usable)
        self.texts: dict[str, tuple[bytes, ...]] = {}
        found: tuple[dict[bytes, list[bytes]], ...] = ({}, {}, {}, {})
        for vm, address, usable in places:
            for table, key in _keys(vm, found):
                have = table.setdefault(key, [])
                if usable:
                    have.append(address)
        self.by_id, self.by_region, self.by_group, self.by_metadata = (
            {key: tuple(addresses) for key, addresses in table.items()} for table in found
        )


def _keys(
    vm: Vm, tables: tuple[dict[bytes, list[bytes]], ...]
) -> Iterable[tuple[dict[bytes, list[bytes]], bytes]]:
    ids, regions, groups, metadata = tables
    yield ids, vm.id.encode()
    yield regions, vm.region.encode()
    yield groups, vm.group.lower().encode()
    # A value or key with dots in it is asked for as several labels.
    pairs = {f"{value}.{key}".encode().lower() for key, value in (vm.metadata or {}).items()}
    for pair in pairs:
        if len(pair) > NAME_MAX:  # nobody can ask for it
            continue
        yield metadata, pair
        rest = pair
        while rest:  # names that only end others
            rest = rest.partition(b".")[2]
            metadata.setdefault(rest, [])


def is_of(number: int, address: bytes) -> bool:
    """Whether an address is of the network of a number."""
    return address[:6] == b"\xfd\xaa" + number.to_bytes(4, "big")


def packed_of(address: str) -> bytes | None:
    """16 bytes; None for what is no IPv6 address."""
    try:
        return socket.inet_pton(socket.AF_INET6, address)
    except OSError:
        return None
