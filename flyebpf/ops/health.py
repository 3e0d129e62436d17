# SPDX-License-Identifier: Apache-2.0
"""Results of health checks, as hosts publish them of their own machines."""

from __future__ import annotations

from collections.abc import Mapping

from flyebpf.model.health import CheckResult, MachineChecks
from flyebpf.model.records import Machine
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store


def publish(store: Store, host: str, results: Mapping[str, tuple[CheckResult, ...]]) -> None:
    """By machine; none: nothing is known of it any more. Of machines that are gone or
    another host's, nothing is written."""

    def action(tx: Tx) -> None:
        for ident, found in results.items():
            machine = tx.get(Machine, ident)
            if machine is None:
                tx.delete(MachineChecks, ident)
            elif machine.host == host and found:
                tx.put(MachineChecks(ident, found))
            elif machine.host == host:
                tx.delete(MachineChecks, ident)

    transact(store, action)
