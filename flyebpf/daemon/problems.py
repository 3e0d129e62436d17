# SPDX-License-Identifier: Apache-2.0
"""What is wrong on this host, for ``status``: each cause once."""

from __future__ import annotations

import grp
from collections.abc import Hashable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flyebpf.api.backend import Problem, Severity
from flyebpf.bpf import loader
from flyebpf.config import DaemonConfig
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.usage import tables
from flyebpf.model.certificates import Certificate
from flyebpf.model.checkrows import CheckRow
from flyebpf.model.proxyrows import (
    ProxyAppRow,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyClusterRow,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
    ProxyTargetRow,
)
from flyebpf.model.rows import (
    HostPortRow,
    HostRow,
    InterfaceRow,
    MeshPeerRow,
    MeshRow,
    NameRow,
    NatRow,
    PolicyRow,
    ReplyRow,
    Row,
    ServiceRow,
    SettingsRow,
    SlotRow,
    TableRow,
    UplinkRow,
    UserPeerRow,
    VipRow,
)
from flyebpf.reconcile.base import Failure

PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp"}

NEARLY_FULL = 0.9
WARN_BEFORE = timedelta(days=14)  # a certificate's end
NAMED = 5  # hosts in one sentence
SHOWN = 100  # causes of one sort; a thousand lines help nobody

NAMES: dict[type[Row], str] = {
    SettingsRow: "settings",
    PolicyRow: "egress policy",
    NatRow: "source NAT",
    MeshRow: "mesh device",
    MeshPeerRow: "mesh peer",
    UserPeerRow: "WireGuard peer",
    HostRow: "host",
    SlotRow: "machine",
    InterfaceRow: "interface",
    TableRow: "table",
    ReplyRow: "replies of machine",
    ServiceRow: "service",
    VipRow: "address",
    UplinkRow: "uplink",
    HostPortRow: "host port",
    NameRow: "DNS name of network",
    ProxyRow: "proxy",
    CheckRow: "check",
    ProxyTargetRow: "the proxy's way to",
    ProxyCertificateRow: "certificate",
    ProxyChallengeRow: "ACME challenge of",
    ProxyClusterRow: "service",
    ProxyAppRow: "replays of app",
    ProxySniRow: "server name at port",
    ProxyRouteRow: "route",
    ProxyBindRow: "proxied port",
}
"""What operators call the rows."""


def problems(engine: Engine) -> list[Problem]:
    """All of them, the worst first."""
    found: dict[tuple[str, str], Problem] = {}
    served = list(engine.state.vault.certificates.values())
    for problem in (
        *failures(engine),
        *plans(engine),
        *records(engine),
        *certificates(served, datetime.now(UTC)),
        *shortcomings(engine),
    ):
        found.setdefault((problem.message, problem.remedy), problem)
    return sorted(found.values(), key=lambda problem: problem.severity is not Severity.ERROR)


def failures(engine: Engine) -> Iterator[Problem]:
    """One for each cause: a full table fails many rows."""
    causes: dict[tuple[str, str], list[Failure]] = {}
    for failure in engine.reconciler.failures:
        causes.setdefault((failure.error, failure.remedy), []).append(failure)
    for (error, remedy), failed in list(causes.items())[:SHOWN]:
        first = failed[0]
        others = sum(other.kind is first.kind for other in failed) - 1
        more = f" and {others} more" if others else ""
        yield Problem(f"{row_name(first.kind, first.key)}{more}", error, remedy)
    if len(causes) > SHOWN:
        yield Problem(
            "rows",
            f"{len(causes) - SHOWN} more things could not be applied",
            "The daemon's log names them all.",
        )


def row_name(kind: type[Row], key: Hashable) -> str:
    """A row as an operator would say it: ``service 203.0.113.1 tcp 80``."""
    words = list(map(str, key)) if isinstance(key, tuple) else [str(key)]
    if kind in (ServiceRow, ReplyRow) and len(words) > 1:
        words[1] = PROTOCOLS.get(words[1], words[1])
    if kind is ServiceRow and len(words) == 4:
        first, last = words[2:]
        words[2:] = [first if first == last else f"{first}-{last}"]
    return " ".join([NAMES.get(kind, kind.__name__), *words])


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
            "Use the version of flyebpf that wrote it, or restore the state file from a copy; "
            "everything else goes on.",
        )


def certificates(served: Iterable[Certificate], now: datetime) -> Iterator[Problem]:
    """Those that clients refuse, or soon will; the first to expire first."""
    text, soon = (f"{t:%Y-%m-%dT%H:%M:%SZ}" for t in (now, now + WARN_BEFORE))
    found = sorted((c for c in served if c.not_after <= soon), key=lambda c: c.not_after)
    for certificate in found[:SHOWN]:
        gone = certificate.not_after <= text
        owner = f"app {certificate.app}" if certificate.app else "the operator"
        yield Problem(
            f"certificate of {certificate.hostname}",
            f"that of {owner} {'has expired' if gone else 'expires'} on {certificate.not_after}",
            f"Renew it: flyebpf certs add {certificate.hostname}",
            Severity.ERROR if gone else Severity.WARNING,
        )
    if len(found) > SHOWN:
        yield Problem(
            "certificates",
            f"{len(found) - SHOWN} more expire within {WARN_BEFORE.days} days or have",
            "flyebpf certs list --all",
        )


def foreign_pins(config: DaemonConfig) -> Iterator[Problem]:
    """What was pinned under our names by somebody else, or was damaged."""
    for pin in loader.foreign_pins(Path(config.bpffs)):
        yield Problem(
            f"pin {pin.name}",
            f"was found in {pin.parent} under a name of ours and is not ours: it was "
            "set aside and replaced",
            f"Find out who made it (bpftool), then remove it: rm -r {pin}",
            Severity.WARNING,
        )


def socket_group(config: DaemonConfig) -> Iterator[Problem]:
    """The group that may use the socket is missing."""
    try:
        grp.getgrnam(config.api.group)
    except KeyError:
        yield Problem(
            f"group {config.api.group}",
            f"does not exist: only root can use {config.api.socket}",
            f"groupadd --system {config.api.group}, and restart the daemon; "
            'or set api.group = "root".',
            Severity.WARNING,
        )


def mesh_mtus(engine: Engine) -> Iterator[Problem]:
    """Hosts whose mesh takes longer or shorter packets than that of this one."""
    own = engine.config.mesh.mtu
    if engine.config.mesh.underlay == "none" or not own:
        return
    others: dict[int, list[str]] = {}
    for name, status in sorted(engine.state.host_status.items()):
        if name in engine.state.hosts and status.mtu not in (0, own):
            others.setdefault(status.mtu, []).append(name)
    for mtu, hosts in sorted(others.items()):
        more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
        yield Problem(
            "mesh MTU",
            f"it is {own} here, and {mtu} on {', '.join(hosts[:NAMED])}{more}: packets that one "
            "side sends may be too long for the other, and are lost on the way",
            f"Set mesh.mtu = {min(own, *others)} on all hosts, and restart their daemons.",
            Severity.WARNING,
        )


def shortcomings(engine: Engine) -> Iterator[Problem]:
    """What works, but not as it should."""
    yield from mesh_mtus(engine)
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
    for name, fill in tables(engine).items():
        if fill.used >= NEARLY_FULL * fill.size:
            yield Problem(
                f"table of {name}",
                f"{fill.used} of {fill.size} entries are in use",
                f"Raise {fill.setting} in the daemon's configuration and restart the daemon.",
                Severity.WARNING,
            )
