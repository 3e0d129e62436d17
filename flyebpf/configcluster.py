# SPDX-License-Identifier: Apache-2.0
"""What the tables [mesh] and [etcd] must satisfy."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from flyebpf.config import DaemonConfig, EtcdConfig, MeshConfig
from flyebpf.configrules import REGION, Problem
from flyebpf.model.sixpn import PREFIX

SIXPN = IPv6Network((PREFIX << 112, 16))
INTERFACE = r"[^\s/:%]{{1,{}}}"
LONGEST = 15  # characters of an interface's name, IFNAMSIZ - 1
MTUS = (1280, 9000)  # IPv6 needs the smaller one
PORTS_USED = 3  # by the mesh, from mesh.port on
TIMEOUTS = (1, 60)
LATENCY = rf"({REGION}) ({REGION}) (\d{{1,5}}(?:\.\d{{1,3}})?)"


def check(config: DaemonConfig) -> list[Problem]:
    """Everything that is wrong with the values."""
    found = list(check_sixpn(config))
    meshed = config.mesh.underlay in ("wireguard", "plain")
    if meshed or config.mesh.endpoint:  # users' WireGuard peers need it without a mesh too
        found += check_endpoint(config)
    found += check_users_endpoint(config)
    if meshed:
        found += check_interface(config)
    found += check_mesh(config.mesh)
    if config.store == "etcd" or config.etcd.endpoints:
        found += check_etcd(config.etcd)
    return found


def check_files(config: DaemonConfig) -> list[Problem]:
    """Everything that is wrong with the files that they name, as they are now."""
    return list(check_tls(config.etcd)) if config.store == "etcd" else []


def check_sixpn(config: DaemonConfig) -> Iterator[Problem]:
    """fdaa::/16 is the mesh's, and nothing else may lead there."""
    pools = config.pools
    for key, texts in (
        ("pools.anycast_v6", pools.anycast_v6),
        ("pools.egress", pools.egress),
        ("egress.allow", config.egress.allow),
    ):
        for text in texts:
            try:
                network = ip_network(text, strict=False)
            except ValueError:
                continue  # reported where it is read
            if isinstance(network, IPv6Network) and network.overlaps(SIXPN):
                yield Problem(
                    key,
                    f"{text} overlaps {SIXPN}, the addresses of private networks",
                    "give a network of your own",
                )


def check_endpoint(config: DaemonConfig) -> Iterator[Problem]:
    remedy = "give the address at which the other hosts reach this one"
    if config.mesh.endpoint:
        yield from check_reachable(config, "mesh.endpoint", config.mesh.endpoint, remedy)
        return
    text = f"is missing, with mesh.underlay = {config.mesh.underlay!r}"
    yield Problem("mesh.endpoint", text, remedy)


def check_users_endpoint(config: DaemonConfig) -> Iterator[Problem]:
    mesh, key = config.mesh, "mesh.users_endpoint"
    if not mesh.users_endpoint:
        return
    remedy = "give the address at which users reach this host"
    yield from check_reachable(config, key, mesh.users_endpoint, remedy)
    if not mesh.endpoint:
        yield Problem(key, "is given without mesh.endpoint", "give that one too")


def check_reachable(config: DaemonConfig, key: str, text: str, remedy: str) -> Iterator[Problem]:
    """An address of this host that others can send to."""
    try:
        address = ip_address(text)
    except ValueError:
        yield Problem(
            key,
            f"{text!r} is not an IP address",
            f"{remedy}, without a port; mesh.port is the port",
        )
        return
    scoped = isinstance(address, IPv6Address) and address.scope_id
    if (
        address.is_loopback or address.is_multicast or address.is_unspecified
        or address.is_link_local or scoped
    ):  # fmt: skip
        yield Problem(key, f"{text} cannot be reached by other hosts", remedy)
    yield from check_apart(config, key, address)


def check_apart(
    config: DaemonConfig, key: str, address: IPv4Address | IPv6Address
) -> Iterator[Problem]:
    """The endpoint is in nothing that machines or apps get addresses of."""
    pools, private = config.pools, config.private
    groups = {
        "private.prefix": (private.prefix,),
        "private.alias": (private.alias,),
        "pools.anycast_v4": pools.anycast_v4,
        "pools.anycast_v6": pools.anycast_v6,
        "pools.shared_v4": pools.shared_v4,
        "pools.egress": pools.egress,
        "private networks": (str(SIXPN),),
    }
    for group, texts in groups.items():
        for text in texts:
            try:
                inside = address in ip_network(text, strict=False)
            except ValueError:
                continue
            if inside:
                yield Problem(
                    key, f"{address} is in {text} of {group}", "give an address of the host itself"
                )


def check_interface(config: DaemonConfig) -> Iterator[Problem]:
    mesh = config.mesh
    wireguard = mesh.underlay == "wireguard"
    longest = LONGEST - 1 if wireguard else LONGEST
    good = re.fullmatch(INTERFACE.format(longest), mesh.interface)
    if not good or mesh.interface in (".", "..", "lo"):
        what = "the first part of the devices' names" if wireguard else "an interface's name"
        yield Problem(
            "mesh.interface",
            f"{mesh.interface!r} cannot be {what}",
            f"use 1 to {longest} characters, as in {'fly' if wireguard else 'eth1'!r}",
        )
    names = [f"{mesh.interface}{n}" for n in range(2)] if wireguard else [mesh.interface]
    for name in names:
        if name in config.uplinks:
            yield Problem(
                "mesh.interface",
                f"{name} is an uplink",
                "use another name"
                if wireguard
                else "give the fabric an interface of its own; "
                "from an uplink anybody could send into private networks",
            )


