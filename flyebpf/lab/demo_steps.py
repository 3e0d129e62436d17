# SPDX-License-Identifier: Apache-2.0
"""How the tour runs commands in nodes and shows them."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from flyebpf.errors import UnavailableError
from flyebpf.lab import hosts, net
from flyebpf.lab.state import Lab

_numbers = itertools.count(1)


@contextmanager
def step(title: str) -> Iterator[None]:
    """A numbered title, what is printed inside, and how long it took."""
    click.echo()
    click.secho(f"{next(_numbers)}. {title}", bold=True)
    started = time.monotonic()
    yield
    click.secho(f"  {time.monotonic() - started:.2f} s", dim=True)


def show(node: str, command: Sequence[str], output: str) -> None:
    click.echo(f"  {node}$ " + click.style(shlex.join(command), fg="cyan"))
    for text in output.rstrip().splitlines():
        click.echo(f"    {text}")


def run_in(lab: Lab, node: str, command: Sequence[str], *, shown: Sequence[str] = ()) -> str:
    """Run it in a node and show both command and answer."""
    env = dict(os.environ)
    if node in lab.hosts:
        env = hosts.environment(lab.hosts[node])
    env["PYTHONPATH"] = net.python_path()
    done = subprocess.run(
        net.exec_argv(lab.namespaces()[node], command),
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    show(node, shown or command, done.stdout + done.stderr)
    if done.returncode != 0:
        raise UnavailableError(
            f"on {node}, {shlex.join(command)} failed with exit code {done.returncode}",
            "See: flyebpf lab list, and the daemon's log in the lab's folder.",
        )
    return done.stdout


def flyebpf(lab: Lab, host: str, *arguments: str) -> str:
    """A flyebpf command on a host."""
    command = [sys.executable, "-P", "-m", "flyebpf", *arguments]
    return run_in(lab, host, command, shown=["flyebpf", *arguments])


def check_seen(answer: str, address: str) -> None:
    if address not in answer:
        raise UnavailableError(
            f"the VM did not see the client's address {address}; the answer was: {answer!r}"
        )
