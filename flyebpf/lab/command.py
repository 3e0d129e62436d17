# SPDX-License-Identifier: Apache-2.0
"""What the lab's commands share."""

from __future__ import annotations

import os

import click

from flyebpf.errors import UnavailableError
from flyebpf.lab import state, topology
from flyebpf.lab.state import Lab, Paths

PASS_ON = {"ignore_unknown_options": True}


def need_root() -> None:
    if os.geteuid() != 0:
        raise UnavailableError(
            "the lab needs root: it makes network namespaces and loads BPF programs",
            "Run it with sudo.",
        )


def opened() -> tuple[Paths, Lab]:
    """The lab that is up, whole."""
    need_root()
    where = state.paths()
    lab = state.load(where)
    topology.check_complete(lab)
    return where, lab


def line(text: str) -> None:
    click.echo(f"  {text}")
