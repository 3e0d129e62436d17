# SPDX-License-Identifier: Apache-2.0
"""How listeners and resources name what belongs together.

A listener makes a name of what it knows of a connection (Envoy's command
operators), a resource bears the same name. Local addresses are written
``203.0.113.1:443`` or ``[2001:db8::1]:443``.
"""

from __future__ import annotations

from flyebpf.model.proxyrows import Chain
from flyebpf.proxy.chains import Listener, Signed

VHOST_HEADER = "x-flyebpf-vhost"
"""Tells the virtual host on apps' own addresses; never leaves the proxy."""
SCOPE_HEADER = "x-flyebpf-scope"
"""Tells the route configuration; never leaves the proxy either."""
COMPRESSOR = "envoy.filters.http.compressor"
ADS_CLUSTER = "flyebpf"
"""The control plane."""
NO_CLUSTER = "none"
"""Where connections go that belong to nobody: it does not exist."""
NO_SERVER_NAME = "-"
"""The secret that is asked for where a client says no server name."""

LOCAL = "%DOWNSTREAM_LOCAL_ADDRESS%"
SERVER_NAME = "%REQUESTED_SERVER_NAME%"
ASKED, ANY = "flyebpf.server_name", "*"
"""What a connection's cluster knows of the server name that its client says; of a
listener where that is no matter."""
SELF_SIGNED, FOR_NAMELESS = "/self-signed", "/nameless"
"""The secret of the certificate that vouches for nobody; no server names. Two, as
Envoy takes a secret either with a listener or on demand."""


def at(address: str, port: int) -> str:
    """A local address as Envoy writes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def routes_of(listener: Listener) -> str:
    """The route configuration of an HTTP listener."""
    if listener.inner:
        return INNER_ROUTES
    return f"{'shared' if listener.shared else 'own'}-{listener.chain}"


INNER_ROUTES = "inner-https"
ROUTES = ("own-http", "own-https", "shared-http", "shared-https", INNER_ROUTES)


def scope_format(listener: Listener) -> str:
    """Of a request (``flyebpf.proxy.shards``)."""
    return f"{routes_of(listener)}/{'%REQ(:AUTHORITY):1%' if listener.shared else LOCAL}"


def vhost_format(listener: Listener) -> str:
    if listener.inner:
        return "%REQ(:AUTHORITY)%|%DOWNSTREAM_LOCAL_PORT%"
    return f"{SERVER_NAME}/{LOCAL}" if listener.chain is Chain.HTTPS else LOCAL


def inner_domains(host: str, port: int) -> tuple[str, ...]:
    """The domains of a virtual host on another port of shared addresses: clients may say
    the port with the host, or not."""
    return (f"{host}|{port}", f"{host}:{port}|{port}")


def vhost_domain(address: str, port: int, server_name: str | None = None) -> str:
    """The domain of a virtual host on an app's own address. Over TLS with a server
    name: a client that got another app's certificate must not reach this one.
    ``server_name``: ``www.example.com``, ``*.example.com``, "" where the client says
    none, ``*`` for any that it says."""
    local = at(address, port)
    return local if server_name is None else f"{server_name}/{local}"


def cluster_format(listener: Listener) -> str:
    """The cluster of a connection that is not HTTP's. At an app's own address that of
    ``tls`` sees to the server name itself: wildcards stand for many."""
    if listener.range is not None:
        return f"range{listener.range}/%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"
    if listener.chain not in (Chain.TLS, Chain.PG_TLS):
        return f"raw/{LOCAL}"
    if listener.shared:
        return f"sni/%DOWNSTREAM_LOCAL_PORT%/{SERVER_NAME}"
    if listener.signed is Signed.ALL:
        return f"raw/{LOCAL}"
    return f"tls/{LOCAL}"


def asked_format(listener: Listener) -> str:
    """What a connection's cluster is told of its server name."""
    gated = listener.tls is not None and cluster_format(listener).startswith("tls/")
    return SERVER_NAME if gated else ANY


def raw_cluster(address: str, port: int) -> str:
    return f"raw/{at(address, port)}"


def range_cluster(place: int, address: str) -> str:
    return f"range{place}/{address}"


def tls_cluster(address: str, port: int) -> str:
    return f"tls/{at(address, port)}"


def sni_cluster(port: int, server_name: str) -> str:
    return f"sni/{port}/{server_name}"
