# SPDX-License-Identifier: Apache-2.0
"""``flyebpf checks``."""

from __future__ import annotations

import click

from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group


@click.group(cls=Group, help="Show health checks and their results.")
def checks() -> None:
    pass


@checks.command(name="list")
@options.app_option
@options.all_option
@options.json_option
def list_(app: str | None, all_apps: bool, as_json: bool) -> None:
    """List the checks of an app's machines; every app's where no app is named.

    A machine one of whose service checks is critical gets nothing new of that
    service. ROUTING is no for those of [checks], which are only reported.
    """
    found = options.api().get("/v1/checks", {"app": options.one_app(app, all_apps)})["items"]
    if as_json:
        output.print_json(found)
        return
    headers = ("APP", "MACHINE", "HOST", "REGION", "NAME", "STATUS", "ROUTING", "SINCE", "OUTPUT")
    rows = [
        (
            c["app"], c["machine"], c["host"], c["region"], c["name"], c["status"],
            "yes" if c["routing"] else "no", c["since"], c["output"],
        )
        for c in found
    ]  # fmt: skip
    output.print_table(headers, rows)
