# SPDX-License-Identifier: Apache-2.0
"""Public addresses of apps, from the operator's pools."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from flyebpf.config import DaemonConfig
from flyebpf.errors import ExhaustedError, InvalidError, NotFoundError, UnavailableError
from flyebpf.model import names
from flyebpf.model.records import Address, AddressKind, App
from flyebpf.ops import pools
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store


def allocate_v4(store: Store, config: DaemonConfig, app: str) -> Address:
    """A dedicated Anycast IPv4 address for the app.

    Raises ExhaustedError when the pool is full and UnavailableError when the
    operator has configured none.
    """
    app = names.app_name(app)
    cidrs = config.pools.anycast_v4
    if not cidrs:
        raise UnavailableError(
            "no pool of Anycast IPv4 addresses is configured",
            "add one to `pools.anycast_v4` in the daemon's configuration",
        )
    blocks = [pools.routed(cidr) for cidr in cidrs]

    def action(tx: Tx) -> Address:
        owner = tx.require(App, app)
        text = pools.take(tx, AddressKind.V4, blocks, Address)
        if text is None:
            raise ExhaustedError(
                f"the pool pools.anycast_v4 ({', '.join(cidrs)}) has no free address",
                "release one (`flyebpf ips release`) or add a pool to the daemon's configuration",
            )
        address = Address(text, app, AddressKind.V4, created=_now())
        tx.put(address)
        tx.touch(owner)  # so that destroying the app at the same time sees the address
        return address

    return transact(store, action)


def list_all(store: Store, app: str | None = None) -> list[Address]:
    """All addresses, or an app's; NotFoundError if there is no such app."""
    if app is None:
        return every(store, Address)
    return every(store, Address, app=find(store, App, names.app_name(app)).name)


def release(store: Store, app: str, addresses: Sequence[str]) -> list[Address]:
    """Take addresses from the app, all or none.

    Raises NotFoundError for one that the app does not have.
    """
    app = names.app_name(app)
    wanted = list(dict.fromkeys(names.ip_address(text) for text in addresses))
    if not wanted:
        raise InvalidError(
            "no address to release was given", f"`flyebpf ips list -a {app}` shows them"
        )

    def action(tx: Tx) -> list[Address]:
        tx.require(App, app)
        released = [_owned(tx, app, text) for text in wanted]
        for address in released:
            remove(tx, address)
        return released

    return transact(store, action)


def remove(tx: Tx, address: Address) -> None:
    """Free an address in this transaction, if it is still the same app's."""
    current = tx.get(Address, address.address)
    if current is None or current.app != address.app:
        return
    tx.delete(Address, address.address)
    pools.give_back(tx, address.type, address.address)


def _owned(tx: Tx, app: str, text: str) -> Address:
    address = tx.get(Address, text)
    if address is not None and address.app == app:
        return address
    # No guess at what was meant: taken up, it would release another address.
    raise NotFoundError(
        f"app {app!r} does not have the address {text}; nothing was released",
        f"`flyebpf ips list -a {app}` shows its addresses",
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
