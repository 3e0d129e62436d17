# SPDX-License-Identifier: Apache-2.0
"""What the API asks of the daemon that serves it.

The API reads and writes records through ``store`` and ``flyebpf.ops``; all that
only the running daemon knows comes through :class:`Backend`. Its methods are
called from worker threads, never from the event loop, and may block briefly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from flyebpf.api.probes import Probes
from flyebpf.config import DaemonConfig
from flyebpf.store.base import Store


class Severity(StrEnum):
    """``ERROR``: something that was asked for does not work. ``WARNING``: it
    works, but not as well as it should."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, by its cause.

    ``object`` names what it is about (``interface tap7``, ``machine 3d8d…``,
    ``record app/web``), ``message`` the cause, ``remedy`` what to do.
    """

    object: str
    message: str
    remedy: str = ""
    severity: Severity = Severity.ERROR


@dataclass(frozen=True, slots=True)
class UplinkStatus:
    """``mode``: ``native``, ``generic``, or ``""`` when nothing is attached."""

    interface: str
    mode: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """How many machines of this host packets reach in which way: redirected in
    ``xdp``, through ``tc`` where the interface takes no redirect, or not at all
    where the interface is ``missing``."""

    xdp: int = 0
    tc: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class PoolUse:
    """``size`` is all that can be allocated."""

    cidr: str
    allocated: int
    size: int


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a table of the kernel is. ``setting`` is the key of the
    configuration that gives its size; ``sampled``: ``used`` is an estimate."""

    used: int
    size: int
    setting: str
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class MeshDevice:
    """``implementation``: ``kernel`` or ``wireguard-go``, ``plain`` where there
    is no WireGuard, ``""`` for a device that is not there. ``port``: UDP. ``refused``:
    packets that WireGuard took off because their source was not their peer's; None
    where nobody counts them (``wireguard-go``, ``plain``)."""

    interface: str
    implementation: str
    generation: int
    port: int
    refused: int | None = None


@dataclass(frozen=True, slots=True)
class MeshPeer:
    """Another host on a mesh device. ``present``: its daemon is there.
    ``endpoint``: of its last packet, or where it should be. ``handshake_age``:
    seconds, None for never (and without WireGuard). Bytes are of WireGuard's
    packets. ``rtt``: seconds, None where it is not known."""

    host: str
    interface: str
    present: bool
    endpoint: str
    handshake_age: float | None
    received: int
    sent: int
    rtt: float | None


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """``generation``: of the keys that hosts send with; ``next_generation``
    differs from it while keys are being rotated."""

    generation: int
    next_generation: int
    devices: Sequence[MeshDevice]
    peers: Sequence[MeshPeer]


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """``uptime``: Envoy's, in seconds. ``restarts``: Envoys that ended by themselves.
    ``listeners``: of Envoy's that connections are given to. ``apps``: those it serves."""

    serving: bool
    pid: int
    uptime: float
    restarts: int
    listeners: int
    apps: int


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon's own view of itself.

    ``store_revision`` is the store's, ``applied_revision`` the last one whose
    rows were all handed to the kernel; they are equal when nothing is on the
    way. ``rows``: rows wanted, by kind. ``pending``: rows that are not applied,
    failed ones included. ``uptime`` in seconds. ``programs`` is the digest of
    the programs' source; ``adopted`` is whether they were found pinned.
    ``fill`` is by what the table holds (``services``, ``flows``, …). ``mesh``,
    ``proxy``: None for a host without one.
    """

    pid: int
    uptime: float
    store_revision: int
    applied_revision: int
    pending: int
    rows: Mapping[str, int]
    uplinks: Sequence[UplinkStatus]
    programs: str
    adopted: bool
    problems: Sequence[Problem]
    delivery: Delivery = Delivery()
    pools: Sequence[PoolUse] = ()
    fill: Mapping[str, Fill] = field(default_factory=dict)
    mesh: MeshStatus | None = None
    proxy: ProxyStatus | None = None

    @property
    def in_sync(self) -> bool:
        """Whether the kernel holds what the store says (failed rows aside)."""
        return self.applied_revision >= self.store_revision


@dataclass(frozen=True, slots=True)
class ServiceCounters:
    """Traffic of one service since its counters were made.

    ``service`` is ``app/protocol/ports``, on all its VIPs together. Bytes
    are L3 lengths; ``in`` is towards the machines. ``flows`` were created.
    """

    service: str
    in_packets: int
    in_bytes: int
    out_packets: int
    out_bytes: int
    flows: int


@dataclass(frozen=True, slots=True)
class DropCounter:
    """``reason`` is a :class:`flyebpf.model.reasons.DropReason` number; bytes
    are L2 lengths."""

    reason: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What the kernel (or ``wireguard-go``) knows of a user's WireGuard peer.

    ``endpoint``: ``address:port`` of its last packet, ``""`` for none.
    ``handshake``: of the last one, RFC 3339 in UTC, ``""`` for never. Bytes are
    of WireGuard's packets.
    """

    endpoint: str = ""
    handshake: str = ""
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class DigRecord:
    """``data`` in the form of zone files."""

    name: str
    ttl: int
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class DigAnswer:
    """An answer of the DNS server. ``size``: bytes of the message; ``milliseconds``
    that it took; ``truncated``: it did not fit, ask by TCP."""

    rcode: str
    flags: Sequence[str]
    answers: Sequence[DigRecord]
    authority: Sequence[DigRecord]
    size: int
    milliseconds: float
    truncated: bool = False


