# SPDX-License-Identifier: Apache-2.0
"""The lab that the end-to-end tests share, and apps in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failure shows what the daemons said."""
    report = yield
    made = getattr(item, "funcargs", {}).get("rig")
    if report.failed and isinstance(made, Rig) and made.where.state.exists():
        report.sections.append(("daemons", made.logs()))
    return report
