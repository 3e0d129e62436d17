# SPDX-License-Identifier: Apache-2.0
"""Addresses of apps: public ones from the operator's pools, Flycast ones on
private networks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b

from flyebpf.config import DaemonConfig
from flyebpf.errors import ExhaustedError, InvalidError, NotFoundError, UnavailableError
from flyebpf.model import names, shared
from flyebpf.model.records import Address, AddressKind, App, Deployment, shared_ident
from flyebpf.ops import pools
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

POOLED = frozenset((AddressKind.V4, AddressKind.V6, AddressKind.EGRESS))
"""Kinds of which each address has one owner and rests when it is released."""

_PIECE = 500  # addresses; etcd takes some 4,000 writes at once, and each makes two
POOLS = {
    AddressKind.V4: ("IPv4", "pools.anycast_v4"),
    AddressKind.V6: ("IPv6", "pools.anycast_v6"),
}
"""What their addresses are called, and where the configuration has them."""


def allocate_v4(store: Store, config: DaemonConfig, app: str) -> Address:
    """A dedicated Anycast IPv4 address for the app.

    Raises ExhaustedError when the pool is full and UnavailableError when the
    operator has configured none.
    """
    return _allocate(store, config, app, AddressKind.V4)


def allocate_v6(store: Store, config: DaemonConfig, app: str) -> Address:
    """A dedicated Anycast IPv6 address for the app, of the first
    ``dataplane.pool6_addresses`` of a pool. Raises as :func:`allocate_v4`."""
    return _allocate(store, config, app, AddressKind.V6)


def _allocate(store: Store, config: DaemonConfig, app: str, kind: AddressKind) -> Address:
    app = names.app_name(app)

    def action(tx: Tx) -> Address:
        owner = tx.require(App, app)
        address = dedicate(tx, config, app, kind)
        tx.touch(owner)  # so that destroying the app at the same time sees the address
        return address

    return transact(store, action)


def dedicate(tx: Tx, config: DaemonConfig, app: str, kind: AddressKind) -> Address:
    """An address of the app's own, given to it in this transaction. Raises as
    :func:`allocate_v4`."""
    family, key = POOLS[kind]
    v6 = kind is AddressKind.V6
    cidrs = config.pools.anycast_v6 if v6 else config.pools.anycast_v4
    if not cidrs:
        raise UnavailableError(
            f"no pool of Anycast {family} addresses is configured",
            f"add one to `{key}` in the daemon's configuration",
        )
    most = config.dataplane.pool6_addresses if v6 else None
    text = pools.take(tx, kind, [pools.routed(cidr, most) for cidr in cidrs], Address)
    if text is None:
        raise ExhaustedError(
            f"the pool {key} ({', '.join(cidrs)}) has no free address",
            "release one (`flyebpf ips release`) or add a pool to the daemon's configuration",
        )
    address = Address(text, app, kind, created=now())
    tx.put(address)
    return address


def allocate_shared_v4(store: Store, config: DaemonConfig, app: str) -> Address:
    """A shared Anycast IPv4 address for the app; the one that it has, if it has.

    Raises UnavailableError when there is no pool or no proxy, and InvalidError
    when the app's deployment has services, and none that a shared address carries.
    """
    app = names.app_name(app)
    need_proxy(config, "a shared IPv4 address")
    _need_shared_pool(config)

    def action(tx: Tx) -> Address:
        owner = tx.require(App, app)
        deployment = tx.get(Deployment, app)
        if deployment is not None:
            refuse_nothing_carried(deployment)
        address = share(tx, config, app)
        tx.touch(owner)  # so that destroying the app at the same time sees the address
        return address

    return transact(store, action)


def _need_shared_pool(config: DaemonConfig) -> None:
    if not config.pools.shared_v4:
        raise UnavailableError(
            "no pool of shared IPv4 addresses is configured",
            "add one to `pools.shared_v4` in the daemon's configuration, or give the app one of "
            "its own: flyebpf ips allocate-v4",
        )


def need_proxy(config: DaemonConfig, what: str) -> None:
    """Raises UnavailableError where no proxy runs."""
    if config.proxy.engine == "none":
        raise UnavailableError(
            f"{what} needs the proxy, which does not run here",
            'set proxy.engine = "envoy" in the configuration of all hosts',
        )


def share(tx: Tx, config: DaemonConfig, app: str) -> Address:
    """The app's shared address, given to it in this transaction if it has none.

    The app's name says which one of the pools: no place has to be kept, and apps
    are spread evenly.
    """
    for address in every(tx.store, Address, app=app, type=AddressKind.SHARED_V4.value):
        if (current := tx.get(Address, address.ident)) is not None:
            return current
    blocks = [pools.routed(cidr) for cidr in config.pools.shared_v4]
    place = int.from_bytes(blake2b(app.encode(), digest_size=8).digest(), "big")
    place %= sum(block.count for block in blocks)
    for block in blocks:
        if place < block.count:
            break
        place -= block.count
    address = Address(block[place], app, AddressKind.SHARED_V4, created=now())
    tx.put(address)
    return address


def refuse_nothing_carried(deployment: Deployment) -> None:
    """Raises InvalidError for services of which a shared address carries none."""
    services = deployment.services
    if not services or shared.carried(services):
        return
    found = "; ".join(f"{where}: {why}" for where, why in shared.misfits(services))
    app = deployment.app
    raise InvalidError(
        f"a shared IPv4 address carries no service of app {app}: {found}",
        f"change the handlers and deploy again, or give the app an address of its own: "
        f"flyebpf ips allocate-v4 -a {app}",
    )


def list_all(store: Store, app: str | None = None) -> list[Address]:
    """All addresses, or an app's; NotFoundError if there is no such app."""
    if app is None:
        return every(store, Address)
    return every(store, Address, app=find(store, App, names.app_name(app)).name)


