# SPDX-License-Identifier: Apache-2.0
"""What the values of a configuration must satisfy, alone and together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import combinations

from flyebpf.bpf.layout import MAX_POOLS, MAX_POOLS6, MAX_UPLINKS
from flyebpf.config import DaemonConfig

Network = IPv4Network | IPv6Network

MINIMA = {
    "flows": 4096,
    "services": 64,
    "machines": 16,
    "maglev_entries": 65_536,
    "pool_addresses": 1,
    "pool6_addresses": 1,
    "fragments": 64,
    "names": 64,
}
MAXIMUM = 1 << 28  # entries; the kernel could not allocate more of any map
CHOICES = {
    "store": ("sqlite", "etcd"),
    "dataplane.xdp_mode": ("auto", "native", "generic"),
    "mesh.underlay": ("none", "wireguard", "plain"),
    "mesh.return_path": ("direct", "edge"),
    "proxy.engine": ("none", "envoy"),
    "acme.challenge": ("http-01", "tls-alpn-01"),
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("logfmt", "json"),
}
MOST_APPS = 100_000
REGION = r"[a-z][a-z0-9]{1,15}"
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


@dataclass(frozen=True, slots=True)
class Problem:
    """``key``: the dotted key in the file."""

    key: str
    what: str
    remedy: str = ""


def check(config: DaemonConfig) -> list[Problem]:
    """Everything wrong with ``config``."""
    return [
        *check_names(config),
        *check_uplinks(config.uplinks),
        *check_choices(config),
        *check_sizes(config),
        *check_metrics(config.proxy.metrics_apps),
        *check_networks(config),
        *check_listen(config.metrics.listen),
        *check_resolvers(config.dns.upstreams),
        *check_paths(config),
    ]


def check_names(config: DaemonConfig) -> Iterator[Problem]:
    for key, value, pattern, example in (
        ("host", config.host, LABEL, "host-1"),
        ("region", config.region, REGION, "ams"),
        ("domain", config.domain, rf"{LABEL}(\.{LABEL})*", "fly.test"),
        ("api.group", config.api.group, r"[a-z_][a-z0-9_-]{0,31}", "flyebpf"),
    ):
        if not re.fullmatch(pattern, value):
            yield Problem(
                key, f"{value!r} is not a valid name", f"use lower-case letters, as in {example!r}"
            )


def check_resolvers(upstreams: tuple[str, ...]) -> Iterator[Problem]:
    example = "write it such as 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353"
    for text in upstreams:
        try:
            address, _ = resolver(text)
        except ValueError:
            yield Problem("dns.upstreams", f"{text!r} is not an address", example)
            continue
        if address.is_unspecified or address.is_multicast or address in IPv6Network("fdaa::/16"):
            yield Problem("dns.upstreams", f"{text} cannot be a resolver", "name another one")


def resolver(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """An address and a port, 53 if there is none. Raises ValueError."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = int(port)
    if not port.isascii() or not 0 < number < 65536:
        raise ValueError(text)
    return ip_address(host), number


def check_uplinks(uplinks: tuple[str, ...]) -> Iterator[Problem]:
    if not uplinks:
        yield Problem("uplinks", "is empty", 'name the interfaces to the internet, as in ["eth0"]')
    if len(uplinks) > MAX_UPLINKS:
        yield Problem("uplinks", f"has {len(uplinks)} interfaces", f"use at most {MAX_UPLINKS}")
    for name in sorted({name for name in uplinks if uplinks.count(name) > 1}):
        yield Problem("uplinks", f"{name!r} is listed twice", "list it once")
    for name in uplinks:
        if not re.fullmatch(r"[^\s/:]{1,15}", name) or name in (".", "..", "lo"):
            yield Problem(
                "uplinks",
                f"{name!r} cannot be an uplink",
                "use the name of an interface, 1 to 15 characters; `ip link` lists them",
            )


def check_choices(config: DaemonConfig) -> Iterator[Problem]:
    values = {
        "store": config.store,
        "dataplane.xdp_mode": config.dataplane.xdp_mode,
        "mesh.underlay": config.mesh.underlay,
        "mesh.return_path": config.mesh.return_path,
        "proxy.engine": config.proxy.engine,
        "acme.challenge": config.acme.challenge,
        "log.level": config.log.level,
        "log.format": config.log.format,
    }
    for key, value in values.items():
        if value not in CHOICES[key]:
            yield Problem(key, f"{value!r} is not known", f"use {' or '.join(CHOICES[key])}")


def check_sizes(config: DaemonConfig) -> Iterator[Problem]:
    for name, minimum in MINIMA.items():
        value = getattr(config.dataplane, name)
        if value < minimum:
            yield Problem(f"dataplane.{name}", f"{value} is too small", f"use at least {minimum}")
        elif value > MAXIMUM:
            yield Problem(f"dataplane.{name}", f"{value} is too large", f"use at most {MAXIMUM}")
    flows = config.dataplane.flows
    if flows & (flows - 1) and MINIMA["flows"] <= flows <= MAXIMUM:
        above = 1 << flows.bit_length()
        yield Problem(
            "dataplane.flows", f"{flows} is not a power of two", f"use {above // 2} or {above}"
        )


def check_metrics(apps: int) -> Iterator[Problem]:
    if not 0 <= apps <= MOST_APPS:
        yield Problem("proxy.metrics_apps", f"{apps} is impossible", f"use 0 to {MOST_APPS}")


