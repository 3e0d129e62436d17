# SPDX-License-Identifier: Apache-2.0
"""``flyebpf services``."""

from __future__ import annotations

from typing import Any

import click

from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group


@click.group(cls=Group, help="Show services and their traffic.")
def services() -> None:
    pass


@services.command(name="list")
@options.app_option
@options.all_option
@options.json_option
def list_(app: str | None, all_apps: bool, as_json: bool) -> None:
    """List an app's services; every app's where no app is named.

    LIMITS are soft and hard, of a machine. REGIONS are those of its machines,
    MACHINES how many take new flows. ADDRESSES are those that carry the port. IN is
    towards the machines, OUT towards the clients; what the proxy serves is not
    counted here. --json has host names, autostart and options too.
    """
    found = options.api().get("/v1/services", {"app": options.one_app(app, all_apps)})["items"]
    if as_json:
        output.print_json(found)
        return
    headers = (
        "APP", "ORG", "NETWORK", "SERVICE", "HANDLERS", "LIMITS", "PROCESSES", "REGIONS",
        "ADDRESSES", "MACHINES", "FLOWS", "IN PACKETS", "IN BYTES", "OUT PACKETS", "OUT BYTES",
    )  # fmt: skip
    output.print_table(headers, [_row(item) for item in found])


def _handlers(item: dict[str, Any]) -> str:
    """``http (force https)``."""
    found = ", ".join(item["handlers"]) or "none"
    return f"{found} (force https)" if item["force_https"] else found


def _limits(limits: dict[str, Any]) -> str:
    """``20 / 25 requests``: soft and hard."""
    hard = "none" if limits["hard_limit"] is None else limits["hard_limit"]
    return f"{limits['soft_limit']} / {hard} {limits['type']}"


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    first, last = item["first_port"], item["last_port"]
    ports = str(first) if first == last else f"{first}-{last}"
    counters = item["counters"] or {}
    return (
        item["app"],
        item["org"],
        item["network"],
        f"{item['protocol']} {ports} => {item['internal_port']}",
        _handlers(item),
        _limits(item["concurrency"]),
        item["processes"],
        item["regions"] or "none",
        item["addresses"] or "none",
        item["machines"],
        *(
            counters.get(name, 0)
            for name in ("flows", "in_packets", "in_bytes", "out_packets", "out_bytes")
        ),
    )
