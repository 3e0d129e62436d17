# SPDX-License-Identifier: Apache-2.0
"""The hosts of the state: who claims what, who is there, and how far regions are."""

from __future__ import annotations

from ipaddress import IPv4Network

from flyebpf.model.index import Blocks, Index
from flyebpf.model.records import AnyRecord, Host, Latency, Presence

KINDS = frozenset((Host.kind, Presence.kind, Latency.kind))


class Fleet:
    """Indexes over the tables that the state fills. ``version`` is another
    number after every change of one of KINDS. Not thread safe."""

    def __init__(self) -> None:
        self.version = 0
        self.hosts: dict[str, Host] = {}
        self.presences: dict[str, Presence] = {}
        self.latencies: dict[str, Latency] = {}
        self._by_number = Index()
        self._by_endpoint = Index()
        self._by_region = Index()
        self._by_block = Blocks()
        self._measured = Index()

    def add(self, record: AnyRecord) -> None:
        """A record has come into one of the tables."""
        self.version += 1
        if isinstance(record, Host):
            for index, word in self._words(record):
                index.add(word, record.name)
            if block := block_of(record):
                self._by_block.add(block, record.name)
        elif isinstance(record, Latency):
            self._measured.add(record.region, record.host)

    def discard(self, record: AnyRecord) -> None:
        """It has gone."""
        self.version += 1
        if isinstance(record, Host):
            for index, word in self._words(record):
                index.discard(word, record.name)
            if block := block_of(record):
                self._by_block.discard(block, record.name)
        elif isinstance(record, Latency):
            self._measured.discard(record.region, record.host)

    def _words(self, host: Host) -> tuple[tuple[Index, object], ...]:
        return (
            (self._by_number, host.number),
            (self._by_endpoint, host.endpoint),
            (self._by_region, host.region),
        )

    def regions(self) -> set[str]:
        """Those that have a host."""
        return {str(region) for region in self._by_region.words()}

    def hosts_in(self, region: str) -> list[Host]:
        """By name."""
        return [self.hosts[name] for name in self._by_region[region]]

    def rivals(self, host: Host) -> list[Host]:
        """The other hosts that claim its number, its endpoint or an address of
        its block: none, if all is well."""
        found = set(self._by_number[host.number])
        if host.endpoint:
            found.update(self._by_endpoint[host.endpoint])
        if block := block_of(host):
            found |= self._by_block.overlapping(block)
        found.discard(host.name)
        return [self.hosts[name] for name in sorted(found)]

    def measured_in(self, region: str) -> list[Latency]:
        """What the hosts of a region measured, by host."""
        return [self.latencies[name] for name in self._measured[region]]


def block_of(host: Host) -> IPv4Network | None:
    """Its part of the private pool; None where that is no prefix."""
    try:
        return IPv4Network(host.block)
    except ValueError:
        return None
