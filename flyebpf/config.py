# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration, as values. ``flyebpf.configfile`` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

CACHE_DIR = "/var/cache/flyebpf"


@dataclass(frozen=True, slots=True)
class PoolsConfig:
    """The operator's address pools, as CIDRs."""

    anycast_v4: tuple[str, ...] = ()
    anycast_v6: tuple[str, ...] = ()
    shared_v4: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PrivateConfig:
    """``prefix``: the cluster's; ``block``: this host's part of it. ``alias``:
    what stands for ``prefix`` when a VM reaches another one through a VIP."""

    prefix: str = "172.16.0.0/12"
    block: str = "172.16.0.0/20"
    alias: str = "100.64.0.0/12"


@dataclass(frozen=True, slots=True)
class DataplaneConfig:
    """Sizes of the maps, in entries. ``pool6_addresses``: how many addresses of each
    IPv6 pool are given out, from its first one on."""

    xdp_mode: str = "auto"
    flows: int = 1_048_576
    services: int = 131_072
    machines: int = 131_072
    maglev_entries: int = 4_194_304
    pool_addresses: int = 65_536
    pool6_addresses: int = 16_384
    hosts: int = 4_096
    fragments: int = 16_384
    names: int = 131_072


@dataclass(frozen=True, slots=True)
class EgressConfig:
    """``allow``: CIDRs that VMs may reach although they are not public."""

    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """How this host reaches the others.

    ``underlay``: "none" (a host of its own), "wireguard", or "plain" for a
    trusted fabric that takes the same packets without encryption. ``endpoint``:
    this host's address there, as others reach it. ``port``: UDP, of WireGuard;
    the next one too is used while keys are rotated, and the one after that by
    users' peers. ``interface``: the fabric's (plain), or the first part of the
    devices' names (wireguard). ``mtu``: of the mesh, bytes; 0: what the
    interface that leads to ``endpoint`` leaves. ``return_path``: "direct", or
    "edge" where the network filters sources. ``latency``: round-trip times that
    override measured ones, ``"ams fra 8"`` in ms. ``users_endpoint``: the address
    at which users' peers reach this host; "" where ``endpoint`` is it, which it
    never is on a plain fabric.
    """

    underlay: str = "none"
    endpoint: str = ""
    port: int = 51820
    interface: str = "fly"
    mtu: int = 0
    return_path: str = "direct"
    latency: tuple[str, ...] = ()
    users_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """``endpoints``: URLs of the cluster's members. ``ca``, ``cert`` and ``key``
    are PEM files, for https. ``prefix`` of all keys; ``timeout`` of a request, s."""

    endpoints: tuple[str, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""
    prefix: str = "/flyebpf/"
    timeout: int = 5


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """``upstreams``: resolvers for names that are not internal, ``192.0.2.1``,
    ``192.0.2.1:5353`` or ``[2001:db8::1]:53``; none: those of /etc/resolv.conf.
    ``user``: whose rights the DNS process has."""

    upstreams: tuple[str, ...] = ()
    user: str = "nobody"


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """``engine``: what serves ports with handlers, shared addresses and Flycast:
    "envoy", or "none" where nothing does; the same on all hosts. ``user``: whose
    rights it has. ``workers``: its threads, 0 for one a CPU. ``access_log``: a file
    for a line of each request, "" for none. ``metrics_apps``: how many apps have
    metrics of their own; the others' are one."""

    engine: str = "none"
    user: str = "nobody"
    workers: int = 0
    access_log: str = ""
    metrics_apps: int = 500


@dataclass(frozen=True, slots=True)
class AcmeConfig:
    """An authority that issues certificates by ACME (RFC 8555); the same on all hosts.

    ``directory``: its URL, "" for none; using it means to agree to its terms.
    ``email``: where it may write to. ``challenge``: how it looks whether a name leads
    here, "http-01" (port 80) or "tls-alpn-01" (port 443). ``ca_file``: who vouches for
    the authority's own certificate, "" for the system's list."""

    directory: str = ""
    email: str = ""
    challenge: str = "http-01"
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class MachinesConfig:
    """How the VMs of this host are started and stopped: commands, as words; none:
    somebody else does it and says so (``machines start``, ``stop``). ``{id}`` and the
    other names of ``flyebpf.model.commands.PLACEHOLDERS`` are replaced in each word.
    ``status`` prints "started", "stopped" or "suspended".

    Seconds: ``timeout`` of a command, ``drain`` for which connections of a machine that
    is to be stopped may go on, ``hold`` for which a request waits for a machine,
    ``autostop`` between looks for machines that nobody needs."""

    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    suspend: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    timeout: int = 60
    drain: int = 60
    hold: int = 50
    autostop: int = 300


@dataclass(frozen=True, slots=True)
class ApiConfig:
    socket: str = "/run/flyebpf/api.sock"
    group: str = "flyebpf"


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """``listen``: ``127.0.0.1:PORT``, ``[::1]:PORT``, ``unix:PATH`` or ``""``."""

    listen: str = "127.0.0.1:9464"


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = "info"
    format: str = "logfmt"  # or "json"


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    host: str
    region: str
    uplinks: tuple[str, ...]
    store: str = "sqlite"
    state_dir: str = "/var/lib/flyebpf"
    bpffs: str = "/sys/fs/bpf/flyebpf"
    cache_dir: str = CACHE_DIR
    domain: str = "fly.test"
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    private: PrivateConfig = field(default_factory=PrivateConfig)
    dataplane: DataplaneConfig = field(default_factory=DataplaneConfig)
    egress: EgressConfig = field(default_factory=EgressConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    etcd: EtcdConfig = field(default_factory=EtcdConfig)
    dns: DnsConfig = field(default_factory=DnsConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    acme: AcmeConfig = field(default_factory=AcmeConfig)
    machines: MachinesConfig = field(default_factory=MachinesConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
