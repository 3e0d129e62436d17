# SPDX-License-Identifier: Apache-2.0
"""What is wrong on this host, for ``status``: each cause once."""

from __future__ import annotations

from collections.abc import Iterator

from flyebpf.api.backend import Problem, Severity
from flyebpf.daemon.engine import Engine

NEARLY_FULL = 0.9
SHOWN = 100  # of one sort; a thousand lines help nobody


def problems(engine: Engine) -> list[Problem]:
    """All of them, the worst first."""
    found: dict[tuple[str, str], Problem] = {}
    for problem in (*failures(engine), *plans(engine), *records(engine), *shortcomings(engine)):
        found.setdefault((problem.message, problem.remedy), problem)
    return sorted(found.values(), key=lambda problem: problem.severity is not Severity.ERROR)


def failures(engine: Engine) -> Iterator[Problem]:
    for failure in engine.reconciler.failures[:SHOWN]:
        name = failure.kind.__name__.removesuffix("Row").lower()
        key = failure.key
        text = " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        yield Problem(f"{name} {text}", failure.error, failure.remedy)


def plans(engine: Engine) -> Iterator[Problem]:
    for owner, texts in list(engine.planner.problems.items())[:SHOWN]:
        for text in texts:
            message, _, remedy = text.rpartition(": ")
            yield Problem(" ".join(owner), message or text, remedy if message else "")
    for text in engine.reconciler.problems[:SHOWN]:
        yield Problem("rows", text)


def records(engine: Engine) -> Iterator[Problem]:
    for (kind, ident), error in list(engine.state.quarantined.items())[:SHOWN]:
        yield Problem(
            f"record {kind}/{ident}",
            f"cannot be used: {error}",
            "Write it again with the command that made it, or delete it.",
        )


def shortcomings(engine: Engine) -> Iterator[Problem]:
    """What works, but not as it should."""
    for name, mode in list(engine.netlink.uplinks.modes.items()):
        if mode == "generic" and engine.config.dataplane.xdp_mode == "auto":
            yield Problem(
                f"uplink {name}",
                f"the driver of {name} has no native XDP: packets take the slower generic way",
                'Use a network card with native XDP, or set dataplane.xdp_mode = "generic".',
                Severity.WARNING,
            )
    for name in engine.slow_interfaces()[:SHOWN]:
        yield Problem(
            f"interface {name}",
            f"{name} takes no packets redirected by XDP: they are delivered in tc, more slowly",
            "For a veth, turn GRO on at its peer while both ends are up: "
            "ethtool -K PEER gro off gro on. For others, see the driver's documentation.",
            Severity.WARNING,
        )
    for name, (used, size) in engine.maps.fill().items():
        if used >= NEARLY_FULL * size:
            yield Problem(
                f"map {name}",
                f"{used} of {size} entries are in use",
                "Raise its size under [dataplane] and restart the daemon.",
                Severity.WARNING,
            )
