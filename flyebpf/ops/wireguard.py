# SPDX-License-Identifier: Apache-2.0
"""Users' own computers in a private network, over WireGuard (contract, section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_address

from flyebpf import wireguardkeys
from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, ExhaustedError, UnavailableError
from flyebpf.model import names, sixpn
from flyebpf.model.records import (
    PEERS_KEY,
    PEERS_PORT,
    Host,
    Network,
    Organization,
    Pool,
    WireguardPeer,
)
from flyebpf.ops.transact import Tx, every, find, sound, transact
from flyebpf.store.base import Store

_NUMBERS = 256
_KEEPALIVE = 15  # seconds
PRIVATE_ZONES = ("internal", "flycast")
"""What only a private network's server knows, besides reverse names."""


@dataclass(frozen=True, slots=True)
class Created:
    """A new peer, and the text of its computer's configuration. The text holds
    the private key, which is nowhere else, where one was made."""

    peer: WireguardPeer
    config: str


def pool_name(host: str) -> str:
    """The pool of a gateway's numbers. Whoever adds a peer writes its record."""
    return f"wireguard/{host}"


def create(
    store: Store,
    config: DaemonConfig,
    name: str,
    org: str,
    *,
    network: str = names.DEFAULT_NETWORK,
    host: str | None = None,
    public_key: str | None = None,
) -> Created:
    """A peer that connects to ``host`` (default: this one) and is in ``network``.

    ``public_key``: of a key pair that the user has; without it one is made.
    Raises NotFoundError for a network or host that is not there, ConflictError
    when the name or the key is taken, UnavailableError when the gateway takes
    no peers, and ExhaustedError when it has 256 of the network.
    """
    org, network = names.org_name(org), names.network_name(network)
    name, gateway = names.peer_name(name), names.host_name(host or config.host)
    private = ""
    if public_key is None:
        private, public_key = wireguardkeys.generate()
    wanted = WireguardPeer(
        org, network, name, gateway, wireguardkeys.public_key(public_key), "", _now()
    )

    def action(tx: Tx) -> tuple[WireguardPeer, Network, Host]:
        tx.require(Organization, org)
        place = tx.require(Network, f"{org}/{network}")
        at = _gateway(tx, gateway)
        if tx.get(WireguardPeer, wanted.ident) is not None:
            raise ConflictError(
                f"organization {org!r} has a WireGuard peer {name!r} already",
                f"choose another name; `flyebpf wireguard list -o {org}` shows all",
            )
        number = _free_number(tx, wanted)
        with sound(f"host {at.name} or of network {place.ident}"):
            ip_address(_reached_at(at))
            address = sixpn.peer_prefix(place.number, at.number, number)
        peer = replace(wanted, address=address)
        tx.put(peer)
        return peer, place, at

    peer, place, at = transact(store, action)
    return Created(peer, _config_text(peer, place, at, private))


def get(store: Store, org: str, name: str) -> WireguardPeer:
    """The peer; NotFoundError if there is none."""
    return find(store, WireguardPeer, f"{names.org_name(org)}/{names.peer_name(name)}")


def list_all(store: Store, org: str | None = None) -> list[WireguardPeer]:
    """All peers, or an organization's; NotFoundError if there is no such one."""
    if org is None:
        return every(store, WireguardPeer)
    owner = find(store, Organization, names.org_name(org)).name
    return every(store, WireguardPeer, org=owner)


def remove(store: Store, org: str, name: str) -> WireguardPeer:
    """Forget the peer: its gateway takes no more packets from it."""
    ident = f"{names.org_name(org)}/{names.peer_name(name)}"

    def action(tx: Tx) -> WireguardPeer:
        peer = tx.require(WireguardPeer, ident)
        tx.delete(WireguardPeer, ident)
        return peer

    return transact(store, action)


def own_address(peer: WireguardPeer) -> str:
    """The one address that the computer uses of the peer's /120, ``…02``."""
    return str(IPv6Network(peer.address).network_address + 2)


def _gateway(tx: Tx, name: str) -> Host:
    host = tx.require(Host, name)
    if not host.endpoint:
        raise UnavailableError(
            f"host {name!r} has no address at which a WireGuard peer could reach it",
            "set mesh.endpoint in its configuration, or name another gateway with --gateway",
        )
    if not _reached_at(host):
        raise UnavailableError(
            f"the endpoint {host.endpoint} of host {name!r} is its address on the plain fabric, "
            "which users do not reach",
            "set mesh.users_endpoint in its configuration to the address at which they reach it, "
            "and restart its daemon; or name another gateway with --gateway",
        )
    if PEERS_KEY not in host.keys:
        raise UnavailableError(
            f"host {name!r} takes no WireGuard peers: it has published no key for them",
            "its daemon does that when it runs; `flyebpf status` there says what is wrong",
        )
    return host


