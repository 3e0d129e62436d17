# SPDX-License-Identifier: Apache-2.0
"""What Envoy has to know, as bytes, and what each of its streams has of it.

Delta xDS (https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol): a
resource's version is the hash of its bytes, so a stream that comes back says
what it has, and is sent only what has changed meanwhile. Every resource is
made into bytes once; a route configuration is its virtual hosts' bytes joined, and there
is one for each part (``flyebpf.proxy.shards``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2  # noqa: F401
from envoy.extensions.internal_redirect.allow_listed_routes.v3 import (  # noqa: F401
    allow_listed_routes_config_pb2,
)
from envoy.extensions.load_balancing_policies.least_request.v3 import (  # noqa: F401
    least_request_pb2,
)
from envoy.extensions.matching.common_inputs.transport_socket.v3 import (  # noqa: F401
    transport_socket_inputs_pb2,
)
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2  # noqa: F401
from envoy.extensions.transport_sockets.proxy_protocol.v3 import (  # noqa: F401
    upstream_proxy_protocol_pb2,
)
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    Resource,
)
from google.protobuf.json_format import ParseDict

from flyebpf.proxy import shards
from flyebpf.proxy.resources import Type

Json = dict[str, Any]
PREFIX = "type.googleapis.com/"
CDS = f"{PREFIX}envoy.config.cluster.v3.Cluster"
EDS = f"{PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
RDS = f"{PREFIX}envoy.config.route.v3.RouteConfiguration"
SCOPES = f"{PREFIX}envoy.config.route.v3.ScopedRouteConfiguration"
SDS = f"{PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret"
NAME, VIRTUAL_HOST = b"\x0a", b"\x12"
"""Fields 1 and 2 of RouteConfiguration, length-delimited; the last name counts."""
URLS = (CDS, EDS, RDS, SCOPES, SDS)
ORDER = URLS
"""In which a change is sent: what is referred to comes first."""
MESSAGE = 2 << 20
"""Bytes of resources in one response, about."""


class Snapshot:
    """All resources by type and name, and those that changed since the last
    :meth:`take_changes`."""

    def __init__(self) -> None:
        self._bytes: dict[str, dict[str, bytes]] = {url: {} for url in URLS}
        self._versions: dict[str, dict[str, str]] = {url: {} for url in URLS}
        self._routes: dict[str, bytes] = {}
        self._vhosts: dict[str, dict[str, bytes]] = {}  # part to route to virtual host
        self._parts: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
        self._domains: dict[str, dict[str, str]] = {}  # domain to route
        self._mine: dict[tuple[str, str], tuple[str, ...]] = {}
        self._stale: set[str] = set()  # route configurations to be joined anew
        self._certificates: dict[str, Json] = {}
        self._hosts: dict[str, dict[str, None]] = {}  # host to certificates, oldest first
        self._changed: dict[str, set[str]] = {}
        self._secrets_changed = False

    def put(self, type: Type, name: str, body: Json) -> None:
        """Raises ParseError for what is no such resource."""
        if type is Type.CLUSTER:
            self._set(CDS, name, _encode(body, Cluster()))
        elif type is Type.ENDPOINTS:
            self._set(EDS, name, _encode(body, ClusterLoadAssignment()))
        elif type is Type.ROUTES:
            self._routes[name] = _encode(body, RouteConfiguration())
            for scope, part in shards.fixed(name):
                self._vhosts.setdefault(part, {})
                self._set(SCOPES, scope, _scope(scope, part))
            self._stale.update(p for p in self._vhosts if p.partition("/")[0] == name)
        elif type is Type.VHOST:
            self._put_vhost(name, body)
        else:
            self._forget_certificate(name)
            self._certificates[name] = body
            for host in body["hosts"]:
                self._hosts.setdefault(host, {})[name] = None
            self._secrets_changed = True

    def _put_vhost(self, name: str, body: Json) -> None:
        """Domains that another virtual host has are its own: Envoy would refuse the
        routes of all."""
        of, _, route = name.partition("|")
        self._free_domains(of, route)
        self._mine[of, route] = tuple(body["domains"])
        owners = self._domains.setdefault(of, {})
        mine = [d for d in body["domains"] if owners.setdefault(d, route) == route]
        encoded = _encode({**body, "domains": mine}, VirtualHost()) if mine else b""
        self._place(of, route, mine, _field(VIRTUAL_HOST, encoded))
        if len(mine) < len(body["domains"]):
            raise ValueError(f"{sorted(set(body['domains']) - set(mine))} are another's")

    def _place(self, of: str, route: str, domains: list[str], value: bytes) -> None:
        """A virtual host into its parts, and out of those that it was in."""
        parts = shards.parts(of, route, domains) if domains else set()
        scopes = shards.scopes(of, domains)
        before, scopes_before = self._parts.pop((of, route), (set(), set()))
        for part in before - parts:
            del self._vhosts[part][route]
        for part in parts:
            self._vhosts.setdefault(part, {})[route] = value
        self._stale |= before | parts
        for scope in scopes_before - scopes:
            self._set(SCOPES, scope, None)
        for scope in scopes:
            self._set(SCOPES, scope, _scope(scope, f"{of}/{route}"))
        if domains:
            self._parts[of, route] = parts, scopes

    def _free_domains(self, of: str, route: str) -> None:
        owners = self._domains.get(of, {})
        for domain in [d for d in self._mine.get((of, route), ()) if owners.get(d) == route]:
            del owners[domain]

    def remove(self, type: Type, name: str) -> None:
        if type is Type.CLUSTER:
            self._set(CDS, name, None)
        elif type is Type.ENDPOINTS:
            self._set(EDS, name, None)
        elif type is Type.VHOST:
            of, _, route = name.partition("|")
            self._free_domains(of, route)
            self._mine.pop((of, route), None)
            self._place(of, route, [], b"")
        elif type is Type.CERTIFICATE:
            self._forget_certificate(name)

    def _forget_certificate(self, name: str) -> None:
        body = self._certificates.pop(name, None)
        for host in body["hosts"] if body else ():
            self._hosts[host].pop(name, None)
            if not self._hosts[host]:
                del self._hosts[host]
        self._secrets_changed = True

    def _set(self, url: str, name: str, value: bytes | None) -> None:
        if value is None:
            self._bytes[url].pop(name, None)
            self._versions[url].pop(name, None)
        else:
            version = blake2b(value, digest_size=8).hexdigest()
            if self._versions[url].get(name) == version:
                return
            self._bytes[url][name] = value
            self._versions[url][name] = version
        self._changed.setdefault(url, set()).add(name)

    def join(self) -> None:
        """Make route configurations of what has changed."""
        for name in self._stale:
            of = name.partition("/")[0]
            if of not in self._routes:
                continue
            hosts = self._vhosts.get(name, {})
            if not hosts and not shards.by_letter(of):
                self._vhosts.pop(name, None)
                self._set(RDS, name, None)
                continue
            called = _field(NAME, name.encode())
            self._set(RDS, name, b"".join((self._routes[of], called, *hosts.values())))
        self._stale.clear()

    def refresh_secrets(self, wanted: Mapping[str, object]) -> None:
        """Certificates have changed: look again at the names that are asked for."""
        if self._secrets_changed:
            for name in [*wanted, *self._bytes[SDS]]:
                self._set(SDS, name, self._secret(name))
        self._secrets_changed = False

    def want_secret(self, name: str) -> None:
        """A client asks for this server name's certificate."""
        self._set(SDS, name, self._secret(name))

    def _secret(self, name: str) -> bytes | None:
        """That of the name itself, else that of its domain's wildcard."""
        parent = name.lower().partition(".")[2]
        found = self._hosts.get(name.lower()) or self._hosts.get(f"*.{parent}")
        if not found:
            return None
        body = self._certificates[next(iter(found))]["secret"]
        return _encode({"name": name, **body}, Secret())

    def take_changes(self) -> dict[str, set[str]]:
        """Names by type URL."""
        changed, self._changed = self._changed, {}
        return changed

    def version(self, url: str, name: str) -> str | None:
        return self._versions.get(url, {}).get(name)

    def value(self, url: str, name: str) -> bytes:
        return self._bytes[url][name]

    def names(self, url: str) -> Iterator[str]:
        return iter(self._bytes.get(url, {}))

    def counts(self) -> dict[str, int]:
        return {url.rpartition(".")[2]: len(found) for url, found in self._bytes.items()}


