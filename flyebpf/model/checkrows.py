# SPDX-License-Identifier: Apache-2.0
"""Desired rows of health checks: what this host asks of its own machines."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flyebpf.model.records import Check
from flyebpf.model.rows import Row


@dataclass(frozen=True, slots=True)
class CheckRow(Row):
    """``address``, ``port``: where the machine is asked, ``source``: from which IPv4
    address of this host. A ``ProxyTargetRow`` opens the way."""

    machine: str
    name: str
    address: str
    port: int
    source: str
    check: Check

    @property
    def key(self) -> Hashable:
        return (self.machine, self.name)
