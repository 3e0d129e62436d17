# SPDX-License-Identifier: Apache-2.0
"""Organizations: the tenants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flyebpf.errors import ConflictError, InvalidError, NotFoundError
from flyebpf.model import names
from flyebpf.model.records import Organization
from flyebpf.ops import networks
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store


def create(store: Store, name: str) -> Organization:
    """A new organization with its network ``default``.

    Raises ConflictError when the name is taken.
    """
    org = Organization(names.org_name(name))

    def action(tx: Tx) -> Organization:
        if tx.get(Organization, org.name) is not None:
            raise ConflictError(
                f"organization {org.name!r} exists already",
                "choose another name; `flyebpf orgs list` shows all",
            )
        tx.put(org)
        networks.bind(tx, org.name, names.DEFAULT_NETWORK)
        return org

    return transact(store, action)


def get(store: Store, name: str) -> Organization:
    """The organization; NotFoundError if there is none."""
    return find(store, Organization, names.org_name(name))


def list_all(store: Store) -> list[Organization]:
    """All organizations, by name."""
    return every(store, Organization)


def set_cross_network(store: Store, name: str, enabled: bool) -> Organization:
    """Whether the organization's apps may replay requests to each other whatever their
    networks. Raises NotFoundError."""
    return _change(store, name, lambda tx, org: replace(org, cross_network_replays=enabled))


def add_source(store: Store, name: str, source: str) -> Organization:
    """Let apps of another organization, ``source``, replay requests to those of this one.
    Raises NotFoundError for either, InvalidError where they are one."""
    source = names.org_name(source)

    def change(tx: Tx, org: Organization) -> Organization:
        if source == org.name:
            raise InvalidError(
                f"organization {source!r} is itself no source of its replays",
                "between its networks: `flyebpf orgs cross-network-replays enable -o "
                + source
                + "`",
            )
        tx.require(Organization, source)
        return replace(org, replay_sources=tuple(sorted({*org.replay_sources, source})))

    return _change(store, name, change)


def remove_source(store: Store, name: str, source: str) -> Organization:
    """The opposite. Raises NotFoundError also where ``source`` is none."""
    source = names.org_name(source)

    def change(tx: Tx, org: Organization) -> Organization:
        if source not in org.replay_sources:
            raise NotFoundError(
                f"organization {source!r} is no source of replays for {org.name!r}",
                f"`flyebpf orgs replay-sources list -o {org.name}` shows all",
            )
        return replace(org, replay_sources=tuple(x for x in org.replay_sources if x != source))

    return _change(store, name, change)


def _change(
    store: Store, name: str, change: Callable[[Tx, Organization], Organization]
) -> Organization:
    name = names.org_name(name)

    def action(tx: Tx) -> Organization:
        before = tx.require(Organization, name)
        after = change(tx, before)
        if after != before:
            tx.put(after)
        return after

    return transact(store, action)
