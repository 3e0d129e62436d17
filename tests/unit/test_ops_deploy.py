# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf import flytoml
from flyebpf.errors import InvalidError, NotFoundError
from flyebpf.model.records import Deployment, Port, Service
from flyebpf.ops import addresses, deploy, machines
from flyebpf.ops.transact import every
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

RAW = flytoml.parse(
    """
    primary_region = "ams"
    [processes]
    front = "serve"
    [[services]]
    internal_port = 9000
    processes = ["front"]
    [[services.ports]]
    port = 80
    [checks.alive]
    type = "tcp"
    port = 9000
    """
)
HTTP = flytoml.parse("[http_service]\ninternal_port = 3000\n")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def test_the_file_becomes_the_deployment(store: SqliteStore) -> None:
    assert deploy.get(store, "web") is None
    result = deploy.deploy(store, config(), "web", RAW)
    assert result.deployment == Deployment(
        "web",
        (Service("tcp", 9000, (Port(80, 80),), processes=("front",)),),
        checks=RAW.checks,
        primary_region="ams",
        processes=("front",),
        version=1,
    )
    assert deploy.get(store, "web") == result.deployment
    assert result.allocated == ()


def test_each_deploy_is_a_version_and_replaces_the_last(store: SqliteStore) -> None:
    deploy.deploy(store, config(), "web", RAW)
    second = deploy.deploy(store, config(), "web", flytoml.parse("")).deployment
    assert second.version == 2
    assert deploy.get(store, "web") == second
    assert second.services == ()


def test_an_app_without_address_is_told_how_to_get_one(store: SqliteStore) -> None:
    hint = "app web has no IP address: flyebpf ips allocate-v4 -a web"
    assert deploy.deploy(store, config(), "web", RAW).warnings == (hint,)
    assert deploy.deploy(store, config(), "web", RAW, public_ips=False).warnings == ()
    addresses.allocate_v4(store, config(), "web")
    assert deploy.deploy(store, config(), "web", RAW).warnings == ()


def test_warnings_of_the_file_are_passed_on(store: SqliteStore) -> None:
    result = deploy.deploy(store, config(), "web", flytoml.parse("colour = 1"))
    assert result.warnings[0] == "colour (line 1): unknown key"
    assert "no service" in result.warnings[1]


def test_machines_of_groups_that_are_gone(store: SqliteStore) -> None:
    for number, group in enumerate(("front", "back", "back")):
        mac = f"02:00:00:00:00:0{number}"
        machines.add(store, config(), "web", interface=f"tap{number}", mac=mac, group=group)
    result = deploy.deploy(store, config(), "web", RAW, public_ips=False)
    (warning,) = result.warnings
    assert "2 machine(s) of app web get no traffic" in warning
    assert "'back'" in warning


def test_what_needs_the_proxy_is_refused(store: SqliteStore) -> None:
    before = store.revision()
    with pytest.raises(InvalidError, match="app 'web' needs the proxy") as caught:
        deploy.deploy(store, config(), "web", HTTP)
    assert "tcp port 80 to 3000 (handlers http)" in caught.value.message
    assert "tcp port 443 to 3000 (handlers http, tls)" in caught.value.message
    assert store.revision() == before
    assert every(store, Deployment) == []


def test_an_app_that_does_not_exist(store: SqliteStore) -> None:
    with pytest.raises(NotFoundError, match="app 'wbe'"):
        deploy.deploy(store, config(), "wbe", RAW)
    with pytest.raises(NotFoundError, match="app 'wbe'"):
        deploy.get(store, "wbe")
