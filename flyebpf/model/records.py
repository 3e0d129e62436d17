# SPDX-License-Identifier: Apache-2.0
"""What the store holds: one frozen dataclass a kind of record.

Records are plain values. Whoever makes one from outside data validates it
first (``flyebpf.model.names``, ``flyebpf.flytoml``, ``flyebpf.ops``); the
fields here are taken as valid. ``ident`` is the record's id in its kind.
Addresses are strings in their canonical form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from flyebpf.model.acme import AcmeChallenge, AcmeName
from flyebpf.model.certificates import Certificate, KeyPair, SelfSigned
from flyebpf.model.health import MachineChecks


class MachineState(StrEnum):
    """What the operator or the VMM says about a machine.

    The last three are orders to its host, which runs the command that it has for
    them; what comes of it is one of the first three."""

    STARTED = "started"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    STARTING = "starting"
    STOPPING = "stopping"
    SUSPENDING = "suspending"

    @property
    def is_live(self) -> bool:
        """Whether there is a VM that packets may get to."""
        return self not in (MachineState.STOPPED, MachineState.SUSPENDED)


class AddressKind(StrEnum):
    """What an allocated address is for (contract, section 1)."""

    V4 = "v4"
    SHARED_V4 = "shared_v4"
    V6 = "v6"
    PRIVATE_V6 = "private_v6"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class Organization:
    """A tenant. ``cross_network_replays``: its apps may replay requests to each other
    whatever their networks. ``replay_sources``: other organizations whose apps may
    replay to its apps, sorted."""

    kind: ClassVar[str] = "org"
    name: str
    cross_network_replays: bool = False
    replay_sources: tuple[str, ...] = ()

    @property
    def ident(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Network:
    """A 6PN. ``number`` is 31 bits, never reused, never changed."""

    kind: ClassVar[str] = "network"
    org: str
    name: str
    number: int

    @property
    def ident(self) -> str:
        return f"{self.org}/{self.name}"


@dataclass(frozen=True, slots=True)
class App:
    """An app, bound to one network for life."""

    kind: ClassVar[str] = "app"
    name: str
    org: str
    network: str = "default"

    @property
    def ident(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM behind an interface of a host.

    ``id`` is 14 lower-case hex digits. ``mac`` is the VM's own. ``number`` is
    the machine field of its 6PN address. ``error``: why it could not be started or
    stopped the last time that this was tried, or "".
    """

    kind: ClassVar[str] = "machine"
    id: str
    app: str
    host: str
    region: str
    interface: str
    mac: str
    private_ip: str
    services_ip: str
    number: int
    name: str = ""
    group: str = "app"
    state: MachineState = MachineState.STARTED
    cordoned: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def ident(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Wake:
    """The machine that was started last for clients of a service. Whoever starts
    another one writes this too, so that two hosts do not start one each. ``service``:
    ``<app>/<groups, with commas>``."""

    kind: ClassVar[str] = "wake"
    service: str
    machine: str

    @property
    def ident(self) -> str:
        return self.service


@dataclass(frozen=True, slots=True)
class TlsOptions:
    alpn: tuple[str, ...] = ("h2", "http/1.1")
    versions: tuple[str, ...] = ("TLSv1.2", "TLSv1.3")
    default_self_signed: bool = False


@dataclass(frozen=True, slots=True)
class ReplayCache:
    """One ``replay_cache`` rule of a port's ``http_options``."""

    path_prefix: str
    type: str  # "cookie" or "header"
    name: str
    ttl_seconds: int = 60
    allow_bypass: bool = False


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """``response_headers``: name to values; an empty tuple removes it."""

    compress: bool = False
    h2_backend: bool = False
    idle_timeout: int | None = None
    headers_read_timeout: int | None = None
    pristine: bool = False
    response_headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    replay_cache: tuple[ReplayCache, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """``start`` to ``end`` inclusive; a single port has both equal."""

    start: int
    end: int
    handlers: tuple[str, ...] = ()
    force_https: bool = False
    tls_options: TlsOptions | None = None
    http_options: HttpOptions | None = None
    proxy_proto_version: str = "v1"


@dataclass(frozen=True, slots=True)
class Concurrency:
    type: str = "connections"
    soft_limit: int = 20
    hard_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A health check; times in milliseconds."""

    type: str  # "tcp" or "http"
    interval: int = 15_000
    timeout: int = 2_000
    grace_period: int = 1_000
    name: str = ""
    port: int | None = None
    method: str = "GET"
    path: str = "/"
    protocol: str = "http"
    headers: tuple[tuple[str, str], ...] = ()
    tls_skip_verify: bool = False
    tls_server_name: str = ""
    processes: tuple[str, ...] = ()  # of a [checks.NAME]; empty: all groups


@dataclass(frozen=True, slots=True)
class Service:
    """One ``[[services]]`` of an app."""

    protocol: str  # "tcp" or "udp"
    internal_port: int
    ports: tuple[Port, ...]
    processes: tuple[str, ...] = ()
    concurrency: Concurrency = Concurrency()
    auto_stop: str = "off"
    auto_start: bool = True
    min_machines_running: int = 0
    checks: tuple[Check, ...] = ()

    @property
    def needs_proxy(self) -> bool:
        """Whether any port has handlers, which the kernel cannot serve."""
        return any(port.handlers for port in self.ports)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the last ``deploy`` of an app said."""

    kind: ClassVar[str] = "deployment"
    app: str
    services: tuple[Service, ...]
    checks: tuple[Check, ...] = ()
    primary_region: str = ""
    processes: tuple[str, ...] = ("app",)
    version: int = 1

    @property
    def ident(self) -> str:
        return self.app


def shared_ident(address: str, app: str) -> str:
    """The id of an app's record of a shared address."""
    return f"{address}/{app}"


@dataclass(frozen=True, slots=True)
class Address:
    """An allocated address; its id is the address itself, so that two owners
    of one address cannot exist. A shared one has a record for each app.

    ``network`` and ``org``: of a Flycast address, where its callers are.
    """

    kind: ClassVar[str] = "address"
    address: str
    app: str
    type: AddressKind
    network: str = ""
    region: str = "global"
    created: str = ""  # RFC 3339, UTC
    org: str = ""

    @property
    def ident(self) -> str:
        if self.type is AddressKind.SHARED_V4:
            return shared_ident(self.address, self.app)
        return self.address


@dataclass(frozen=True, slots=True)
class PrivateAddress:
    """A private IPv4 address in use; guards against giving it out twice."""

    kind: ClassVar[str] = "private_address"
    address: str
    machine: str

    @property
    def ident(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface in use; guards against giving it to two machines."""

    kind: ClassVar[str] = "interface"
    host: str
    interface: str
    machine: str

    @property
    def ident(self) -> str:
        return f"{self.host}/{self.interface}"


@dataclass(frozen=True, slots=True)
class Pool:
    """Where allocation from a pool goes on.

    ``positions``: CIDR to the offset of its first address that was never given
    out. ``head`` to ``tail`` (exclusive) number the :class:`Released` ones.
    """

    kind: ClassVar[str] = "pool"
    name: str
    positions: dict[str, int] = field(default_factory=dict)
    head: int = 0
    tail: int = 0

    @property
    def ident(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Released:
    """An address that waits in its pool's queue to be given out again."""

    kind: ClassVar[str] = "released"
    pool: str
    number: int
    address: str

    @property
    def ident(self) -> str:
        return f"{self.pool}/{self.number}"


PEERS_KEY = "peers"
PEERS_PORT = 2


@dataclass(frozen=True, slots=True)
class Host:
    """A host. ``number`` is 32 bits with the top bit set.

    ``underlay``: "none", "wireguard" or "plain". ``endpoint``: the address at
    which other hosts reach it, without a port; "" when it has no mesh. ``port``:
    of the even generations of keys; odd ones use the next port. ``keys``: the
    generation of a key (decimal) to its public half, base64. A host has a mesh
    device for each generation that it has a key of (two at most: it publishes
    the next one only when the one before the current is gone, and takes the old
    one back when all hosts send with the new); it sends with the cluster's
    ``mesh_generation``, and accepts packets under all. Under
    ``PEERS_KEY``, that of the device for users' peers, which listens on ``port``
    plus ``PEERS_PORT`` and whose key is never rotated, as it is in users' files.
    ``drained``: its machines get no new flows and are left out of answers.
    ``users_endpoint``: the address at which users' peers reach it; "" where
    ``endpoint`` is it. ``commands``: what it can do to its machines by itself, of
    "start", "stop" and "suspend". ``identity``: random, of the machine that is this
    host, so that another one that was given the same name is told apart; "" until its
    daemon has started.
    """

    kind: ClassVar[str] = "host"
    name: str
    number: int
    region: str
    block: str  # its part of the private pool, a CIDR
    underlay: str = "none"
    endpoint: str = ""
    port: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    drained: bool = False
    identity: str = ""
    users_endpoint: str = ""
    commands: tuple[str, ...] = ()

    @property
    def ident(self) -> str:
        return self.name


MOST_UNCONNECTED = 20


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What a host says about itself now and then. No row depends on it.

    ``seen``: RFC 3339, UTC. ``connected`` and ``unconnected`` count the hosts with
    which it has a WireGuard session, or has none. ``peers``: some of the latter,
    ``MOST_UNCONNECTED`` at most, to the time of the last handshake with each, RFC
    3339, "" for never: all hosts hear of this record, again and again.
    ``ready_generation``: the newest generation of keys of which all devices and
    peers that are wanted at ``applied_revision`` are in place, -1 for none.
    ``mtu``: of its mesh; 0 for a host without one.
    """

    kind: ClassVar[str] = "host_status"
    host: str
    seen: str
    version: str = ""
    programs: str = ""
    kernel: str = ""
    wireguard: str = ""  # "kernel", "wireguard-go" or ""
    applied_revision: int = 0
    ready_generation: int = -1
    connected: int = 0
    unconnected: int = 0
    peers: dict[str, str] = field(default_factory=dict)
    mtu: int = 0

    @property
    def ident(self) -> str:
        return self.host


@dataclass(frozen=True, slots=True)
class Presence:
    """The host's daemon is there. The store forgets it some seconds after the
    daemon has stopped to renew it; then the host's machines get no new flows."""

    kind: ClassVar[str] = "presence"
    host: str

    @property
    def ident(self) -> str:
        return self.host


@dataclass(frozen=True, slots=True)
class Load:
    """What a host's proxy knows of machines that may be stopped, for the hosts that they
    are on. ``active``: of those that had something to do lately, how much they have.
    ``held``: machines that are being stopped and still have something to do. ``apps``:
    whose clients the kernel serves, and has served lately."""

    kind: ClassVar[str] = "load"
    host: str
    active: dict[str, int] = field(default_factory=dict)
    held: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()

    @property
    def ident(self) -> str:
        return self.host


@dataclass(frozen=True, slots=True)
class Latency:
    """Round-trip times that a host measured: region to microseconds. Written
    anew only when one has changed by a fifth."""

    kind: ClassVar[str] = "latency"
    host: str
    region: str
    microseconds: dict[str, int] = field(default_factory=dict)

    @property
    def ident(self) -> str:
        return self.host


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A host may join with the secret of this SHA-256 digest (hex), once, until
    ``expires`` (RFC 3339, UTC)."""

    kind: ClassVar[str] = "join_token"
    digest: str
    expires: str

    @property
    def ident(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True)
class WireguardPeer:
    """A user's own computer in a network. ``host``: the gateway that it
    connects to; ``address``: its /120 there, as a CIDR."""

    kind: ClassVar[str] = "wireguard_peer"
    org: str
    network: str
    name: str
    host: str
    public_key: str
    address: str
    created: str = ""  # RFC 3339, UTC

    @property
    def ident(self) -> str:
        return f"{self.org}/{self.name}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What all hosts share. ``seed`` (64 bits) hashes flows; secret.

    ``mesh_generation``: of the WireGuard keys that hosts send with;
    ``next_generation`` differs from it while keys are being rotated.
    """

    kind: ClassVar[str] = "cluster"
    seed: int
    next_network: int = 1
    next_machine: int = 16  # below: fields that are no machines (`sixpn.py`)
    next_host: int = 1
    mesh_generation: int = 0
    next_generation: int = 0

    @property
    def ident(self) -> str:
        return "cluster"


AnyRecord = (
    Organization
    | Network
    | App
    | Machine
    | Wake
    | Deployment
    | Address
    | PrivateAddress
    | Interface
    | Pool
    | Released
    | Host
    | HostStatus
    | Presence
    | Latency
    | Load
    | JoinToken
    | WireguardPeer
    | Certificate
    | KeyPair
    | SelfSigned
    | MachineChecks
    | AcmeName
    | AcmeChallenge
    | Cluster
)

KINDS: dict[str, type] = {
    cls.kind: cls
    for cls in (
        Organization,
        Network,
        App,
        Machine,
        Wake,
        Deployment,
        Address,
        PrivateAddress,
        Interface,
        Pool,
        Released,
        Host,
        HostStatus,
        Presence,
        Latency,
        Load,
        JoinToken,
        WireguardPeer,
        Certificate,
        KeyPair,
        SelfSigned,
        MachineChecks,
        AcmeName,
        AcmeChallenge,
        Cluster,
    )
}

BOOKKEEPING: frozenset[str] = frozenset(
    cls.kind for cls in (PrivateAddress, Interface, Pool, Released, JoinToken, Wake)
)
"""Kinds that only allocation reads; no plan depends on them."""

PLANNED: frozenset[str] = frozenset(KINDS) - BOOKKEEPING - {HostStatus.kind, Load.kind}
"""Kinds that rows depend on."""