class Backend(Protocol):
    """The daemon, as the API sees it. Methods raise FlyebpfError."""

    @property
    def store(self) -> Store:
        """The open store."""

    def remembered(self) -> Store | None:
        """What this host last read of a store that is away; None where it keeps
        no copy. Only for looking."""

    def reads_copy(self) -> bool:
        """Whether ``store`` itself answers from that: it has not been heard of
        since the daemon started."""

    @property
    def config(self) -> DaemonConfig:
        """The configuration in force."""

    def status(self) -> DaemonStatus:
        """How the daemon is, now."""

    def reload(self) -> Sequence[str]:
        """Read the configuration file again, as SIGHUP does.

        Returns what changed, in words; raises ConfigError and changes nothing
        when the file is wrong.
        """

    def services(self) -> Sequence[ServiceCounters]:
        """Counters of every service that the kernel knows."""

    def drops(self) -> Sequence[DropCounter]:
        """Every reason that has dropped a packet."""

    def peers(self) -> Mapping[str, PeerStatus]:
        """Users' WireGuard peers of this host that are set up, by public key."""

    def has_interface(self, name: str) -> bool:
        """Whether this host has an interface of that name now."""

    def handshakes(self) -> Mapping[str, str]:
        """Other hosts to the last WireGuard handshake that this host had with each,
        RFC 3339 in UTC, ``""`` for never. Empty without WireGuard."""

    def occupants(self) -> Mapping[str, tuple[int, int]] | None:
        """How many machines and users' WireGuard peers each host has, as far as the
        daemon has heard of the store; None before it has read it."""

    def dig(self, network: int, name: str, type: str, *, tcp: bool) -> DigAnswer:
        """What a machine of a network (by its number) gets from the DNS server.
        Raises InvalidError for what cannot be asked, UnavailableError."""

    def dns(self) -> Mapping[str, Any] | None:
        """What the DNS process counts (``dns.process.Control.metrics``); None while
        it does not answer."""

    @property
    def probes(self) -> Probes:
        """Questions to machines and to the proxy."""

    def proxy(self) -> Mapping[str, Any] | None:
        """What the proxy counts (``daemon.proxy.ProxyAgent.metrics``); None where this
        host has none."""

    def counts(self) -> Mapping[str, int]:
        """The other counts (:class:`flyebpf.model.reasons.Count`), by name."""
