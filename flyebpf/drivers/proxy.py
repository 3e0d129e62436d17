# SPDX-License-Identifier: Apache-2.0
"""The driver of the proxy: its rows become Envoy's resources and what leads
connections to it.

What Envoy knows is not read back: a process that knows nothing, Envoy's or the
control plane's, is told everything. What the kernel holds is, at every look.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from ipaddress import IPv6Network, ip_network
from pathlib import Path

from flyebpf.bpf.program import Program
from flyebpf.config import DaemonConfig
from flyebpf.drivers import proxy_naps, proxy_steer
from flyebpf.drivers.mapio import MapLike, u32
from flyebpf.drivers.netlink_proxy import ProxyNetlink
from flyebpf.drivers.proxy_envoy import Envoy, end, peer, prepare, user_entry
from flyebpf.drivers.proxy_feed import Feed
from flyebpf.drivers.proxy_relay import SUFFIX, drain
from flyebpf.errors import FlyebpfError
from flyebpf.model.proxyrows import Chain, ProxyBindRow, ProxyClusterRow, ProxyRow, ProxySniRow
from flyebpf.model.rows import Row
from flyebpf.proxy.bootstrap import Paths
from flyebpf.proxy.loads import Loads
from flyebpf.proxy.table import KINDS, Table
from flyebpf.reconcile.base import Failure

log = logging.getLogger(__name__)
ROLE = "steer_sklookup"
NETWORKS = IPv6Network("fdaa::/16")
OWN = u32(0)  # value of `proxies` for this host's own


class ProxyDriver:
    """All methods are for the main thread, but those of ``watch``. ``soon`` has the
    main thread do something."""

    name = "proxy"
    kinds: tuple[type[Row], ...] = KINDS

    def __init__(
        self,
        config: DaemonConfig,
        maps: Mapping[str, MapLike],
        programs: Mapping[str, Program],
        soon: Callable[[Callable[[], object]], None],
    ) -> None:
        self._config, self._log = config.proxy, config.log
        self._links = Path(config.bpffs) / "links"
        self.paths = Paths(Path(config.api.socket).with_name("proxy"))
        self._program = programs[ROLE]
        self._proxies = maps["proxies"]
        self._binds = proxy_steer.Binds(maps["binds"])
        self.sockets = proxy_steer.Sockets(maps["proxy_sockets"], maps["proxy_own"])
        self._netlink = ProxyNetlink()
        self._table = Table(self.paths.sockets, proxy_naps.read(self.paths.naps))
        self._soon = soon
        self.loads = Loads()
        self.feed: Feed | None = None
        self.envoy: Envoy | None = None
        self.wanted: Callable[[str], object] = lambda cluster: None
        """Called, from a thread, with the name of a cluster that somebody waits for a
        machine of."""
        self.changed = threading.Event()
        """Set when another Envoy is wanted."""
        self.relay_wanted = threading.Event()
        """Set once an app has a port with ``pg_tls``."""
        self.user = config.proxy.user
        self._settled = False
        self._flycast: dict[str, set[Hashable]] = {}  # addresses, and what is bound there
        self._snis: dict[int, int] = {}  # ports of shared addresses: rows that want them

    def close(self) -> None:
        """Envoy and its control plane stay, with what they know."""
        if self.feed is not None:
            self.feed.close()
        self.sockets.refuse()
        self._netlink.close()

    def cluster(self, name: str) -> ProxyClusterRow | None:
        """A cluster as it was applied."""
        row = self._table.rows[ProxyClusterRow].get(name)
        return row if isinstance(row, ProxyClusterRow) else None

    def clusters(self) -> list[ProxyClusterRow]:
        """All clusters, as they were applied."""
        rows = self._table.rows[ProxyClusterRow].values()
        return [row for row in rows if isinstance(row, ProxyClusterRow)]

    def _want(self, cluster: str) -> None:
        self.wanted(cluster)

    def woken(self, cluster: str, headers: Mapping[str, str]) -> None:
        """The answer to ``wanted``; from any thread."""
        if self.feed is not None:
            self.feed.woken(cluster, headers)

    def settled(self) -> None:
        """All rows that there are have been applied: now Envoy may be told so."""
        self._settled = True
        if self.feed is not None:
            self.feed.ready()

    def count_apps(self) -> int:
        """How many the proxy serves."""
        rows = self._table.rows[ProxyClusterRow].values()
        return len({row.app for row in rows if isinstance(row, ProxyClusterRow)})

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        found: dict[Hashable, object] = dict(self._table.rows[kind])
        if kind is ProxyRow:
            if found and not self._is_in_place():
                return dict.fromkeys(found, "changed")
            if not found and self._netlink.locals():
                return {"proxy": "another daemon's"}
        elif kind is ProxyBindRow and self._settled and (wrong := self._binds.repair()):
            log.warning("binds: %d entries were not as they should be", wrong)
        return found

    def fingerprint(self, row: Row) -> object:
        return row

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        failures = []
        for row in puts:
            try:
                self._put(row)
            except FlyebpfError as error:
                failures.append(Failure(kind, row.key, error.message, error.remedy))
        for key in deletes:
            try:
                self._delete(kind, key)
            except FlyebpfError as error:
                failures.append(Failure(kind, key, error.message, error.remedy))
        self._tell()
        return failures

    def _put(self, row: Row) -> None:
        if isinstance(row, ProxyRow):
            self._start(row)
        before = self._table.rows[type(row)].get(row.key)
        self._table.put(row)
        if isinstance(row, ProxyBindRow):
            self._bind(row)
            if row.chain is Chain.PG_TLS:
                self.relay_wanted.set()
        elif isinstance(row, ProxySniRow) and before is None:
            self._want_port(row.port, 1)

    def _bind(self, row: ProxyBindRow) -> None:
        place = self._table.places.get(row.key)
        signed = self._table.signed(row)
        if _is_private(row.address):
            self._want_flycast(row.address, row.key)
        self._binds.set(row.key, proxy_steer.bind_entries(row, place, signed))

    def _want_flycast(self, address: str, key: Hashable) -> None:
        """Flycast addresses are in no pool: each is local by itself."""
        keys = self._flycast.setdefault(address, set())
        if not keys:
            self._binds.set(("flycast", address), proxy_steer.address_entries(address))
            self._netlink.add_local(f"{address}/128")
        keys.add(key)

    def _drop_flycast(self, key: Hashable) -> None:
        address = str(key[0]) if isinstance(key, tuple) else ""
        keys = self._flycast.get(address, set())
        keys.discard(key)
        if address in self._flycast and not keys:
            self._netlink.drop_local(f"{address}/128")
            self._binds.set(("flycast", address), {})
            del self._flycast[address]

    def _delete(self, kind: type[Row], key: Hashable) -> None:
        row = self._table.rows[kind].get(key)
        if kind is ProxyBindRow:
            self._binds.set(key, {})
            self._drop_flycast(key)
        elif isinstance(row, ProxySniRow):
            self._want_port(row.port, -1)
        elif kind is ProxyRow:
            self._end()
        self._table.remove(kind, key)

    def _want_port(self, port: int, more: int) -> None:
        """A port of shared addresses is bound while somebody has a name there."""
        wanted = self._snis.get(port, 0) + more
        self._snis[port] = wanted
        self._binds.set(("sni", port), proxy_steer.sni_entries(port) if wanted else {})

    def _rebind(self) -> None:
        """Binds that certificates have given another listener."""
        stale, self._table.stale_binds = self._table.stale_binds, {}
        for key in stale:
            row = self._table.rows[ProxyBindRow].get(key)
            if isinstance(row, ProxyBindRow):
                self._bind(row)

    def _tell(self) -> None:
        self._rebind()
        if self.feed is not None:
            if self._settled and self._table.naps_changed:
                proxy_naps.write(self.paths.naps, self._table.naps())
            self.feed.send(*self._table.changes())

    def _remember(self, apps: Sequence[str]) -> None:
        """Requests to these apps go by where replays are remembered."""
        self._table.set_cached(apps)
        self._tell()

    def _retell(self) -> None:
        """To a control plane that has begun anew."""
        if self.feed is None:
            return
        self.feed.begin()
        self._table.forget_given()
        self._tell()
        if self._settled:
            self.feed.ready()

    def _start(self, row: ProxyRow) -> None:
        """Who is refused before anything is local: the program first."""
        self._binds.set("pools", proxy_steer.pool_entries(row))
        proxy_steer.attach(self._links, self._program)
        wanted = self._local(row)
        have = self._netlink.locals()
        for cidr in wanted - have:
            self._netlink.add_local(cidr)
        for cidr in have - wanted:
            if self._settled or not _is_private(cidr):  # its binds may come yet
                self._netlink.drop_local(cidr)
        for address in self._netlink.sources() - {row.source}:
            self._netlink.drop_source(address)
        self._netlink.add_source(row.source)
        self._set_own(socket.inet_aton(row.source))
        entry = user_entry(self._config.user)
        prepare(self.paths, entry.pw_uid, entry.pw_gid)
        workers = self._config.workers or len(os.sched_getaffinity(0))
        envoy = Envoy(row, self.paths, self._config.user, workers, self._config.access_log)
        if self.envoy is None or self.envoy.digest != envoy.digest:
            self.envoy = envoy
            self.changed.set()
        if self.feed is None:
            lost = lambda: self._soon(self._retell)  # noqa: E731
            self.feed = Feed(self.paths.ads, self._config.user, self._log, self.loads, lost)
            self.feed.wanted = self._want
            self.feed.cached = lambda apps: self._soon(lambda: self._remember(apps))
            self.feed.start()

    def _set_own(self, source: bytes) -> None:
        for address, number in list(self._proxies.items()):
            if number == OWN and address != source:
                self._proxies.delete(address)
        if source:
            self._proxies.update(source, OWN)

    def _is_in_place(self) -> bool:
        (row,) = self._table.rows[ProxyRow].values()
        assert isinstance(row, ProxyRow)
        return (
            self._netlink.locals() == self._local(row)
            and self._netlink.sources() == {row.source}
            and self._proxies.lookup(socket.inet_aton(row.source)) == OWN
            and proxy_steer.is_attached(self._links, self._program)
        )

    def _local(self, row: ProxyRow) -> set[str]:
        """What is to be local to the host."""
        return {*row.pools, *row.shared, *(f"{address}/128" for address in self._flycast)}

    def _end(self) -> None:
        """This host has no proxy any more."""
        self.relay_wanted.clear()
        for path in self.paths.sockets.glob(f"*{SUFFIX}"):
            drain(path)
        if self.feed is not None:
            self.feed.close(end=True)
            self.feed = None
            self.loads.forget()
        elif pid := peer(self.paths.ads):  # an earlier daemon's
            end(pid)
        self.envoy = None
        self.changed.set()
        for cidr in self._netlink.locals():
            self._netlink.drop_local(cidr)
        for address in self._netlink.sources():
            self._netlink.drop_source(address)
        self._set_own(b"")
        proxy_steer.detach(self._links)
        self._binds.set("pools", {})


def _is_private(text: str) -> bool:
    """Whether an address or CIDR is one of private networks."""
    return ip_network(text).network_address in NETWORKS
