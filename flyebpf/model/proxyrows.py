# SPDX-License-Identifier: Apache-2.0
"""Desired rows of the proxy: what the plan asks of Envoy and of the programs
that lead connections to it.

Listeners are fixed, one for each :class:`Chain` and set of TLS options in use;
nothing of an app is in them, as a change would end their connections. What
belongs to an app comes as rows: a changed app changes its own rows and no
others, and each row becomes resources of its own.

::

    (address, port) ─ ProxyBindRow ─▶ ProxyRouteRow ─▶ ProxyClusterRow ─▶ ProxyTargetRow
                        │   (http)          (http)       endpoints         the way to a
                        └──────────────────────────────▶ (raw, tls)        machine's port
    shared address: Host ─▶ ProxyRouteRow.hosts (ports 80 and 443)
                    SNI  ─▶ ProxySniRow (other ports)
    SNI ─▶ ProxyCertificateRow
    a replay's target ─▶ ProxyAppRow ─▶ ProxyClusterRow

Rows name each other by ``name``: what they name may come later or be missing;
then clients get what an app without machines gives. Addresses are in canonical
form. Names of routes and clusters start with the app's name and a slash.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from flyebpf.model.records import HttpOptions, ReplayCache, TlsOptions
from flyebpf.model.rows import Row, SlotRow


class Chain(StrEnum):
    """What the proxy does with a connection; ``proxy_proto`` is no part of it, it
    is how a machine is spoken to (``ProxyClusterRow.proxy_proto``)."""

    RAW = "raw"  # no handlers: the stream as it is
    HTTP = "http"  # [http]
    TLS = "tls"  # [tls]: decrypted, then as it is
    HTTPS = "https"  # [http, tls]
    PG_TLS = "pg_tls"  # [pg_tls]


HTTP_CHAINS = frozenset((Chain.HTTP, Chain.HTTPS))
TLS_CHAINS = frozenset((Chain.TLS, Chain.HTTPS, Chain.PG_TLS))


@dataclass(frozen=True, slots=True)
class ProxyRow(Row):
    """That this host runs a proxy, and as what. One row, of the owner
    ``("host",)`` (``plan/host.py``); ``name`` is "proxy".

    ``region`` is told to apps (``Fly-Region``). ``source``: the IPv4 address that
    machines see as the proxy's, the gateway of this host's private block.
    ``pools``: CIDRs of the operator's pools of dedicated Anycast addresses, IPv4
    and IPv6; ``shared``: of the shared IPv4 ones. Their addresses are local to the
    host, and nothing answers TCP on them but what is bound. Every address of
    ``shared`` serves HTTP at port 80 and HTTPS at 443 without a row of its own.
    """

    name: str
    host: str
    region: str
    source: str
    pools: tuple[str, ...]
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxyBindRow(Row):
    """TCP ports of an app's own address that the proxy serves: dedicated IPv4
    (only ports with handlers), dedicated IPv6, Flycast.

    ``target``: the name of the route (http chains) or cluster (others). ``tls``:
    of TLS chains, else None. ``app``: whose certificates are shown, and nobody
    else's.
    """

    address: str
    first_port: int
    last_port: int
    chain: Chain
    target: str
    app: str
    tls: TlsOptions | None = None

    @property
    def key(self) -> Hashable:
        return (self.address, self.first_port, self.last_port)


@dataclass(frozen=True, slots=True)
class ProxyRouteRow(Row):
    """HTTP requests of one port of an app to a cluster.

    ``name``: ``<app>/<port>``. ``tls``: they arrive over TLS. ``hosts``: lower
    case, ``www.example.com`` or ``*.example.com``: which requests on shared
    addresses are for it (over TLS or not, as ``tls`` says); nobody else's row
    has them. ``cluster`` "": no service answers (503).
    ``options``: of ``http_options``; ``h2_backend`` is the cluster's.
    """

    name: str
    app: str
    tls: bool
    cluster: str
    hosts: tuple[str, ...] = ()
    force_https: bool = False
    options: HttpOptions = field(default_factory=HttpOptions)


@dataclass(frozen=True, slots=True)
class ProxySniRow(Row):
    """On shared addresses, connections of a ``tls`` port (decrypted, then as they
    are) for a server name to a cluster. ``host`` as in ``ProxyRouteRow.hosts``.
    ``route``: the name of the route where they are HTTP (``cluster`` is "" then), else
    ""."""

    port: int
    host: str
    cluster: str
    route: str = ""

    @property
    def key(self) -> Hashable:
        return (self.port, self.host)


@dataclass(frozen=True, slots=True)
class ProxyEndpoint:
    """A machine's service as the proxy reaches it. ``address``: the machine's
    private IPv4. ``priority``: 0 for the nearest region that the app has machines
    in, then one more for each farther one, without gaps. ``draining``: no new
    connections, those that exist go on."""

    machine: str
    address: str
    port: int
    region: str
    priority: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ProxyClusterRow(Row):
    """A service of an app: the machines that it may go to, in the order of
    (priority, machine).

    ``name``: ``<app>/<internal port>:<groups, with commas>``, and what sets it
    apart from another way to speak to the same machines (``+h2``, ``+v1``,
    ``+v2``). ``http``: it serves routes, else connections. ``h2``: it is spoken
    to in h2c. ``proxy_proto``: "", "v1" or "v2". ``limit``: what the limits count,
    "connections" or "requests"; ``hard`` None: no limit. ``watched``: what its machines
    have in flight is wanted (``flyebpf.proxy.loads``). ``port`` and ``groups``: its
    machines are those of these process groups, at this port. ``wakes``: one of them is
    started when a client needs it.
    """

    name: str
    app: str
    endpoints: tuple[ProxyEndpoint, ...]
    http: bool
    h2: bool = False
    proxy_proto: str = ""
    limit: str = "connections"
    soft: int = 20
    hard: int | None = None
    watched: bool = False
    port: int = 0
    groups: tuple[str, ...] = ()
    wakes: bool = False

    @property
    def sleeps(self) -> bool:
        """Whether a client has to wait until a machine has been started."""
        return self.wakes and all(endpoint.draining for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class ProxyAppRow(Row):
    """An app with services for HTTP, as the target of replays and as their source.

    ``network``: its name in the organization. ``cross``: the organization lets apps of
    any of its networks replay to it. ``sources``: other organizations whose apps may.
    ``ports``: of its services for HTTP, and the cluster of each, by port. ``rules``:
    what is to be remembered of replays, by port.
    """

    name: str
    org: str
    network: str
    cross: bool = False
    sources: tuple[str, ...] = ()
    ports: tuple[tuple[int, str], ...] = ()
    rules: tuple[tuple[int, tuple[ReplayCache, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class ProxyTargetRow(Row):
    """Proxies, of this host and of others, may open connections to this TCP port of
    a machine (``machine`` of another host then names a remote slot). Nothing else
    with a private address reaches a machine. One for each (machine, port) that
    endpoints name."""

    refers_to: ClassVar[tuple[type[Row], ...]] = (SlotRow,)
    address: str
    port: int
    machine: str

    @property
    def key(self) -> Hashable:
        return (self.address, self.port)

    @property
    def references(self) -> tuple[tuple[type[Row], Hashable], ...]:
        return ((SlotRow, self.machine),)


@dataclass(frozen=True, slots=True)
class ProxyCertificateRow(Row):
    """A certificate of an app for the names in ``hosts`` (form as in
    ``ProxyRouteRow.hosts``). ``chain`` and ``private_key``: PEM text. The key is
    never logged or shown. ``name``: ``<app>/<host>``.

    ``fallback``: that of ports with ``default_self_signed``, for clients that say no
    name, or any name where the app has no certificate: one of no app, of the owner
    ``("host",)``, whose ``hosts`` are empty, and one of each such app for its default
    host name, by which it is asked for on shared addresses."""

    name: str
    app: str
    hosts: tuple[str, ...]
    chain: str = field(repr=False)
    private_key: str = field(repr=False)
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class ProxyChallengeRow(Row):
    """What is answered to an authority that looks whether ``hostname`` leads to the
    app: fields as of :class:`flyebpf.model.acme.AcmeChallenge`."""

    hostname: str
    app: str
    token: str
    answer: str
    chain: str = ""
    private_key: str = field(default="", repr=False)

    @property
    def key(self) -> Hashable:
        return self.hostname
