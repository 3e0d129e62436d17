# SPDX-License-Identifier: Apache-2.0
"""``flyebpf doctor``."""

from __future__ import annotations

from collections import Counter

import click

from flyebpf.cli import options, output
from flyebpf.errors import UnavailableError

TIMEOUT = 60.0
"""Seconds for all checks: some wait for an answer that does not come."""
FAILED = "failed"
Finding = dict[str, str]


@click.command()
@options.app_option
@options.json_option
@click.pass_context
def doctor(ctx: click.Context, app: str | None, as_json: bool) -> None:
    """Look for what is wrong, and say what to do. Exits with 1 when a check failed.

    \b
    Without an app this host is looked at, with -a the app's names too:
        flyebpf doctor
        flyebpf doctor -a my-app
    """
    found = examined(options.find_app(app))
    if as_json:
        output.print_json(found)
    else:
        show(found)
    if any(finding["state"] == FAILED for finding in found):
        ctx.exit(1)


def examined(app: str | None) -> list[Finding]:
    """All findings. A daemon that does not answer is one of them."""
    try:
        items: list[Finding] = options.api(timeout=TIMEOUT).get("/v1/doctor", {"app": app})["items"]
    except UnavailableError as error:
        return [
            {"check": "daemon", "state": FAILED, "message": error.message, "remedy": error.remedy}
        ]
    return items


def show(found: list[Finding]) -> None:
    """A line each, and below what is wrong the remedy; a sum at the end."""
    width = max(len(finding["check"]) for finding in found)
    for finding in found:
        line = f"{finding['state']:<7}  {finding['check']:<{width}}  {finding['message']}"
        click.echo(output.clean(line))
        if finding["remedy"]:
            click.echo(output.clean(f"{'':<{width + 11}}→ {finding['remedy']}"))
    counts = Counter(finding["state"] for finding in found)
    click.echo(f"\n{', '.join(f'{count} {state}' for state, count in counts.items())}")