def check_mesh(mesh: MeshConfig) -> Iterator[Problem]:
    most = 65_536 - PORTS_USED
    if not 0 < mesh.port <= most:
        yield Problem(
            "mesh.port",
            f"{mesh.port} is not usable: the mesh takes {PORTS_USED} ports from it on",
            f"use 1 to {most}",
        )
    low, high = MTUS
    if mesh.mtu and not low <= mesh.mtu <= high:
        yield Problem("mesh.mtu", f"{mesh.mtu} is no MTU of a mesh", f"use 0, or {low} to {high}")
    yield from check_latency(mesh.latency)


def check_latency(texts: tuple[str, ...]) -> Iterator[Problem]:
    seen: dict[frozenset[str], str] = {}
    for text in texts:
        match = re.fullmatch(LATENCY, text)
        if match is None:
            yield Problem(
                "mesh.latency",
                f"{text!r} is not two regions and their round-trip time",
                'write it as in "ams fra 8", in milliseconds',
            )
            continue
        pair = frozenset(match.group(1, 2))
        if len(pair) == 1:
            yield Problem("mesh.latency", f"{text!r} names one region twice", "name two")
        elif pair in seen:
            yield Problem("mesh.latency", f"{text!r} repeats {seen[pair]!r}", "remove one of them")
        seen.setdefault(pair, text)


def check_etcd(etcd: EtcdConfig) -> Iterator[Problem]:
    if not etcd.endpoints:
        yield Problem(
            "etcd.endpoints",
            'is missing, with store = "etcd"',
            'name the members, as in ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]',
        )
    for text in sorted({text for text in etcd.endpoints if etcd.endpoints.count(text) > 1}):
        yield Problem("etcd.endpoints", f"{text!r} is listed twice", "list it once")
    for text in etcd.endpoints:
        if not is_member(text):
            yield Problem(
                "etcd.endpoints",
                f"{text!r} is not the URL of a member",
                "write it as in https://10.0.0.1:2379",
            )
    yield from check_tls_keys(etcd)
    if not re.fullmatch(r"/([A-Za-z0-9._-]+/){1,8}", etcd.prefix) or len(etcd.prefix) > 200:
        yield Problem(
            "etcd.prefix",
            f"{etcd.prefix!r} cannot be the start of keys",
            "use letters and digits between slashes, as in /flyebpf/",
        )
    low, high = TIMEOUTS
    if not low <= etcd.timeout <= high:
        yield Problem(
            "etcd.timeout", f"{etcd.timeout} seconds is no timeout", f"use {low} to {high}"
        )


def is_member(text: str) -> bool:
    """``http://host:port`` or ``https://host:port``, and nothing more."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    bare = SplitResult(url.scheme, url.netloc, "", "", "")
    return (
        url in (bare, bare._replace(path="/"))
        and url.scheme in ("http", "https")
        and bool(re.fullmatch(r"\[[0-9a-fA-F:.]+\](:\d+)?|[A-Za-z0-9.-]+(:\d+)?", url.netloc))
        and port != 0
    )


def check_tls_keys(etcd: EtcdConfig) -> Iterator[Problem]:
    """What is there of the TLS settings makes sense together."""
    schemes = {urlsplit(text).scheme for text in etcd.endpoints if is_member(text)}
    if len(schemes) > 1:
        yield Problem("etcd.endpoints", "has both http and https", "use https for all of them")
    for key in ("ca", "cert", "key"):
        path = getattr(etcd, key)
        if path and schemes == {"http"}:
            yield Problem(
                f"etcd.{key}", "is given, but the endpoints are http", "write them with https"
            )
        if path and not path.startswith("/"):
            yield Problem(f"etcd.{key}", f"{path!r} is not an absolute path", "start it with /")
    for one, other in (("cert", "key"), ("key", "cert")):
        if getattr(etcd, one) and not getattr(etcd, other):
            yield Problem(f"etcd.{other}", f"is missing: etcd.{one} is given", "give both")


def check_tls(etcd: EtcdConfig) -> Iterator[Problem]:
    """The files are there, are what they should be, and the key is secret."""
    sound = True
    for name in ("ca", "cert", "key"):
        path = getattr(etcd, name)
        try:
            mode = Path(path).stat().st_mode if path else 0
            if path:
                Path(path).read_bytes()
        except OSError as error:
            sound = False
            yield Problem(
                f"etcd.{name}",
                f"{path} cannot be read: {error.strerror}",
                "put the PEM file there, readable for root",
            )
            continue
        if name == "key" and mode & 0o007:
            yield Problem("etcd.key", f"{path} is open to everybody", f"run: chmod 600 {path}")
    if sound:
        yield from check_pem(etcd)


def check_pem(etcd: EtcdConfig) -> Iterator[Problem]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if etcd.ca:
            context.load_verify_locations(etcd.ca)
    except (ssl.SSLError, OSError):
        yield Problem("etcd.ca", f"{etcd.ca} holds no certificate", "give a PEM file")
    try:
        if etcd.cert and etcd.key:
            context.load_cert_chain(etcd.cert, etcd.key, password=lambda: b"")
    except ssl.SSLError as error:
        mismatch = "KEY_VALUES_MISMATCH" in str(error)
        yield Problem(
            "etcd.key" if mismatch else "etcd.cert",
            f"{etcd.key} is not the key of {etcd.cert}"
            if mismatch
            else f"{etcd.cert} and {etcd.key} are no certificate and its key",
            "give PEM files that belong together, the key without a passphrase",
        )
