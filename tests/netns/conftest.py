# SPDX-License-Identifier: Apache-2.0
"""The lab that the end-to-end tests share, and apps in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.cluster import Cluster
from tests.netns.rig import App, Rig

CreateApp = Callable[..., App]


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """One host, two clients, no sample. Own names: a user's lab is left alone."""
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests need root: run sudo scripts/test netns", pytrace=False)
    made = Rig(f"t{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}"))
    up = made.command("lab", "up", "--empty", "--clients", "2", check=False)
    if up.returncode != 0:
        pytest.exit(f"the lab does not come up:\n{up.stdout}{up.stderr}", returncode=1)
    yield made
    made.command("lab", "down")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three hosts in two regions with one etcd, two clients, no sample."""
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests need root: run sudo scripts/test netns", pytrace=False)
    made = Cluster(f"c{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-cluster"))
    arguments = ("--empty", "--hosts", "3", "--clients", "2")
    up = made.command("lab", "up", *arguments, check=False, timeout=300)
    if up.returncode != 0:
        pytest.exit(f"the cluster does not come up:\n{up.stdout}{up.stderr}", returncode=1)
    yield made
    made.command("lab", "down")


@pytest.fixture(scope="module")
def cluster_app(cluster: Cluster) -> Iterator[CreateApp]:
    """As ``create_app``, in the cluster."""
    apps: list[App] = []

    def create(name: str, *services: str, **options: Any) -> App:
        app = cluster.create_app(name, *services, **options)
        apps.append(app)
        return app

    yield create
    for app in reversed(apps):
        cluster.destroy_app(app)


@pytest.fixture(scope="module")
def create_app(rig: Rig) -> Iterator[CreateApp]:
    """``create_app(name, *services)``; the apps are destroyed after the module."""
    apps: list[App] = []

    def create(name: str, *services: str) -> App:
        app = rig.create_app(name, *services)
        apps.append(app)
        return app

    yield create
    for app in reversed(apps):
        rig.destroy_app(app)


@pytest.fixture(autouse=True)
def _loads_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever became of the test. Other modules have a ``rig`` of their own."""
    names = set(request.fixturenames).intersection(("rig", "cluster"))
    found = [request.getfixturevalue(name) for name in names]
    yield
    for made in found:
        if isinstance(made, Rig | Cluster):
            made.end_loads()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure shows what the daemons said."""
    report = yield
    given = getattr(item, "funcargs", {})
    for made in (given.get("rig"), given.get("cluster")):
        if report.failed and isinstance(made, Rig) and made.where.state.exists():
            report.sections.append(("daemons", made.logs()))
    return report
