# SPDX-License-Identifier: Apache-2.0
"""The proxy's rows, and the resources that follow from them.

A change of a row makes only those resources anew that it has a part in, and only
those that came out otherwise are given out as changes.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import reduce
from hashlib import blake2b
from pathlib import Path

from flyebpf.model.proxyrows import (
    HTTP_CHAINS,
    Chain,
    ProxyAppRow,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyClusterRow,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
)
from flyebpf.model.rows import Row
from flyebpf.proxy import names, replay, resources
from flyebpf.proxy.chains import RANGES, Signed
from flyebpf.proxy.gates import Gate
from flyebpf.proxy.resources import Resource, Type

KINDS: tuple[type[Row], ...] = (
    ProxyRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyClusterRow,
    ProxyAppRow,
    ProxySniRow,
    ProxyRouteRow,
    ProxyBindRow,
)
Unit = tuple[type[Row], Hashable]
"""The resources that one row makes."""
Put = tuple[Type, str, str]
"""Type, name, and the body as JSON."""
Gone = tuple[Type, str]


class Index:
    """Rows by a name that they have in common."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Hashable, None]] = {}

    def add(self, name: str, key: Hashable) -> None:
        self._of.setdefault(name, {})[key] = None

    def drop(self, name: str, key: Hashable) -> None:
        keys = self._of.get(name, {})
        keys.pop(key, None)
        if not keys:
            self._of.pop(name, None)

    def get(self, name: str) -> list[Hashable]:
        return list(self._of.get(name, ()))


