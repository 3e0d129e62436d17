# SPDX-License-Identifier: Apache-2.0
"""From state to rows, owner by owner.

An owner's rows follow from the state alone, so planning again the owners that
a change touches gives what planning everything would.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from flyebpf.config import DaemonConfig
from flyebpf.model.records import Address, AnyRecord, App, Cluster, Deployment, Machine
from flyebpf.model.rows import Row
from flyebpf.model.state import State, Update
from flyebpf.plan.apps import plan_app
from flyebpf.plan.host import plan_host
from flyebpf.plan.machines import plan_machine
from flyebpf.plan.services import Router
from flyebpf.plan.site import Owner, Plan, Site

HOST: Owner = ("host",)


class Planner:
    """Plans for the host of ``config``.

    ``problems``: what of each owner could not be planned at its last
    :meth:`rows`, with the remedy; owners without problems are absent.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self._site = Site.of(config)
        self._router = Router(self._site)
        self.problems: dict[Owner, list[str]] = {}

    def all_owners(self, state: State) -> Set[Owner]:
        """Everybody who may have rows; apps with their machines, which is the
        cheapest order to plan them in."""
        owners: dict[Owner, None] = {HOST: None}
        for app in state.app_names():
            owners["app", app] = None
            owners.update(dict.fromkeys(self._machines(state.machines_of(app))))
        return owners.keys()

    def owners(self, update: Update, state: State) -> set[Owner]:
        """Whose rows ``update`` may have changed; ``state`` is as it is after it."""
        owners: set[Owner] = set()
        for record in (update.before, update.after):
            if record is not None:
                owners |= self._touched(record, state)
        if owners == {HOST} and _same_seed(update.before, update.after):
            return set()
        return owners

    def rows(self, state: State, owner: Owner) -> list[Row]:
        """The rows of one owner, and its entry in ``problems``.

        Raises ValueError for an owner of no known kind.
        """
        plan = self._plan(state, owner)
        if plan.problems:
            self.problems[owner] = plan.problems
        else:
            self.problems.pop(owner, None)
        return plan.rows

    def _plan(self, state: State, owner: Owner) -> Plan:
        match owner:
            case ("machine", ident):
                return plan_machine(self._site, state, self._router, ident)
            case ("app", name):
                return plan_app(self._site, state, self._router.routes(state, name))
            case ("host",):
                return plan_host(self._site, state)
        raise ValueError(f"no such owner: {owner}")

    def _machines(self, machines: Iterable[Machine]) -> list[Owner]:
        """Those of this host."""
        here = self._site.config.host
        return [("machine", machine.id) for machine in machines if machine.host == here]

    def _touched(self, record: AnyRecord, state: State) -> set[Owner]:
        match record:
            case Cluster():
                return {HOST}
            case App(name=app) | Deployment(app=app) | Address(app=app):
                return {("app", app), *self._machines(state.machines_of(app))}
            case Machine():
                return self._touched_by_machine(record, state)
        return set()

    def _touched_by_machine(self, machine: Machine, state: State) -> set[Owner]:
        """The machine, and whoever claims the same interface or addresses: it
        may be their turn now, or no longer."""
        rivals = {
            rival.id: rival
            for rivals in (
                state.machines_at(machine.host, machine.interface),
                state.machines_with_ip(machine.private_ip),
                state.machines_with_ip(machine.services_ip),
            )
            for rival in rivals
        }
        rivals[machine.id] = machine
        owners: set[Owner] = {("app", rival.app) for rival in rivals.values()}
        return owners.union(self._machines(rivals.values()))


def _same_seed(before: AnyRecord | None, after: AnyRecord | None) -> bool:
    """The cluster's counters change with every machine; no row has them."""
    return isinstance(before, Cluster) and isinstance(after, Cluster) and before.seed == after.seed
