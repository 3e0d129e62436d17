# SPDX-License-Identifier: Apache-2.0
"""Desired rows: what the plan asks of the kernel, one frozen dataclass a kind.

A row names things by what they are (a machine id, a VIP), never by kernel
indexes: drivers find or give those. ``key`` identifies the row within its
kind; two rows with one key and different values replace each other. Kinds are
applied in the order of ``roworder.ROW_ORDER`` and deleted in the reverse order, so
that nothing refers to what is not there yet or no longer there. ``references`` and
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
    """The one entry of the programs' ``settings``. Prefixes are CIDRs.

    ``host``: this host's number, 0 when it has none. ``mesh_mtu``: bytes of the
    longest IPv6 packet that the mesh takes, 0 without a mesh. ``peers``: the
    device of users' WireGuard peers, "" for none. ``host_port``: where packets
    for the host's own services go, "" for nowhere. ``shared``: those of ``pools``
    whose TCP is the proxy's. ``proxy``: what machines see as this host's proxy, "" where
    it has none.
    """

    name: str
    pools: tuple[str, ...]
    private_prefix: str
    alias_prefix: str
    uplinks: tuple[str, ...]
    seed: int
    host: int = 0
    mesh_mtu: int = 0
    mesh_ethernet: bool = False
    return_edge: bool = False
    peers: str = ""
    host_port: str = ""
    pools6: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    proxy: str = ""


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
    a permanent neighbour for each address. ``addresses`` are IPv4 (6PN never
    meets the host's stack); there are none for a machine that cannot be planned
    and has no slot: its interface is guarded, and nothing passes."""

    interface: str
    machine: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlotRow(Row):
    """A machine that packets can be delivered to. ``live``: it is started.

    ``network``, ``host`` and ``number`` are the fields of its 6PN address; a
    network of 0 gives it none. ``remote``: it is on another host; then there is
    no interface, no MAC, no IPv4 address (all ``""``) and no network.
    """

    machine: str
    interface: str
    mac: str
    private_ip: str
    services_ip: str
    live: bool
    network: int = 0
    host: int = 0
    number: int = 0
    remote: bool = False

    @property
    def withdrawn(self) -> bool:
        return not self.live

    @property
    def exclusive(self) -> tuple[Hashable, ...]:
        if self.remote:
            return ()
        number = (self.number,) if self.number else ()
        return (self.interface, self.private_ip, self.services_ip, *number)

    def withdraw(self) -> SlotRow:
        return replace(self, live=False)


@dataclass(frozen=True, slots=True)
class MeshRow(Row):
    """A mesh device of this host: up, with the mesh program on it.

    ``underlay``: "wireguard" (the device is made, with the key of
    ``generation`` and this UDP port) or "plain" (it exists, and has Ethernet
    headers; generation and port are 0). ``addresses``: this host's own, as
    CIDRs. ``mtu``: of the device, bytes. ``sending``: the host's own packets
    take this device where another one leads to the same place.
    """

    interface: str
    underlay: str
    generation: int
    port: int
    addresses: tuple[str, ...]
    mtu: int
    sending: bool = True


@dataclass(frozen=True, slots=True)
class MeshPeerRow(Row):
    """Another host as a peer of a mesh device, with the routes to it.

    ``endpoint``: ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``; on the plain
    underlay the next hop's address alone. ``public_key``: base64, "" on the
    plain underlay. ``allowed``: CIDRs that come from it and go to it.
    """

    refers_to: ClassVar[tuple[type[Row], ...]] = (MeshRow,)
    interface: str
    host: str
    public_key: str
    endpoint: str
    allowed: tuple[str, ...]

    @property
    def key(self) -> Hashable:
        return (self.interface, self.host)

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return ((MeshRow, self.interface),)


@dataclass(frozen=True, slots=True)
class HostRow(Row):
    """Another host that the programs may send to: over ``interface``, on the
    plain underlay by way of ``next_hop`` (an address, else ""). ``proxy``: what
    machines see as its proxy, "" where none of it may reach them."""

    refers_to: ClassVar[tuple[type[Row], ...]] = (MeshRow,)
    number: int
    name: str
    interface: str
    next_hop: str
    proxy: str = ""

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return ((MeshRow, self.interface),)


@dataclass(frozen=True, slots=True)
class UserPeerRow(Row):
    """A user's WireGuard peer, which enters its network at this host.
    ``address``: its CIDR (a /120), all that it may send from."""

    public_key: str
    name: str
    interface: str
    address: str


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
    """Where replies from (machine, proto, internal port) come from, to clients of
    the family of ``vip``.

    ``unique``: ``vip`` and ``port`` are the only ones that lead there. Otherwise
    they are the oldest of several: what flows were opened to that are older
    than the second way in. For IPv6 it is always False: its flows are all told
    apart. ``service`` as in :class:`ServiceRow`.
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
        return (self.machine, self.proto, self.internal_port, ":" in self.vip)

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return ((SlotRow, self.machine),)


@dataclass(frozen=True, slots=True)
class VipRow(Row):
    """An allocated Anycast address. ``ranges``: some of its services are ranges."""

    vip: str
    app: str
    ranges: bool


@dataclass(frozen=True, slots=True)
class HostPortRow(Row):
    """Where the host's own services meet private networks: the pair of devices
    ``interface`` (the stack's side) and ``far`` (the programs'). ``addresses``: of
    the services, as CIDRs; ``route``: the prefix that the stack sends there."""

    interface: str
    far: str
    addresses: tuple[str, ...]
    route: str


@dataclass(frozen=True, slots=True)
class NameRow(Row):
    """A name that the programs answer machines of ``network`` (its number) with
    the addresses of: 16 bytes each, 1 to 8, in the DNS server's order. ``digest``
    is ``model.namehash`` of ``name``, which is in wire form and lower case."""

    network: int
    digest: bytes
    name: bytes
    addresses: tuple[bytes, ...]

    @property
    def key(self) -> Hashable:
        return (self.network, self.digest)
