# SPDX-License-Identifier: Apache-2.0
"""``flyebpf status``."""

from __future__ import annotations

import time
from typing import Any

import click

from flyebpf.cli import options, output
from flyebpf.errors import UnavailableError

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 2.0
MAX_SHOWN = 8
"""Problems shown on the one screen; --json has all of them."""
SESSION_SECONDS = 180
"""How long a WireGuard session lives without a new handshake."""

Status = dict[str, Any]


@click.command()
@click.option("--wait", is_flag=True, help="Wait until every change is in the kernel.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits.",
)
@options.json_option
@click.pass_context
def status(ctx: click.Context, wait: bool, timeout: float, as_json: bool) -> None:
    """Show how this host is, and what is wrong. Exits with 1 when something failed.

    \b
    State     ok; syncing: changes are on their way; failed: see the problems
    Machines  how packets reach them: by XDP, or slower through tc
    Mesh      how this host reaches the others, and how many of them
    Proxy     whether Envoy serves, since when, and how many apps
    Pools     addresses that apps have
    Tables    how full the kernel's tables are; flows are estimated from a
              sample, and ended ones count until others take their place
    """
    report = wait_for_sync(timeout) if wait else options.api().get("/v1/status")
    if as_json:
        output.print_json(report)
    else:
        print_status(report)
    if report["state"] == "failed":
        ctx.exit(1)


