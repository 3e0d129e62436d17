# SPDX-License-Identifier: Apache-2.0
"""This host: status, drops, events, and the API's own description."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from flyebpf.api import openapi, views
from flyebpf.api.backend import DaemonStatus, Severity
from flyebpf.api.components import COMPONENTS
from flyebpf.api.requests import Call
from flyebpf.api.schema import integer, ref
from flyebpf.api.table import Route, items, page
from flyebpf.model.reasons import DESCRIPTIONS, DropReason


@cache
def version() -> str:
    """Of the installed package; ``unknown`` in a tree that is not installed."""
    try:
        return installed_version("flyebpf")
    except PackageNotFoundError:
        return "unknown"


def health(call: Call) -> object:
    """Raises StoreUnavailableError when nothing could be answered."""
    call.store.revision()
    return {"status": "ok"}


def status(call: Call) -> object:
    backend = call.backend
    now = backend.status()
    return {
        "state": _state(now),
        "in_sync": now.in_sync,
        "host": backend.config.host,
        "region": backend.config.region,
        "version": version(),
        "pid": now.pid,
        "uptime": round(now.uptime, 3),
        "store_revision": now.store_revision,
        "applied_revision": now.applied_revision,
        "pending": now.pending,
        "rows": dict(now.rows),
        "counts": dict(backend.counts()),
        "uplinks": [{"interface": up.interface, "mode": up.mode} for up in now.uplinks],
        "programs": {"digest": now.programs, "adopted": now.adopted},
        "delivery": asdict(now.delivery),
        "pools": [asdict(pool) for pool in now.pools],
        "fill": {name: asdict(fill) for name, fill in now.fill.items()},
        "mesh": None if now.mesh is None else views.mesh(now.mesh),
        "proxy": None if now.proxy is None else asdict(now.proxy),
        "problems": [
            {
                "object": problem.object,
                "message": problem.message,
                "remedy": problem.remedy,
                "severity": problem.severity.value,
            }
            for problem in now.problems
        ],
    }


def _state(now: DaemonStatus) -> str:
    if any(problem.severity is Severity.ERROR for problem in now.problems):
        return "failed"
    return "ok" if now.in_sync and not now.pending else "syncing"


def drops(call: Call) -> object:
    shown = []
    for counter in call.backend.drops():
        try:
            reason = DropReason(counter.reason)
            label, description = reason.label, DESCRIPTIONS.get(reason, "")
        except ValueError:  # counted by programs of another version
            label, description = f"reason_{counter.reason}", "not known to this version"
        shown.append(
            {
                "reason": label,
                "description": description,
                "packets": counter.packets,
                "bytes": counter.bytes,
            }
        )
    return page(shown)


def reload(call: Call) -> object:
    return {"changes": list(call.backend.reload())}


def events(call: Call) -> object:
    """Answered by the application itself, as a stream."""
    raise AssertionError(f"a stream is not called: {call.path}")


def description(call: Call) -> object:
    from flyebpf.api.routes import ROUTES as ALL  # noqa: PLC0415 (it contains this one)

    return openapi.describe(ALL, COMPONENTS, version())


ROUTES = (
    Route("GET", "/healthz", "health", "Whether requests are answered.", health, ref("Health")),
    Route("GET", "/v1/status", "host_status", "How the daemon is.", status, ref("Status")),
    Route(
        "POST",
        "/v1/reload",
        "host_reload",
        "Read the configuration file again.",
        reload,
        ref("Changes"),
    ),
    Route("GET", "/v1/drops", "host_drops", "Dropped packets by reason.", drops, items("Drop")),
    Route(
        "GET",
        "/v1/events",
        "events_follow",
        "Store changes as they happen, one JSON object a line.",
        events,
        ref("Event"),
        query={"since": integer("Changes after this revision; default: from now on.")},
        stream=True,
    ),
    Route(
        "GET",
        "/v1/openapi.json",
        "openapi",
        "This description.",
        description,
        ref("Document"),
    ),
)