def _encode(body: Json, message: Any) -> bytes:
    encoded: bytes = ParseDict(body, message).SerializeToString(deterministic=True)
    return encoded


def _scope(name: str, part: str) -> bytes:
    key = {"fragments": [{"string_key": name}]}
    body = {"name": name, "route_configuration_name": part, "key": key}
    return _encode(body, ScopedRouteConfiguration())


def _field(number: bytes, value: bytes) -> bytes:
    """A field of a route configuration (protobuf wire format)."""
    length, size = b"", len(value)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return number + length + bytes([size]) + value


class Subscription:
    """What one stream wants of one type and has of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.wildcard = False
        self.wanted: dict[str, None] = {}
        self.has: dict[str, str] = {}

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.wanted


class Stream:
    """One stream of Envoy's: requests in, responses out. No I/O."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._subscriptions: dict[str, Subscription] = {}
        self._nonce = 0
        self._nacks: dict[str, str] = {}

    @property
    def nack(self) -> str:
        """What Envoy has said of the last response that it refused, "" when it has
        taken one of each type since."""
        return next((text for text in self._nacks.values() if text), "")

    def secrets(self) -> dict[str, None]:
        """Names of certificates that it asks for."""
        found = self._subscriptions.get(SDS)
        return found.wanted if found else {}

    def request(self, message: DeltaDiscoveryRequest) -> list[DeltaDiscoveryResponse]:
        """What is to be sent at once."""
        url = message.type_url
        if message.response_nonce:
            error = message.error_detail
            self._nacks[url] = error.message if error.code else ""
        first = url not in self._subscriptions
        subscription = self._subscriptions.setdefault(url, Subscription(url))
        if first:
            subscription.has.update(message.initial_resource_versions)
            subscription.wildcard = not message.resource_names_subscribe
        asked = set(message.resource_names_subscribe)
        if "*" in asked:
            subscription.wildcard = True
            asked.discard("*")
        for name in message.resource_names_unsubscribe:
            subscription.wanted.pop(name, None)
            subscription.has.pop(name, None)
        subscription.wanted.update(dict.fromkeys(asked))
        if url == SDS:
            for name in asked:
                self._snapshot.want_secret(name)
        if first:
            asked.update(subscription.has)
            if subscription.wildcard:
                asked.update(self._snapshot.names(url))
        found = self._respond(subscription, asked, missing=url == SDS)
        if first and subscription.wildcard and not found:
            found = self._number([DeltaDiscoveryResponse(type_url=url)])
        return found

    def changed(self, names: Mapping[str, set[str]]) -> list[DeltaDiscoveryResponse]:
        """What is to be sent because these have changed. Envoy makes a changed cluster
        anew, and that waits for its endpoints: they are sent again."""
        found = []
        if (endpoints := self._subscriptions.get(EDS)) is not None:
            for name in names.get(CDS, ()):
                endpoints.has.pop(name, None)
        names = {**names, EDS: names.get(EDS, set()) | names.get(CDS, set())}
        for url in ORDER:
            subscription = self._subscriptions.get(url)
            if subscription is not None and url in names:
                wanted = {name for name in names[url] if subscription.wants(name)}
                found += self._respond(subscription, wanted)
        return found

    def _respond(
        self, subscription: Subscription, names: set[str], *, missing: bool = False
    ) -> list[DeltaDiscoveryResponse]:
        """``missing``: say of names that do not exist that they do not, even if the
        stream has never had them."""
        responses = [DeltaDiscoveryResponse(type_url=subscription.url)]
        size = 0
        for name in sorted(names):
            version = self._snapshot.version(subscription.url, name)
            if version is None:
                if subscription.has.pop(name, None) is not None or missing:
                    responses[-1].removed_resources.append(name)
                continue
            if subscription.has.get(name) == version:
                continue
            if size > MESSAGE:
                responses.append(DeltaDiscoveryResponse(type_url=subscription.url))
                size = 0
            resource = self._resource(subscription.url, name, version)
            responses[-1].resources.append(resource)
            subscription.has[name] = version
            size += len(resource.resource.value)
        return self._number([r for r in responses if r.resources or r.removed_resources])

    def _resource(self, url: str, name: str, version: str) -> Resource:
        resource = Resource(name=name, version=version)
        resource.resource.type_url = url
        resource.resource.value = self._snapshot.value(url, name)
        return resource

    def _number(self, responses: list[DeltaDiscoveryResponse]) -> list[DeltaDiscoveryResponse]:
        for response in responses:
            self._nonce += 1
            response.nonce = str(self._nonce)
        return responses
