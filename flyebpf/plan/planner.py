# SPDX-License-Identifier: Apache-2.0
"""From state to rows, owner by owner.

An owner's rows follow from the state alone, so planning again the owners that
a change touches gives what planning everything would.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Set

from flyebpf.config import DaemonConfig
from flyebpf.model.rows import Row
from flyebpf.model.state import State, Update
from flyebpf.plan.apps import plan_app
from flyebpf.plan.autostart import Choice, choose
from flyebpf.plan.host import plan_host
from flyebpf.plan.hosts import Lookout
from flyebpf.plan.machines import plan_machine
from flyebpf.plan.mesh import plan_neighbour
from flyebpf.plan.names import plan_names
from flyebpf.plan.networks import plan_peer
from flyebpf.plan.proxy import plan_proxy
from flyebpf.plan.services import Router
from flyebpf.plan.site import Owner, Plan, Site
from flyebpf.plan.touched import Touched

log = logging.getLogger(__name__)
_APART = ("app", "machine", "mesh", "names", "proxy", "wireguard")
"""Owners without whose rows the others' are as good as before."""
_REMEDY = "look for a damaged record of it in the store, and remove it or make it anew"


class Planner:
    """Plans for the host of ``config``.

    ``problems``: what of each owner could not be planned at its last
    :meth:`rows`, with the remedy; owners without problems are absent.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self._site = Site.of(config)
        self._router = Router(self._site)
        self._lookout = Lookout(self._site)
        self.problems: dict[Owner, list[str]] = {}

    def all_owners(self, state: State) -> Set[Owner]:
        """Everybody who may have rows; apps with their machines, which is the
        cheapest order to plan them in. Problems of others are forgotten."""
        owners = self._touched(state).everything().keys()
        for gone in self.problems.keys() - owners:
            del self.problems[gone]
        return owners

    def owners(self, update: Update, state: State) -> set[Owner]:
        """Whose rows ``update`` may have changed; ``state`` is as it is after it."""
        return self._touched(state).by(update)

    def choice(self, state: State, app: str, groups: Container[str]) -> Choice:
        """The machines that clients of these process groups may be led to."""
        return choose(self._site, state, self._lookout.hosts(state), app, groups)

    def _touched(self, state: State) -> Touched:
        return Touched(self._site, state, self._lookout.hosts(state))

    def rows(self, state: State, owner: Owner) -> list[Row]:
        """The rows of one owner, and its entry in ``problems``.

        One that cannot be planned, as nobody foresaw a record that it depends on,
        has none: one record must not end the daemons of all hosts. Without the
        host's own rows there would be nothing left. Raises ValueError for an owner
        of no known kind.
        """
        try:
            plan = self._plan(state, owner)
        except Exception as error:
            if owner[0] not in _APART:
                raise
            log.exception("a fault of flyebpf itself: %s cannot be planned", " ".join(owner))
            plan = Plan(problems=[f"{' '.join(owner)} cannot be planned ({error!r}): {_REMEDY}"])
        if plan.problems:
            self.problems[owner] = plan.problems
        else:
            self.problems.pop(owner, None)
        return plan.rows

    def _plan(self, state: State, owner: Owner) -> Plan:
        site, hosts = self._site, self._lookout.hosts(state)
        match owner:
            case ("machine", ident):
                plan = plan_machine(site, state, self._router, hosts, ident)
            case ("app", name):
                plan = plan_app(site, state, hosts, self._router.routes(state, name))
            case ("proxy", name):
                plan = plan_proxy(site, state, hosts, self._router.routes(state, name))
            case ("names", name):
                plan = plan_names(state, site.config.host, name)
            case ("mesh", name):
                plan = plan_neighbour(site, hosts, state, name)
            case ("wireguard", ident):
                plan = plan_peer(site, hosts, state, ident)
            case ("host",):
                plan = plan_host(site, state, hosts)
            case _:
                raise ValueError(f"no such owner: {owner}")
        return plan
