# SPDX-License-Identifier: Apache-2.0
"""The commands by which a host starts and stops its machines: what is put in for
their placeholders, and what they get in their environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from flyebpf.config import MachinesConfig
from flyebpf.model.records import Machine, MachineState

PLACEHOLDERS = (
    *("id", "app", "name", "group", "region", "host"),
    *("interface", "mac", "private_ip", "services_ip", "ip_6pn"),
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_]*)\}")

ORDERS: Mapping[MachineState, tuple[MachineState, str, str]] = {
    MachineState.STARTED: (MachineState.STARTING, "start", "started"),
    MachineState.STOPPED: (MachineState.STOPPING, "stop", "stopped"),
    MachineState.SUSPENDED: (MachineState.SUSPENDING, "suspend", "suspended"),
}
"""What a machine is to be: the order for it, its command, and the word for it."""

GOALS: Mapping[MachineState, MachineState] = {order: goal for goal, (order, _, _) in ORDERS.items()}
"""Orders, and what a machine is when they have been carried out."""


def commands_of(config: MachinesConfig) -> tuple[str, ...]:
    """What a host with this configuration can do by itself."""
    return tuple(verb for verb in ("start", "stop", "suspend") if getattr(config, verb))


def values(machine: Machine, ip_6pn: str) -> dict[str, str]:
    """Of a machine's placeholders."""
    return {
        name: ip_6pn if name == "ip_6pn" else str(getattr(machine, name)) for name in PLACEHOLDERS
    }


def words(command: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """The command with the values put in. A value stays part of its word, whatever
    characters it has."""
    return [_PLACEHOLDER.sub(lambda found: given[found[1]], word) for word in command]


def unknown_placeholders(command: Sequence[str]) -> Iterator[str]:
    for word in command:
        yield from (name for name in _PLACEHOLDER.findall(word) if name not in PLACEHOLDERS)


def environment(action: str, given: Mapping[str, str]) -> dict[str, str]:
    """All that a command gets: nothing of the daemon's own."""
    named = {f"FLYEBPF_MACHINE_{name.upper()}": value for name, value in given.items()}
    return {"PATH": PATH, "LANG": "C.UTF-8", "FLYEBPF_ACTION": action, **named}
