# SPDX-License-Identifier: Apache-2.0
"""Desired rows: what the plan asks of the kernel, one frozen dataclass a kind.

A row names things by what they are (a machine id, a VIP), never by kernel
indexes: drivers find or give those. ``key`` identifies the row within its
kind; two rows with one key and different values replace each other. Kinds are
applied in the order of ``ROW_ORDER`` and deleted in the reverse order, so that
nothing refers to what is not there yet or no longer there. ``references`` and
``withdrawn`` tell the reconciler where that order alone is not enough.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Row:
    refers_to: ClassVar[tuple[type[Row], ...]] = ()
    """The kinds that ``references`` may name."""

    @property
    def key(self) -> Hashable:
        """Identity within the kind: the first field, unless overridden."""
        names: tuple[str, ...] = self.__slots__
        key: Hashable = getattr(self, names[0])
        return key

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        """The rows, by kind and key, that the kernel would reach by index from
        this one. While it is applied they must not be deleted: their index
        could go to somebody else's row."""
        return ()

    @property
    def withdrawn(self) -> bool:
        """Whether what refers to this row should stop doing so before this
        row replaces another value."""
        return False

    @property
    def exclusive(self) -> tuple[Hashable, ...]:
        """What only one live row of the kind may have at a time."""
        return ()

    def withdraw(self) -> Row | None:
        """The row to apply while its delete has to wait; None: leave it."""
        return None


@dataclass(frozen=True, slots=True)
class SettingsRow(Row):
    """The one entry of the programs' ``settings``. Prefixes are CIDRs."""

    name: str
    pools: tuple[str, ...]
    private_prefix: str
    alias_prefix: str
    uplinks: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class PolicyRow(Row):
    """Where a VM's own packets may go. ``reason`` is an enum drop_reason or 0."""

    prefix: str
    reason: int


@dataclass(frozen=True, slots=True)
class NatRow(Row):
    """Source NAT of ``source`` (a CIDR) where it leaves over ``uplinks``."""

    source: str
    uplinks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UplinkRow(Row):
    """An uplink with the edge programs on it. ``xdp_mode``: auto, native, generic."""

    interface: str
    xdp_mode: str


@dataclass(frozen=True, slots=True)
class InterfaceRow(Row):
    """A VM's interface: guarded by the VM programs, then up, with a route and
    a permanent neighbour for each address. ``addresses`` are IPv4; there are
    none for a machine that cannot be planned and has no slot: its interface is
    guarded, and nothing passes."""

    interface: str
    machine: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlotRow(Row):
    """A machine that packets can be delivered to. ``live``: it is started."""

    machine: str
    interface: str
    mac: str
    private_ip: str
    services_ip: str
    live: bool

    @property
    def withdrawn(self) -> bool:
        return not self.live

    @property
    def exclusive(self) -> tuple[Hashable, ...]:
        return (self.interface, self.private_ip, self.services_ip)

    def withdraw(self) -> SlotRow:
        return replace(self, live=False)


@dataclass(frozen=True, slots=True)
class TableRow(Row):
    """A Maglev table. ``backends``: machine ids, sorted; empty is allowed."""

    refers_to: ClassVar[tuple[type[Row], ...]] = (SlotRow,)
    name: str
    backends: tuple[str, ...]

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return tuple((SlotRow, machine) for machine in self.backends)


@dataclass(frozen=True, slots=True)
class ServiceRow(Row):
    """(VIP, protocol, port range) to a table. ``proto`` is an IP protocol
    number. ``service`` is the name that its counters are kept under and that its
    flows hold on to: another VIP, app or service is another name."""

    refers_to: ClassVar[tuple[type[Row], ...]] = (TableRow,)
    vip: str
    proto: int
    first_port: int
    last_port: int
    service: str
    table: str
    internal_port: int
    reverse: bool
    proxy: bool

    @property
    def key(self) -> Hashable:
        return (self.vip, self.proto, self.first_port, self.last_port)

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return ((TableRow, self.table),)


@dataclass(frozen=True, slots=True)
class ReplyRow(Row):
    """Where replies from (machine, proto, internal port) come from.

    ``unique``: ``vip`` and ``port`` are the only ones that lead there. Otherwise
    they are the oldest of several: what flows were opened to that are older
    than the second way in. ``service`` as in :class:`ServiceRow`.
    """

    refers_to: ClassVar[tuple[type[Row], ...]] = (SlotRow,)
    machine: str
    proto: int
    internal_port: int
    vip: str
    port: int
    service: str
    unique: bool

    @property
    def key(self) -> Hashable:
        return (self.machine, self.proto, self.internal_port)

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return ((SlotRow, self.machine),)


@dataclass(frozen=True, slots=True)
class VipRow(Row):
    """An allocated Anycast address. ``ranges``: some of its services are ranges."""

    vip: str
    app: str
    ranges: bool


ROW_ORDER: tuple[type[Row], ...] = (
    SettingsRow,
    PolicyRow,
    NatRow,
    SlotRow,
    InterfaceRow,
    TableRow,
    ReplyRow,
    ServiceRow,
    VipRow,
    UplinkRow,
)