class Table:
    """Rows by kind and key. Not for several threads."""

    def __init__(
        self, sockets: Path = Path("sockets"), naps: Mapping[str, int] | None = None
    ) -> None:
        """``sockets``: the folder of Envoy's own. ``naps``: what :meth:`naps` said
        before; Envoy may still have its clients."""
        self._sockets = sockets
        self.rows: dict[type[Row], dict[Hashable, Row]] = {kind: {} for kind in KINDS}
        self.places: dict[Hashable, int] = {}
        """Of binds that are port ranges: which of their address's."""
        self._naps = dict(naps or {})  # of clusters: how often they fell asleep
        self.naps_changed = False
        self._binds = Index()  # by target
        self._app_binds = Index()
        self._app_routes = Index()
        self._app_certificates = Index()
        self._app_challenges = Index()
        self._snis = Index()  # by cluster
        self._inners = Index()  # by route
        self._app_clusters = Index()
        self._cached: frozenset[str] = frozenset()
        self.stale_binds: dict[Hashable, None] = {}
        """Binds whose listener may be another one now; whoever looks takes them out."""
        self._dirty: dict[Unit, None] = {}
        self._given: dict[Unit, dict[Gone, bytes]] = {}

    def put(self, row: Row) -> None:
        kind, key = type(row), row.key
        before = self.rows[kind].get(key)
        if before == row:
            return
        if isinstance(row, ProxyClusterRow):
            self._count_nap(before, row)
        if before is not None:
            self._unlink(before)
        self.rows[kind][key] = row
        self._link(row)

    def remove(self, kind: type[Row], key: Hashable) -> None:
        row = self.rows[kind].pop(key, None)
        if row is not None:
            self._unlink(row)
            self.places.pop(key, None)
            self._naps.pop(str(key), None)

    def naps(self) -> dict[str, int]:
        """How often each cluster fell asleep."""
        self.naps_changed = False
        there = self.rows[ProxyClusterRow]
        return {name: count for name, count in self._naps.items() if name in there}

    def _count_nap(self, before: Row | None, row: ProxyClusterRow) -> None:
        slept = isinstance(before, ProxyClusterRow) and before.sleeps
        if row.sleeps and not slept:
            self._naps[row.name] = self._naps.get(row.name, 0) + 1
            self.naps_changed = True

    def set_cached(self, apps: Iterable[str]) -> None:
        """Of these apps it is remembered where requests were replayed to."""
        before, self._cached = self._cached, frozenset(apps)
        for app in sorted(before ^ self._cached):
            self._dirty.update(((ProxyRouteRow, key), None) for key in self._app_routes.get(app))

    def forget_given(self) -> None:
        """Whoever had the resources has lost them: all are changes now."""
        self._given.clear()
        self._dirty.update(((kind, key), None) for kind in KINDS for key in self.rows[kind])

    def changes(self) -> tuple[list[Put], list[Gone]]:
        """Since the last time: what is to be put, and what is gone."""
        puts: list[Put] = []
        gone: list[Gone] = []
        dirty, self._dirty = self._dirty, {}
        for unit in dirty:
            before = self._given.pop(unit, {})
            now: dict[Gone, bytes] = {}
            for found in self._resources(unit):
                body = json.dumps(found.body, separators=(",", ":"))
                name = (found.type, found.name)
                now[name] = blake2b(body.encode(), digest_size=8).digest()
                if before.pop(name, None) != now[name]:
                    puts.append((*name, body))
            gone += before
            if now:
                self._given[unit] = now
        put = {put[:2] for put in puts}
        return puts, [name for name in gone if name not in put]

    def _link(self, row: Row) -> None:
        self._touch(row)
        match row:
            case ProxyBindRow():
                self._binds.add(row.target, row.key)
                self._app_binds.add(row.app, row.key)
                self._place(row)
            case ProxyRouteRow():
                self._app_routes.add(row.app, row.key)
            case ProxyCertificateRow():
                self._app_certificates.add(row.app, row.key)
            case ProxyChallengeRow():
                self._app_challenges.add(row.app, row.key)
            case ProxySniRow():
                self._snis.add(row.cluster, row.key)
                self._inners.add(row.route, row.key)
            case ProxyClusterRow():
                self._app_clusters.add(row.app, row.key)

    def _unlink(self, row: Row) -> None:
        self._touch(row)
        match row:
            case ProxyBindRow():
                self._binds.drop(row.target, row.key)
                self._app_binds.drop(row.app, row.key)
            case ProxyRouteRow():
                self._app_routes.drop(row.app, row.key)
            case ProxyCertificateRow():
                self._app_certificates.drop(row.app, row.key)
            case ProxyChallengeRow():
                self._app_challenges.drop(row.app, row.key)
            case ProxySniRow():
                self._snis.drop(row.cluster, row.key)
                self._inners.drop(row.route, row.key)
            case ProxyClusterRow():
                self._app_clusters.drop(row.app, row.key)

    def _place(self, row: ProxyBindRow) -> None:
        """The first place that no other range of the address has. Beyond the last
        one a range has none, and is served by nobody."""
        if row.chain is not Chain.RAW or row.first_port == row.last_port:
            self.places.pop(row.key, None)
            return
        if row.key not in self.places:
            taken = {p for key, p in self.places.items() if _address(key) == row.address}
            free = [place for place in range(RANGES) if place not in taken]
            if free:
                self.places[row.key] = free[0]

    def _touch(self, row: Row) -> None:
        """The row's resources, and those that are made of it too."""
        units: list[Unit] = [(type(row), row.key)]
        match row:
            case ProxyBindRow() if row.chain in HTTP_CHAINS:
                units.append((ProxyRouteRow, row.target))
            case ProxyBindRow():
                units.append((ProxyClusterRow, row.target))
            case ProxySniRow():
                units += [(ProxyClusterRow, row.cluster), (ProxyRouteRow, row.route)]
            case ProxyClusterRow():
                units += [(ProxyBindRow, key) for key in self._binds.get(row.name)]
                units += [(ProxySniRow, key) for key in self._snis.get(row.name)]
                units.append((ProxyAppRow, row.app))
            case ProxyChallengeRow():
                units += [(ProxyRouteRow, key) for key in self._app_routes.get(row.app)]
            case ProxyCertificateRow() if not row.fallback:
                units += [(ProxyRouteRow, key) for key in self._app_routes.get(row.app)]
                for key in self._app_binds.get(row.app):
                    units += [(ProxyBindRow, key), (ProxyClusterRow, self._target(key))]
                self.stale_binds.update(dict.fromkeys(self._app_binds.get(row.app)))
        self._dirty.update(dict.fromkeys(units))

    def _resources(self, unit: Unit) -> Iterator[Resource]:
        kind, key = unit
        match self.rows[kind].get(key):
            case ProxyRow() as row:
                for name in names.ROUTES:
                    yield resources.routes(row, name)
            case ProxyCertificateRow() as row:
                yield resources.certificate(row)
            case ProxyChallengeRow() as row if row.chain:
                yield resources.challenge(row)
            case ProxyClusterRow() as row:
                if row.http or resources.is_shared(row):
                    yield resources.cluster(row, row.name, self._gate(row))
                    yield resources.endpoints(row, row.name, self._naps.get(row.name, 0))
                if row.watched and (found := self._names(row)):
                    yield resources.loads(row, found, self._naps.get(row.name, 0))
            case ProxyAppRow() as row:
                clusters = self.rows[ProxyClusterRow]
                own = [clusters[key] for key in self._app_clusters.get(row.name)]
                reached = [cluster for cluster in own if isinstance(cluster, ProxyClusterRow)]
                yield Resource(Type.APP, row.name, replay.app_file(row, reached))
            case ProxySniRow() as row if row.route:
                yield resources.inner_cluster(row, self._sockets)
            case ProxySniRow() as row:
                yield from self._alias(row.cluster, [resources.sni_alias(row)])
            case ProxyRouteRow() as row:
                binds = [self._of(of) for of in self._binds.get(row.name)]
                challenges = [] if row.tls else self._challenges(row.app)
                shown, snis = self._certificates(row.app), self._inner(row.name)
                cached = row.app in self._cached
                yield from resources.vhosts(row, binds, shown, challenges, snis, cached=cached)
            case ProxyBindRow() as row if row.chain not in HTTP_CHAINS:
                gate = resources.gate_of(row, self._certificates(row.app))
                yield from self._alias(row.target, self._aliases(row), gate)

    def _names(self, row: ProxyClusterRow) -> list[str]:
        """All that the cluster is called in Envoy."""
        if row.http or resources.is_shared(row):
            return [row.name]
        found = [name for key in self._binds.get(row.name) for name in self._aliases(self._of(key))]
        snis = [self.rows[ProxySniRow][key] for key in self._snis.get(row.name)]
        return [*found, *(resources.sni_alias(sni) for sni in snis if isinstance(sni, ProxySniRow))]

    def _gate(self, row: ProxyClusterRow) -> Gate | None:
        """Of a cluster that serves all its binds."""
        binds = [self._of(key) for key in self._binds.get(row.name)]
        gates = [resources.gate_of(bind, self._certificates(bind.app)) for bind in binds]
        found = [gate for gate in gates if gate is not None]
        return reduce(Gate.__or__, found) if found else None

    def _alias(
        self, cluster: str, found: Iterable[str], gate: Gate | None = None
    ) -> Iterator[Resource]:
        row = self.rows[ProxyClusterRow].get(cluster)
        if isinstance(row, ProxyClusterRow):
            for name in found:
                if resources.is_shared(row):
                    yield resources.shared_alias(row, name)
                    continue
                yield resources.cluster(row, name, gate)
                yield resources.endpoints(row, name, self._naps.get(row.name, 0))

    def _of(self, key: Hashable) -> ProxyBindRow:
        row = self.rows[ProxyBindRow][key]
        assert isinstance(row, ProxyBindRow)
        return row

    def _target(self, key: Hashable) -> str:
        return self._of(key).target

    def _aliases(self, row: ProxyBindRow) -> list[str]:
        return resources.aliases(row, self.places.get(row.key), self._certificates(row.app))

    def signed(self, row: ProxyBindRow) -> Signed:
        """Whom the bind's listener shows the certificate that vouches for nobody."""
        return resources.signed_for(row, self._certificates(row.app))

    def _inner(self, route: str) -> list[ProxySniRow]:
        rows = [self.rows[ProxySniRow][key] for key in self._inners.get(route)]
        return [row for row in rows if isinstance(row, ProxySniRow)]

    def _challenges(self, app: str) -> list[ProxyChallengeRow]:
        """Of HTTP-01."""
        rows = [self.rows[ProxyChallengeRow][key] for key in self._app_challenges.get(app)]
        return [row for row in rows if isinstance(row, ProxyChallengeRow) and row.token]

    def _certificates(self, app: str) -> list[ProxyCertificateRow]:
        """Those of an app, without the one that vouches for nobody."""
        rows = [self.rows[ProxyCertificateRow][key] for key in self._app_certificates.get(app)]
        return [row for row in rows if isinstance(row, ProxyCertificateRow) and not row.fallback]


def _address(key: Hashable) -> Hashable:
    assert isinstance(key, tuple)
    address: Hashable = key[0]
    return address
