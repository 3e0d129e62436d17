# SPDX-License-Identifier: Apache-2.0
"""What the table [machines] must satisfy."""

from __future__ import annotations

import os
from collections.abc import Iterator

from flyebpf.config import DaemonConfig, MachinesConfig
from flyebpf.configrules import Problem
from flyebpf.model.commands import PLACEHOLDERS, unknown_placeholders

COMMANDS = ("start", "stop", "suspend", "status")
LIMITS = {"timeout": (1, 3600), "drain": (0, 86_400), "hold": (1, 600), "autostop": (1, 86_400)}


def check(config: DaemonConfig) -> list[Problem]:
    """Everything that is wrong with the values."""
    return [*_commands(config.machines), *_seconds(config.machines)]


def check_files(config: DaemonConfig) -> list[Problem]:
    """Whether the programs are there."""
    found = []
    for name in COMMANDS:
        command = getattr(config.machines, name)
        if command and not (os.path.isfile(command[0]) and os.access(command[0], os.X_OK)):
            found.append(
                Problem(f"machines.{name}", f"{command[0]!r} is no program", "correct the path")
            )
    return found


def _commands(config: MachinesConfig) -> Iterator[Problem]:
    for name in COMMANDS:
        key, command = f"machines.{name}", getattr(config, name)
        if command and not command[0].startswith("/"):
            yield Problem(key, f"{command[0]!r} is not an absolute path", "start it with /")
        for word in unknown_placeholders(command):
            yield Problem(
                key,
                f"{{{word}}} is not known",
                "use " + ", ".join(f"{{{known}}}" for known in PLACEHOLDERS),
            )
        if name != "start" and command and not config.start:
            yield Problem(key, "is set, and machines.start is not", "set machines.start too")


def _seconds(config: MachinesConfig) -> Iterator[Problem]:
    for name, (least, most) in LIMITS.items():
        value = getattr(config, name)
        if not least <= value <= most:
            yield Problem(
                f"machines.{name}", f"{value} is out of range", f"use {least} to {most} seconds"
            )
