# SPDX-License-Identifier: Apache-2.0
"""Records as the API shows them: with what they belong to, and what follows.

An address never stands without its network and organization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from flyebpf.api.backend import Backend, MeshStatus, ServiceCounters
from flyebpf.errors import FlyebpfError
from flyebpf.model import codec, sixpn
from flyebpf.model.health import MachineChecks, check_groups, checks_of
from flyebpf.model.hostnames import default_hostname
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Deployment,
    Host,
    Machine,
    Network,
    Port,
    Service,
    WireguardPeer,
)
from flyebpf.ops import machines
from flyebpf.ops.hosts import HostView
from flyebpf.ops.rotation import Rotation
from flyebpf.ops.wireguard import own_address
from flyebpf.plan.services import Exposure
from flyebpf.store.base import Entry, Store

Json = dict[str, Any]
R = TypeVar("R", bound=AnyRecord)


class Lookup:
    """Records by id, read at most once; for one request.

    What cannot be read (another version's record) counts as absent: it must
    not hide the rest. ``status`` reports it.
    """

    def __init__(self, store: Store, *whole: type[AnyRecord]) -> None:
        """``whole``: kinds that are read at once, for lists: asking for each
        record would take as many answers of a store on other hosts."""
        self._store = store
        self._whole = {cls.kind for cls in whole}
        self._known: dict[tuple[str, str], AnyRecord | None] = {
            (kind, entry.id): _decoded(entry) for kind in self._whole for entry in store.list(kind)
        }

    def find(self, cls: type[R], id: str) -> R | None:
        key = (cls.kind, id)
        if key not in self._known and cls.kind not in self._whole:
            entry = self._store.get(*key)
            self._known[key] = None if entry is None else _decoded(entry)
        record = self._known.get(key)
        return record if isinstance(record, cls) else None

    def network_of(self, app: str) -> Network | None:
        """The network that an app's machines are on."""
        found = self.find(App, app)
        return None if found is None else self.find(Network, f"{found.org}/{found.network}")


def _decoded(entry: Entry) -> AnyRecord | None:
    try:
        return codec.decode(entry.kind, entry.body)
    except FlyebpfError:
        return None


def network_fields(network: Network | None) -> Json:
    """Organization, network and its id; empty where the app is gone."""
    if network is None:
        return {"org": "", "network": "", "network_id": ""}
    return {"org": network.org, "network": network.name, "network_id": f"{network.number:08x}"}


def network(record: Network) -> Json:
    return {**network_fields(record), "prefix": _text(sixpn.network_prefix, record.number)}


def machine(record: Machine, lookup: Lookup, backend: Backend) -> Json:
    body = codec.encode(record)
    del body["number"]
    place = lookup.network_of(record.app)
    address = _ip_6pn(record, place, lookup)
    here = record.host == backend.config.host
    return {
        **body,
        **network_fields(place),
        "ip_6pn": address,
        "mtu": machines.mtu(backend.config),
        "checks": _check_counts(lookup.find(MachineChecks, record.id)),
        "interface_missing": here and not backend.has_interface(record.interface),
    }


def _check_counts(found: MachineChecks | None) -> Json:
    results = found.results if found else ()
    passing = sum(result.passing for result in results)
    return {"passing": passing, "critical": len(results) - passing}


def checks(record: Machine, deployment: Deployment, found: MachineChecks | None) -> list[Json]:
    """Those that the machine should have."""
    results = {result.name: result for result in found.results} if found else {}
    shown = []
    for named in checks_of(deployment):
        if record.group not in check_groups(deployment, named):
            continue
        result = results.get(named.name)
        status = "unknown" if result is None else "passing" if result.passing else "critical"
        shown.append(
            {
                "app": record.app,
                "machine": record.id,
                "host": record.host,
                "region": record.region,
                "name": named.name,
                "type": named.check.type,
                "port": named.port,
                "status": status,
                "routing": named.service is not None,
                "output": result.output if result else "",
                "since": result.since if result else "",
            }
        )
    return shown


def _ip_6pn(record: Machine, place: Network | None, lookup: Lookup) -> str:
    host = lookup.find(Host, record.host)
    if place is None or host is None:
        return ""
    return _text(sixpn.machine_address, place.number, host.number, record.number)


def _text(form: Callable[..., str], *of: object) -> str:
    """An address made of ``of``; empty where a record's number is impossible,
    which ``status`` reports."""
    try:
        return form(*of)
    except ValueError:
        return ""


def host(view: HostView, asked: str, handshakes: Mapping[str, str]) -> Json:
    """``asked``: the host that answers; ``handshakes``: its last ones with others."""
    record, status = view.host, view.status
    this = record.name == asked
    return {
        "name": record.name,
        "id": f"{record.number:08x}",
        "region": record.region,
        "state": "up" if view.present or this else "away",
        "drained": record.drained,
        "this": this,
        "underlay": record.underlay,
        "endpoint": record.endpoint,
        "port": record.port,
        "block": record.block,
        "mesh_address": _text(sixpn.host_address, record.number),
        "mesh_prefix": _text(sixpn.host_prefix, record.number),
        "machines": view.machines,
        "wireguard_peers": view.peers,
        "version": status.version if status else "",
        "programs": status.programs if status else "",
        "kernel": status.kernel if status else "",
        "wireguard": status.wireguard if status else "",
        "applied_revision": status.applied_revision if status else 0,
        "seen": status.seen if status else "",
        "mtu": status.mtu if status else 0,
        "handshake": handshakes.get(record.name, ""),
        "handshakes": dict(handshakes if this else status.peers if status else {}),
        "connected": status.connected if status else 0,
        "unconnected": status.unconnected if status else 0,
    }


def mesh(now: MeshStatus) -> Json:
    return {
        "generation": now.generation,
        "next_generation": now.next_generation,
        "devices": [asdict(device) for device in now.devices],
        "peers": [asdict(peer) for peer in now.peers],
    }


def rotation(record: Rotation) -> Json:
    return {
        "running": record.running,
        "generation": record.generation,
        "next": record.next,
        "waiting": list(record.waiting),
        "away": list(record.away),
    }


def wireguard_peer(record: WireguardPeer, lookup: Lookup) -> Json:
    place = lookup.find(Network, f"{record.org}/{record.network}")
    number = network_fields(place)["network_id"]
    return {
        "name": record.name,
        "org": record.org,
        "network": record.network,
        "network_id": number,
        "gateway": record.host,
        "address": _text(own_address, record),
        "prefix": record.address,
        "public_key": record.public_key,
        "created": record.created,
    }


def address(record: Address, lookup: Lookup) -> Json:
    place = network_fields(lookup.network_of(record.app))
    shown = {
        "address": record.address,
        "type": record.type.value,
        "app": record.app,
        "region": record.region,
        "created": record.created,
    }
    if record.network:  # a Flycast address is on its callers' network, not on the app's
        called = network_fields(lookup.find(Network, f"{record.org}/{record.network}"))
        return {**shown, **called, "org": record.org, "network": record.network}
    return {**shown, **place}


PROXIED = frozenset((AddressKind.SHARED_V4, AddressKind.PRIVATE_V6))
"""Kinds of addresses that only the proxy serves."""


def deployment(record: Deployment, lookup: Lookup) -> Json:
    return {**codec.encode(record), **network_fields(lookup.network_of(record.app))}


def service(
    owner: Deployment,
    exposure: Exposure,
    *,
    addresses: Sequence[Address],
    hostnames: Sequence[str],
    regions: Sequence[str],
    machines: int,
    counters: ServiceCounters | None,
    lookup: Lookup,
) -> Json:
    """One port (or range) of a service. ``addresses``: that carry it; ``hostnames``:
    of the app; ``regions``: where it has machines."""
    port, limits = exposure.port, exposure.service.concurrency
    kinds = {address.type for address in addresses}
    return {
        "app": owner.app,
        **network_fields(lookup.network_of(owner.app)),
        "protocol": exposure.protocol,
        "first_port": exposure.first,
        "last_port": exposure.last,
        "internal_port": exposure.internal_port,
        "handlers": list(exposure.port.handlers),
        "processes": list(exposure.groups),
        "addresses": [address.address for address in addresses],
        "hostnames": list(dict.fromkeys(hostnames)) if AddressKind.SHARED_V4 in kinds else [],
        "force_https": port.force_https,
        "concurrency": {
            "type": limits.type,
            "soft_limit": limits.soft_limit,
            "hard_limit": limits.hard_limit,
        },
        "checks": len(exposure.service.checks),
        **_handling(exposure.service, port),
        "regions": list(regions),
        "machines": machines,
        "needs_proxy": exposure.proxy or bool(kinds & PROXIED),
        "counters": None if counters is None else _counters(counters),
    }


def _handling(service: Service, port: Port) -> Json:
    """How its machines come and go, and the options of its handlers."""
    http = None
    if port.http_options is not None:
        headers = {name: list(values) for name, values in port.http_options.response_headers}
        http = {**asdict(port.http_options), "response_headers": headers}
        http["replay_cache"] = [asdict(rule) for rule in port.http_options.replay_cache]
    return {
        "auto_start": service.auto_start,
        "auto_stop": service.auto_stop,
        "min_machines_running": service.min_machines_running,
        "proxy_proto": port.proxy_proto_version if "proxy_proto" in port.handlers else None,
        "tls_options": None if port.tls_options is None else _listed(asdict(port.tls_options)),
        "http_options": http,
    }


def _listed(found: Json) -> Json:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}


def _counters(record: ServiceCounters) -> Json:
    return {
        "in_packets": record.in_packets,
        "in_bytes": record.in_bytes,
        "out_packets": record.out_packets,
        "out_bytes": record.out_bytes,
        "flows": record.flows,
    }


def app(
    record: App,
    lookup: Lookup,
    *,
    domain: str,
    machines: int,
    addresses: Sequence[str],
    version: int | None,
) -> Json:
    """``domain``: the operator's, under which the app has a name."""
    place = network_fields(lookup.find(Network, f"{record.org}/{record.network}"))
    own = {"org": record.org, "network": record.network, "network_id": place["network_id"]}
    return {
        "name": record.name,
        **own,
        "hostname": default_hostname(record.name, domain),
        "machines": machines,
        "addresses": list(addresses),
        "version": version,
    }


def by_app(records: Sequence[Address] | Sequence[Machine]) -> Mapping[str, list[Any]]:
    """Records grouped by their app."""
    groups: dict[str, list[Any]] = {}
    for record in records:
        groups.setdefault(record.app, []).append(record)
    return groups
