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
@click.option("--only", default="", metavar="NAME", help="Only checks whose names begin so.")
@options.json_option
@click.pass_context
def doctor(ctx: click.Context, app: str | None, only: str, as_json: bool) -> None:
    """Look for what is wrong, and say what to do. Exits with 1 when a check failed.

    \b
    Without an app this host is looked at, with -a the app too: its names, services,
    addresses, certificates, and whether it is reached in each way that there is.
        flyebpf doctor
        flyebpf doctor -a my-app
        flyebpf doctor -a my-app --only app-listening
    """
    found = examined(options.find_app(app), only)
    if not found:
        raise click.UsageError(
            f"No check's name begins with {only!r}; without --only all are made."
        )
    if as_json:
        output.print_json(found)
    else:
        show(found)
    if any(finding["state"] == FAILED for finding in found):
        ctx.exit(1)


def examined(app: str | None, only: str) -> list[Finding]:
    """All findings. A daemon that does not answer is one of them."""
    try:
        api = options.api(timeout=TIMEOUT)
        items: list[Finding] = api.get("/v1/doctor", {"app": app, "only": only or None})["items"]
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