def _reached_at(gateway: Host) -> str:
    """Where users' peers reach it; "" where that is not known."""
    own = "" if gateway.underlay == "plain" else gateway.endpoint
    return gateway.users_endpoint or own


def _free_number(tx: Tx, wanted: WireguardPeer) -> int:
    """A number of (network, gateway), the longest unused first. Also refuses a
    key that the gateway knows: WireGuard would take it for the same peer, and
    one network's packets would come in as another's."""
    pool = tx.get(Pool, pool_name(wanted.host)) or Pool(pool_name(wanted.host))
    others = every(tx.store, WireguardPeer, host=wanted.host)
    for other in others:
        if other.public_key == wanted.public_key:
            raise ConflictError(
                f"the public key is that of WireGuard peer {other.ident} on host {other.host!r}",
                "make a key pair for each peer",
            )
    place = f"{wanted.org}/{wanted.network}"
    taken = {_number(o.address) for o in others if f"{o.org}/{o.network}" == place}
    number = _next_free(taken, pool.positions.get(place, 0))
    if number is None:
        raise ExhaustedError(
            f"network {place} has {_NUMBERS} WireGuard peers on host {wanted.host!r}: all numbers "
            "are taken",
            "remove one (`flyebpf wireguard remove`), or name another gateway with --gateway",
        )
    tx.put(replace(pool, positions={**pool.positions, place: (number + 1) % _NUMBERS}))
    return number


def _next_free(taken: set[int | None], start: int) -> int | None:
    candidates = ((start + step) % _NUMBERS for step in range(_NUMBERS))
    return next((number for number in candidates if number not in taken), None)


def _number(prefix: str) -> int | None:
    """None in a record that nobody of us wrote."""
    try:
        return int(IPv6Network(prefix).network_address) >> 8 & 255
    except ValueError:
        return None


def _config_text(peer: WireguardPeer, network: Network, gateway: Host, private: str) -> str:
    key = (
        f"PrivateKey = {private}"
        if private
        else f"# PrivateKey = (the one whose public half is {peer.public_key})"
    )
    endpoint = _endpoint(_reached_at(gateway), gateway.port + PEERS_PORT)
    lines: Sequence[str] = (
        f"# WireGuard peer {peer.name} of organization {peer.org}, network {peer.network},",
        f"# through host {gateway.name}",
        "[Interface]",
        key,
        f"Address = {own_address(peer)}/120",
        f"DNS = {sixpn.network_nameserver(network.number)}",
        *_split_dns(network.number),
        "",
        "[Peer]",
        f"PublicKey = {gateway.keys[PEERS_KEY]}",
        f"AllowedIPs = {sixpn.network_prefix(network.number)}",
        f"Endpoint = {endpoint}",
        f"PersistentKeepalive = {_KEEPALIVE}",
    )
    return "\n".join(lines) + "\n"


def _split_dns(number: int) -> Sequence[str]:
    """How a computer asks for private names alone, and its own resolvers for the
    rest: every system says it otherwise, so these are comments."""
    server = sixpn.network_nameserver(number)
    zones = (*PRIVATE_ZONES, _reverse_zone(number))
    linux = " ".join(f"~{zone}" for zone in zones)
    windows = ",".join(f"'.{zone}'" for zone in zones)
    return (
        "# With this line all names are asked of the private network's server, which knows",
        "# the world's names too. To ask it for private names alone, take the line out, and",
        "# Linux (systemd-resolved): add here",
        f"#   PostUp = resolvectl dns %i {server}; resolvectl domain %i {linux}",
        f"# macOS: sudo mkdir -p /etc/resolver; for zone in {' '.join(zones)};",
        f'#   do echo "nameserver {server}" | sudo tee /etc/resolver/$zone; done',
        "# Windows (PowerShell, as administrator):",
        f"#   Add-DnsClientNrptRule -Namespace {windows} -NameServers {server}",
    )


def _reverse_zone(number: int) -> str:
    """Of a network's addresses, without a dot at its end."""
    digits = IPv6Network(sixpn.network_prefix(number)).network_address.exploded.replace(":", "")
    return ".".join(reversed(digits[:12])) + ".ip6.arpa"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
