# SPDX-License-Identifier: Apache-2.0
"""What status says is wrong: one line a cause, in an operator's words."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flyebpf.api.backend import Severity
from flyebpf.bpf import loader
from flyebpf.config import ApiConfig, DaemonConfig, MeshConfig
from flyebpf.daemon import problems
from flyebpf.model.certificates import Certificate
from flyebpf.model.records import Host, HostStatus
from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import (
    InterfaceRow,
    NatRow,
    ReplyRow,
    Row,
    ServiceRow,
    SettingsRow,
    SlotRow,
)
from flyebpf.model.state import State
from flyebpf.reconcile.base import Failure


def engine(*failures: Failure) -> Any:
    return SimpleNamespace(reconciler=SimpleNamespace(failures=failures))


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [
        (SlotRow, "3d8d", "machine 3d8d"),
        (ServiceRow, ("203.0.113.1", 6, 80, 80), "service 203.0.113.1 tcp 80"),
        (ServiceRow, ("203.0.113.1", 17, 80, 90), "service 203.0.113.1 udp 80-90"),
        (ReplyRow, ("3d8d", 17, 53), "replies of machine 3d8d udp 53"),
        (NatRow, "172.16.0.0/20", "source NAT 172.16.0.0/20"),
        (SettingsRow, "settings", "settings settings"),
    ],
)
def test_names_of_rows(kind: type[Row], key: Hashable, name: str) -> None:
    assert problems.row_name(kind, key) == name


def test_every_kind_of_row_has_a_name() -> None:
    assert set(problems.NAMES) == set(ROW_ORDER)


def test_rows_that_fail_for_one_cause_are_counted() -> None:
    full = [
        Failure(ServiceRow, ("203.0.113.1", 6, port, port), "the map is full", "Raise it.")
        for port in range(38)
    ]
    gone = Failure(SlotRow, "3d8d", "interface tap0 does not exist")
    gone_too = Failure(InterfaceRow, "tap0", "interface tap0 does not exist")
    found = list(problems.failures(engine(*full, gone, gone_too)))
    assert [problem.object for problem in found] == [
        "service 203.0.113.1 tcp 0 and 37 more",
        "machine 3d8d",
    ]


def test_more_causes_than_shown_are_said_to_be_more() -> None:
    many = [Failure(SlotRow, n, f"interface tap{n} does not exist") for n in range(130)]
    found = list(problems.failures(engine(*many)))
    assert len(found) == problems.SHOWN + 1
    assert found[-1].message == "30 more things could not be applied"


def certificate(hostname: str, not_after: str, app: str = "web") -> Certificate:
    return Certificate(hostname, app, (hostname,), "CA", False, "RSA 2048", "", "", not_after)


def test_certificates_that_end() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    served = [
        certificate("b.example", "2026-12-04T12:00:01Z"),
        certificate("soon.example", "2026-12-04T12:00:00Z"),
        certificate("*.fly.test", "2026-11-20T12:00:00Z", app=""),
        certificate("a.example", "2027-01-01T00:00:00Z"),
    ]
    gone, soon = problems.certificates(served, now)
    assert (gone.object, gone.severity) == ("certificate of *.fly.test", Severity.ERROR)
    assert gone.message == "that of the operator has expired on 2026-11-20T12:00:00Z"
    assert (soon.object, soon.severity) == ("certificate of soon.example", Severity.WARNING)
    assert soon.message == "that of app web expires on 2026-12-04T12:00:00Z"
    assert "certs add soon.example" in soon.remedy


def test_many_certificates_that_end_are_counted() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    served = [certificate(f"h{n}.example", "2026-11-19T00:00:00Z") for n in range(130)]
    found = list(problems.certificates(served, now))
    assert len(found) == problems.SHOWN + 1
    assert found[-1].message == "30 more expire within 14 days or have"


def test_pins_that_were_set_aside_are_named(tmp_path: Path) -> None:
    config = DaemonConfig("h1", "ams", ("eth0",), bpffs=str(tmp_path))
    assert list(problems.foreign_pins(config)) == []
    for folder in ("maps", "programs", "links"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours").touch()
        (tmp_path / folder / f"their-{folder}").touch()
        loader.set_aside(tmp_path / folder / f"their-{folder}", "is not ours", lambda _: None)
    found = list(problems.foreign_pins(config))
    assert [problem.object.startswith("pin foreign-their-") for problem in found] == [True] * 3
    for problem in found:
        assert Path(problem.remedy.rpartition("rm -r ")[2]).exists()


def test_a_group_that_does_not_exist(tmp_path: Path) -> None:
    config = DaemonConfig("h1", "ams", ("eth0",), api=ApiConfig("/run/x", "no-such-group"))
    (problem,) = problems.socket_group(config)
    assert "only root can use /run/x" in problem.message
    fine = DaemonConfig("h1", "ams", ("eth0",), api=ApiConfig("/run/x", "root"))
    assert list(problems.socket_group(fine)) == []


def fleet(own: int, underlay: str = "wireguard", **mtus: int) -> Any:
    state = State()
    state.hosts.update({name: Host(name, 0, "ams", "") for name in ("h1", *mtus)})
    state.host_status.update({n: HostStatus(n, "", mtu=mtu) for n, mtu in mtus.items()})
    state.host_status["removed"] = HostStatus("removed", "", mtu=9000)
    mesh = MeshConfig(underlay=underlay, mtu=own)
    return SimpleNamespace(state=state, config=DaemonConfig("h1", "ams", (), mesh=mesh))


def test_hosts_with_another_mtu_are_named() -> None:
    (found,) = problems.mesh_mtus(fleet(1420, h2=1420, h3=1380, h4=0, h5=1380))
    assert found.severity is Severity.WARNING
    assert "1420 here, and 1380 on h3, h5:" in found.message
    assert "mesh.mtu = 1380" in found.remedy
    many = fleet(1420, **{f"h{n}": 8920 for n in range(10, 17)})
    (found,) = problems.mesh_mtus(many)
    assert "8920 on h10, h11, h12, h13, h14 and 2 more:" in found.message
    assert "mesh.mtu = 1420" in found.remedy


@pytest.mark.parametrize("here", [fleet(1420, h2=1420), fleet(0, "none", h2=1420)])
def test_one_mtu_or_none_is_no_problem(here: Any) -> None:
    assert list(problems.mesh_mtus(here)) == []