def check_networks(config: DaemonConfig) -> Iterator[Problem]:
    """CIDRs one by one, and then against each other."""
    problems: list[Problem] = []
    pools, private = config.pools, config.private
    groups = {  # a conflict is reported at the later one
        "private.prefix": ((private.prefix,), 4),
        "private.alias": ((private.alias,), 4),
        "pools.anycast_v4": (pools.anycast_v4, 4),
        "pools.anycast_v6": (pools.anycast_v6, 6),
        "pools.shared_v4": (pools.shared_v4, 4),
        "pools.egress": (pools.egress, 0),
    }
    nets: list[tuple[str, Network]] = []
    for key, (texts, version) in groups.items():
        for text in texts:
            network = read_network(problems, key, text, version)
            if network is not None:
                nets.append((key, network))
    block = read_network(problems, "private.block", private.block, 4)
    for text in config.egress.allow:
        read_network(problems, "egress.allow", text, 0)
    yield from problems
    yield from check_overlaps(nets)
    yield from check_private(dict(nets), block)
    yield from check_capacity(config, nets)


def read_network(problems: list[Problem], key: str, text: str, version: int) -> Network | None:
    """The network, or None and a problem. ``version`` 0: either."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        problems.append(Problem(key, f"{text!r} is not a network", "write it as in 203.0.113.0/24"))
        return None
    if version and network.version != version:
        problems.append(Problem(key, f"{text!r} is not IPv{version}", f"give an IPv{version} CIDR"))
        return None
    if str(network) != text and f"{text}/{network.max_prefixlen}" != str(network):
        problems.append(Problem(key, f"{text!r} has host bits set", f"write {network}"))
        return None
    if network.is_loopback or network.is_multicast or network.prefixlen == 0:
        problems.append(
            Problem(key, f"{text!r} cannot be used here", "give a unicast network of your own")
        )
        return None
    return network


def check_overlaps(nets: list[tuple[str, Network]]) -> Iterator[Problem]:
    for (key, one), (other_key, other) in combinations(nets, 2):
        if one.version == other.version and one.overlaps(other):
            yield Problem(
                other_key, f"{other} overlaps {one} of {key}", "give networks that are disjoint"
            )


def check_private(nets: dict[str, Network], block: Network | None) -> Iterator[Problem]:
    prefix, alias = nets.get("private.prefix"), nets.get("private.alias")
    if isinstance(prefix, IPv4Network) and isinstance(block, IPv4Network):
        if not block.subnet_of(prefix):
            yield Problem(
                "private.block",
                f"{block} is not inside private.prefix {prefix}",
                f"give a part of {prefix}, one for each host",
            )
        if block.prefixlen > 30:
            yield Problem("private.block", f"{block} is too small", "use /30 or larger")
    if prefix and alias and alias.prefixlen != prefix.prefixlen:
        yield Problem(
            "private.alias",
            f"{alias} is not as long as private.prefix {prefix}",
            f"use a /{prefix.prefixlen}",
        )


def check_capacity(config: DaemonConfig, nets: list[tuple[str, Network]]) -> Iterator[Problem]:
    pools = [net for key, net in nets if key in ("pools.anycast_v4", "pools.shared_v4")]
    if len(pools) > MAX_POOLS:
        yield Problem(
            "pools.anycast_v4", f"{len(pools)} IPv4 pools", f"use at most {MAX_POOLS}, merged"
        )
    if len(config.pools.anycast_v6) > MAX_POOLS6:
        yield Problem(
            "pools.anycast_v6",
            f"{len(config.pools.anycast_v6)} IPv6 pools",
            f"use at most {MAX_POOLS6}, merged",
        )
    needed = sum(pool.num_addresses for pool in pools)
    if needed > config.dataplane.pool_addresses:
        yield Problem(
            "pools.anycast_v4",
            f"the IPv4 pools have {needed} addresses, dataplane.pool_addresses is "
            f"{config.dataplane.pool_addresses}",
            f"set dataplane.pool_addresses to at least {needed}",
        )


def check_listen(listen: str) -> Iterator[Problem]:
    """Only loopback and unix sockets: metrics name apps and addresses."""
    if not listen or re.fullmatch(r"unix:/.+", listen):
        return
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([0-9.]+)):([0-9]{1,5})", listen)
    remedy = "use 127.0.0.1:PORT, [::1]:PORT, unix:/PATH, or an empty string for none"
    try:
        address = ip_address(match[1] or match[2]) if match else None
    except ValueError:
        address = None
    if match is None or address is None or not 0 < int(match[3]) < 65536:
        yield Problem("metrics.listen", f"{listen!r} is not an address to listen on", remedy)
    elif not address.is_loopback:
        yield Problem("metrics.listen", f"{listen!r} is not loopback", remedy)


def check_paths(config: DaemonConfig) -> Iterator[Problem]:
    for key, path in (
        ("state_dir", config.state_dir),
        ("bpffs", config.bpffs),
        ("cache_dir", config.cache_dir),
        ("api.socket", config.api.socket),
        ("proxy.access_log", config.proxy.access_log or "/"),
    ):
        if not path.startswith("/") or "\0" in path:
            yield Problem(key, f"{path!r} is not an absolute path", "start it with /")
    if len(config.api.socket.encode()) > 107:
        yield Problem("api.socket", "is longer than a unix socket's name can be", "shorten it")