def wait_for_sync(timeout: float) -> Status:
    """The status once nothing is on its way; progress goes to stderr.

    Raises UnavailableError when that takes longer than ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    said = time.monotonic()
    while True:
        report, trouble = _try_status()
        if report is not None and is_settled(report):
            return report
        now = time.monotonic()
        if now >= deadline:
            break
        if now - said >= PROGRESS_SECONDS:
            click.echo(_progress(report, trouble), err=True)
            said = now
        time.sleep(POLL_SECONDS)
    if trouble is not None:
        raise trouble
    raise UnavailableError(
        f"not in sync after {timeout:g} s: {_progress(report, None)}",
        "Run 'flyebpf status' for the cause, or wait longer with --timeout.",
    )


def _try_status() -> tuple[Status | None, UnavailableError | None]:
    try:
        return options.api(timeout=5).get("/v1/status"), None
    except UnavailableError as error:
        return None, error


def is_settled(report: Status) -> bool:
    """Whether waiting longer changes nothing: what is still pending has failed."""
    return bool(report["in_sync"]) and (report["pending"] == 0 or report["state"] == "failed")


def _progress(report: Status | None, trouble: UnavailableError | None) -> str:
    if report is None:
        return f"waiting: {trouble.message if trouble else 'no answer yet'}"
    return (
        f"revision {report['applied_revision']} of {report['store_revision']} applied, "
        f"{report['pending']} rows to go"
    )


def print_status(report: Status) -> None:
    """The one screen."""
    programs = report["programs"]
    found = "adopted" if programs["adopted"] else "newly loaded"
    uplinks = [f"{up['interface']} ({up['mode'] or 'not attached'})" for up in report["uplinks"]]
    rows = ", ".join(
        f"{name.removesuffix('Row').lower()} {count}"
        for name, count in report["rows"].items()
        if count
    )
    counts = ", ".join(f"{name} {count}" for name, count in report["counts"].items() if count)
    output.print_details(
        {
            "Host": f"{report['host']} (region {report['region']})",
            "State": _state(report),
            "Daemon": f"version {report['version']}, pid {report['pid']}, "
            f"up {duration(report['uptime'])}",
            "Revision": f"{report['applied_revision']} applied, {report['store_revision']} stored",
            "Programs": f"{programs['digest'] or 'none'} ({found})",
            "Uplinks": uplinks or "none",
            "Mesh": _mesh(report["mesh"]),
            "Proxy": _proxy(report["proxy"]),
            "Machines": _delivery(report["delivery"]),
            "Pools": _pools(report["pools"]),
            "Tables": _fill(report["fill"]),
            "Rows": rows or "none",
            "Counts": counts or "none",
        }
    )
    _print_problems(report["problems"])


def _delivery(ways: dict[str, int]) -> str:
    """``3: 2 by XDP, 1 through tc``: ways that no machine has are left out."""
    words = {"xdp": "by XDP", "tc": "through tc", "missing": "without an interface"}
    found = ", ".join(f"{ways[way]} {text}" for way, text in words.items() if ways[way])
    return f"{sum(ways.values())}: {found}" if found else "none on this host"


def _mesh(mesh: dict[str, Any] | None) -> str:
    """``fly0 by wireguard-go, port 51820; 2 of 3 hosts reached``: the hosts that
    answered a ping, or a handshake not longer ago than a session lives."""
    if mesh is None:
        return "none"
    devices = [
        f"{device['interface']} by {device['implementation']}, port {device['port']}"
        if device["implementation"] not in ("", "plain")
        else f"{device['interface']} ({device['implementation'] or 'not there'})"
        for device in mesh["devices"]
    ]
    hosts = {peer["host"] for peer in mesh["peers"]}
    reached = {peer["host"] for peer in mesh["peers"] if _is_reached(peer)}
    rotation = (
        f"; keys are being rotated to generation {mesh['next_generation']}"
        if mesh["next_generation"] != mesh["generation"]
        else ""
    )
    found = ", ".join(devices) or "no device"
    return f"{found}; {len(reached)} of {len(hosts)} other hosts reached{rotation}"


def _proxy(proxy: dict[str, Any] | None) -> str:
    """``Envoy serves 3 apps with 61 listeners, pid 71, up 2h 5m``."""
    if proxy is None:
        return "none"
    restarts = f", {proxy['restarts']} restarts" if proxy["restarts"] else ""
    if not proxy["serving"]:
        return f"Envoy does not serve{restarts}"
    apps = "1 app" if proxy["apps"] == 1 else f"{proxy['apps']} apps"
    return (
        f"Envoy serves {apps} with {proxy['listeners']} listeners,"
        f" pid {proxy['pid']}, up {duration(proxy['uptime'])}{restarts}"
    )


def _is_reached(peer: dict[str, Any]) -> bool:
    age = peer["handshake_age"]
    return peer["rtt"] is not None or (age is not None and age < SESSION_SECONDS)


def _pools(pools: list[dict[str, Any]]) -> list[str] | str:
    return [f"{p['cidr']} ({p['allocated']} of {p['size']} allocated)" for p in pools] or "none"


def _fill(tables: dict[str, dict[str, Any]]) -> str:
    """``services 0% of 16384, flows 3% of 65536 (sampled)``."""
    return ", ".join(
        f"{name.replace('_', ' ')} {percent(fill['used'], fill['size'])} of {fill['size']}"
        f"{' (sampled)' if fill['sampled'] else ''}"
        for name, fill in tables.items()
    )


def percent(used: int, size: int) -> str:
    """Whole percents; never 0% where something is used, nor 100% while there is room."""
    if 0 < used < size:
        share = 100 * used // size
        return f"{share}%" if share else "<1%"
    return "100%" if used else "0%"


def _state(report: Status) -> str:
    if report["state"] == "syncing":
        return f"syncing ({report['pending']} rows to go)"
    if report["state"] == "failed":
        errors = sum(problem["severity"] == "error" for problem in report["problems"])
        return f"failed ({errors} {'problem' if errors == 1 else 'problems'}, see below)"
    return str(report["state"])


def _print_problems(problems: list[dict[str, str]]) -> None:
    ordered = sorted(problems, key=lambda problem: problem["severity"] != "error")
    for problem in ordered[:MAX_SHOWN]:
        click.echo("")
        click.echo(
            output.clean(f"{problem['severity']}: {problem['object']}: {problem['message']}")
        )
        if problem["remedy"]:
            click.echo(f"  {output.clean(problem['remedy'])}")
    if len(ordered) > MAX_SHOWN:
        click.echo(f"\nand {len(ordered) - MAX_SHOWN} more: flyebpf status --json")


def duration(seconds: float) -> str:
    """``45s``, ``3m 20s``, ``2h 5m``, ``4d 1h``: the two largest units."""
    parts: list[str] = []
    rest = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
