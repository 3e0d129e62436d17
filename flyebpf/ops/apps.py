# SPDX-License-Identifier: Apache-2.0
"""Apps: what machines, services and addresses belong to."""

from __future__ import annotations

from flyebpf.errors import ConflictError
from flyebpf.model import names
from flyebpf.model.records import App, Deployment, Machine, Organization, Wake
from flyebpf.ops import addresses, certificates, networks
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

_NAMED_IN_ERROR = 5


def create(store: Store, name: str, org: str, network: str = names.DEFAULT_NETWORK) -> App:
    """A new app of ``org`` on ``network``, for its whole life.

    Raises ConflictError when the name is taken (names are unique over all
    organizations) and NotFoundError when there is no such organization.
    """
    app = App(names.app_name(name), names.org_name(org), names.network_name(network))

    def action(tx: Tx) -> App:
        tx.require(Organization, app.org)
        if tx.get(App, app.name) is not None:
            raise ConflictError(
                f"app {app.name!r} exists already",
                "choose another name; `flyebpf apps list` shows all",
            )
        networks.bind(tx, app.org, app.network)
        tx.put(app)
        return app

    return transact(store, action)


def get(store: Store, name: str) -> App:
    """The app; NotFoundError if there is none."""
    return find(store, App, names.app_name(name))


def list_all(store: Store) -> list[App]:
    """All apps, by name."""
    return every(store, App)


def destroy(store: Store, name: str) -> App:
    """Remove the app with its deployment, and before that its addresses and its
    certificates, some at a time: when it fails in between, it can be run again.

    Its machines must have been removed before: each is an interface with a VM
    behind it, which whoever runs the VM takes away. ConflictError names them.
    The app's network keeps its number.
    """
    name = names.app_name(name)
    find(store, App, name)
    _refuse_with_machines(every(store, Machine, app=name), name)
    certificates.clear(store, name)
    addresses.clear(store, name)

    def action(tx: Tx) -> App:
        app = tx.require(App, name)
        _refuse_with_machines(every(tx.store, Machine, app=name), name)
        addresses.remove_of(tx, name)
        certificates.remove_of(tx, name)
        for entry in tx.store.list(Wake.kind):
            if entry.id.startswith(f"{name}/"):
                tx.delete(Wake, entry.id)
        tx.get(Deployment, name)  # a deploy at the same time makes this one start again
        tx.delete(Deployment, name)
        tx.delete(App, name)
        return app

    return transact(store, action)


def _refuse_with_machines(machines: list[Machine], app: str) -> None:
    if not machines:
        return
    shown = ", ".join(machine.id for machine in machines[:_NAMED_IN_ERROR])
    more = len(machines) - _NAMED_IN_ERROR
    raise ConflictError(
        f"app {app!r} still has {len(machines)} machine{'s' if len(machines) > 1 else ''}: "
        f"{shown}{f' and {more} more' if more > 0 else ''}",
        f"remove them first: `flyebpf machines remove {machines[0].id}`",
    )