def release(store: Store, app: str, addresses: Sequence[str]) -> list[Address]:
    """Take addresses from the app, all or none.

    Raises NotFoundError for one that the app does not have, and InvalidError for
    more than the store takes at once (etcd: some 2,000).
    """
    app = names.app_name(app)
    wanted = list(dict.fromkeys(names.ip_address(text) for text in addresses))
    if not wanted:
        raise InvalidError(
            "no address to release was given", f"`flyebpf ips list -a {app}` shows them"
        )

    def action(tx: Tx) -> list[Address]:
        owner = tx.require(App, app)
        released = [_owned(tx, app, text) for text in wanted]
        _remove(tx, released)
        tx.touch(owner)
        return released

    return transact(store, action)


def clear(store: Store, app: str) -> None:
    """Free all addresses of an app, some at a time; run again, it goes on."""

    def action(tx: Tx) -> int:
        owner = tx.require(App, app)
        found = every(tx.store, Address, app=app)[:_PIECE]
        _remove(tx, found)
        if found:
            tx.touch(owner)
        return len(found)

    while transact(store, action):
        pass


def remove_of(tx: Tx, app: str) -> None:
    """Free in this transaction, which deletes the app, what :func:`clear` has left
    or not seen."""
    _remove(tx, every(tx.store, Address, app=app))


def _remove(tx: Tx, addresses: Sequence[Address]) -> None:
    """Whoever gives an app an address, or takes one away, writes the app: with that
    guarded, the addresses need no guards of their own."""
    for address in addresses:
        tx.delete(Address, address.ident)
        if address.type in POOLED:
            pools.give_back(tx, address.type, address.address)


def _owned(tx: Tx, app: str, text: str) -> Address:
    for ident in (text, shared_ident(text, app)):
        address = tx.glance(Address, ident)
        if address is not None and address.app == app:
            return address
    # No guess at what was meant: taken up, it would release another address.
    raise NotFoundError(
        f"app {app!r} does not have the address {text}; nothing was released",
        f"`flyebpf ips list -a {app}` shows its addresses",
    )


def now() -> str:
    """RFC 3339, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
