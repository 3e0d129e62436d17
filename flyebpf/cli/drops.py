# SPDX-License-Identifier: Apache-2.0
"""``flyebpf drops``."""

from __future__ import annotations

import time
from typing import Any

import click

from flyebpf.cli import options, output

Drop = dict[str, Any]


@click.command()
@click.option("--watch", is_flag=True, help="Go on and print what is dropped from now on.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
@options.json_option
def drops(watch: bool, interval: float, as_json: bool) -> None:
    """Show dropped packets by reason."""
    api = options.api()
    found: list[Drop] = api.get("/v1/drops")["items"]
    _print(found, as_json)
    while watch:
        time.sleep(interval)
        now: list[Drop] = api.get("/v1/drops")["items"]
        if new := since(found, now):
            click.echo("")
            _print(new, as_json)
        found = now


def since(before: list[Drop], now: list[Drop]) -> list[Drop]:
    """What was dropped between two looks. Counters that went back have been
    made anew, so all that they show is new."""
    known = {drop["reason"]: drop for drop in before}
    new = []
    for drop in now:
        old = known.get(drop["reason"], {"packets": 0, "bytes": 0})
        if old["packets"] > drop["packets"]:
            old = {"packets": 0, "bytes": 0}
        if drop["packets"] > old["packets"]:
            packets, size = drop["packets"] - old["packets"], drop["bytes"] - old["bytes"]
            new.append({**drop, "packets": packets, "bytes": size})
    return new


def _print(found: list[Drop], as_json: bool) -> None:
    if as_json:
        output.print_json(found)
    elif not found:
        output.say("No packet was dropped.")
    else:
        ordered = sorted(found, key=lambda drop: -drop["packets"])
        output.print_table(
            ("REASON", "PACKETS", "BYTES", "MEANING"),
            [(d["reason"], d["packets"], d["bytes"], d["description"]) for d in ordered],
        )
