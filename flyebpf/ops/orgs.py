# SPDX-License-Identifier: Apache-2.0
"""Organizations: the tenants."""

from __future__ import annotations

from flyebpf.errors import ConflictError
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
