# SPDX-License-Identifier: Apache-2.0
"""Flycast addresses: an app's private address on a network (contract, section 5)."""

from __future__ import annotations

from dataclasses import replace

from flyebpf.config import DaemonConfig
from flyebpf.errors import ExhaustedError, InvalidError
from flyebpf.model import names, shared, sixpn
from flyebpf.model.records import (
    Address,
    AddressKind,
    App,
    Deployment,
    Network,
    Organization,
    Pool,
)
from flyebpf.ops.addresses import need_proxy, now
from flyebpf.ops.transact import Tx, every, sound, transact
from flyebpf.store.base import Store

_NEXT = "next"
_LAST = (1 << 32) - 1


def allocate(
    store: Store,
    config: DaemonConfig,
    app: str,
    *,
    network: str | None = None,
    org: str | None = None,
) -> Address:
    """The app's Flycast address on a network, a new one if it has none there.

    ``network`` and ``org`` name the network that callers come from: that of the
    app itself, or the one named ``network`` (else ``default``) of ``org`` (else
    the app's). Raises NotFoundError for what does not exist, InvalidError for an
    app whose deployment has no service or forces https.
    """
    app = names.app_name(app)
    network = names.network_name(network) if network is not None else None
    org = names.org_name(org) if org is not None else None
    need_proxy(config, "a Flycast address")

    def action(tx: Tx) -> Address:
        owner = tx.require(App, app)
        place = _callers(tx, owner, network, org)
        deployment = tx.get(Deployment, app)
        if deployment is not None:
            check(deployment)
        address = give(tx, owner, place)
        tx.touch(owner)  # so that destroying the app at the same time sees the address
        return address

    return transact(store, action)


def _callers(tx: Tx, owner: App, network: str | None, org: str | None) -> Network:
    if network is None and org is None:
        return tx.require(Network, f"{owner.org}/{owner.network}")
    tx.require(Organization, org or owner.org)
    return tx.require(Network, f"{org or owner.org}/{network or names.DEFAULT_NETWORK}")


def give(tx: Tx, owner: App, place: Network) -> Address:
    """The app's address on ``place``, allocated in this transaction if it has none.

    Numbers count up in each network and are never used again: whoever has kept
    an old address reaches nobody.
    """
    wanted = Address(
        "", owner.name, AddressKind.PRIVATE_V6, place.name, created=now(), org=place.org
    )
    same = {"app": owner.name, "type": wanted.type.value, "org": place.org, "network": place.name}
    for address in every(tx.store, Address, **same):
        if (current := tx.get(Address, address.ident)) is not None:
            return current
    pool = tx.get(Pool, f"flycast/{place.ident}") or Pool(f"flycast/{place.ident}")
    number = max(pool.positions.get(_NEXT, 1), 1)
    if number > _LAST:
        raise ExhaustedError(
            f"network {place.ident} has no Flycast address left: all 2^32 have been used",
            "use another network",
        )
    with sound(f"network {place.ident}"):
        text = sixpn.flycast_address(place.number, number)
    address = replace(wanted, address=text)
    tx.put(replace(pool, positions={_NEXT: number + 1}))
    tx.put(address)
    return address


def check(deployment: Deployment) -> None:
    """Raises InvalidError for a deployment that a Flycast address cannot serve."""
    app = deployment.app
    if not deployment.services:
        raise InvalidError(
            f"app {app} has no service that a Flycast address could lead to",
            "add [[services]] to its fly.toml and deploy it first",
        )
    forced = list(shared.forcing_https(deployment.services))
    if forced:
        raise InvalidError(
            f"app {app} forces https, which Flycast cannot: {', '.join(forced)}",
            "set force_https = false there and deploy again; callers are on a private network",
        )
