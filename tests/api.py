# SPDX-License-Identifier: Apache-2.0
"""Asking the API over its socket, every answer checked with its schema."""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import dataclass, field, replace
from typing import Any

from flyebpf.api.components import COMPONENTS
from flyebpf.api.routes import ROUTES
from flyebpf.api.schema import check
from flyebpf.api.table import ERROR_SCHEMA, Route
from flyebpf.config import EtcdConfig, ProxyConfig
from flyebpf.model.records import PEERS_KEY, Host
from flyebpf.ops.transact import Tx, transact
from tests.fakes_backend import FakeBackend
from tests.pki import chain
from tests.stores import GATEWAY_KEY, add_host, add_operators_certificate

MACHINE = "0123456789abcd"

FLY_TOML = """
app = "web"

[[services]]
internal_port = 8080
protocol = "tcp"
[[services.ports]]
port = 80
[[services.ports]]
start_port = 9000
end_port = 9010

[[services]]
internal_port = 5000
protocol = "udp"
[[services.ports]]
port = 5000
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


@dataclass
class Api:
    """Asks, and checks every answer with the schema of its route."""

    backend: FakeBackend
    path: str
    used: set[str] = field(default_factory=set)

    def raw(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Any:
        connection = UnixConnection(self.path)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def __call__(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body).encode()
        status, answer = self.raw(method, target, content)
        route = find_route(method, target)
        if route is not None:
            self.used.add(route.name)
        if status < 400:
            assert route is not None
            assert status == route.status
            check(answer, route.answer, COMPONENTS)
        else:
            check(answer, ERROR_SCHEMA, COMPONENTS)
        return status, answer

    def ok(self, method: str, target: str, body: object = None) -> Any:
        status, answer = self(method, target, body)
        assert status < 400, answer
        return answer


def find_route(method: str, target: str) -> Route | None:
    bare = target.partition("?")[0]
    for route in ROUTES:
        pattern = re.sub(r"{\w+}", "[^/]+", route.path)
        if route.method == method and re.fullmatch(pattern, bare):
            return route
    return None


def machine_body(number: int = 1, **more: object) -> dict[str, object]:
    return {"interface": f"tap{number}", "mac": f"02:00:00:00:00:{number:02x}", **more}


def certificate_body(hostname: str = "www.example.com", **more: object) -> dict[str, object]:
    chain_pem, key_pem = chain("*.example.com")
    return {"hostname": hostname, "certificate": chain_pem, "key": key_pem, **more}


def use_proxy(api: Api) -> None:
    """Let the host that answers have a proxy, a pool of shared addresses, and a
    certificate for all default host names."""
    add_operators_certificate(api.backend.store)
    config = api.backend.config
    pools = replace(config.pools, shared_v4=("192.0.2.8/30",))
    api.backend.config = replace(config, pools=pools, proxy=ProxyConfig("envoy"))


def make_cluster(api: Api) -> None:
    """Let the host that answers have a mesh, an etcd that others can join, users'
    peers, and a neighbour, h2."""
    backend = api.backend
    etcd = EtcdConfig(("https://192.0.2.9:2379",))
    backend.config = replace(backend.config, store="etcd", etcd=etcd)

    def action(tx: Tx) -> None:
        host = tx.require(Host, "h1")
        keys = {"0": GATEWAY_KEY, PEERS_KEY: GATEWAY_KEY}
        tx.put(replace(host, underlay="wireguard", endpoint="192.0.2.1", port=51820, keys=keys))

    transact(backend.store, action)
    add_host(backend.store, 2)
