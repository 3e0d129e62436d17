# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flyebpf import flytoml
from flyebpf.certificates import pair
from flyebpf.config import PoolsConfig
from flyebpf.errors import ConflictError, InvalidError, NotFoundError
from flyebpf.model.certificates import DEFAULT, SelfSigned
from flyebpf.model.records import AddressKind, Deployment, Port, Service
from flyebpf.ops import addresses, certificates, deploy, machines
from flyebpf.ops.transact import Tx, every, transact
from flyebpf.store.sqlite import SqliteStore
from tests.pki import chain
from tests.stores import add_operators_certificate, config, region

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
        add_operators_certificate(store)
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
    first = deploy.deploy(store, config(), "web", RAW).deployment
    second = deploy.deploy(store, config(), "web", RAW).deployment
    assert second == replace(first, version=2)
    assert deploy.get(store, "web") == second


def test_a_file_without_services_ends_those_in_force_only_when_asked(store: SqliteStore) -> None:
    first = deploy.deploy(store, config(), "web", RAW).deployment
    empty = flytoml.parse("")
    with pytest.raises(ConflictError, match="no service, and app web has 1 service in force") as e:
        deploy.deploy(store, config(), "web", empty)
    assert "--yes" in e.value.remedy
    assert deploy.get(store, "web") == first
    second = deploy.deploy(store, config(), "web", empty, remove_services=True).deployment
    assert (second.version, second.services) == (2, ())
    assert deploy.deploy(store, config(), "web", empty).deployment.version == 3, "none to lose"


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


PROXY = config(shared="198.51.100.0/30", engine="envoy")
SIGNED = flytoml.parse(
    """
    [[services]]
    [[services.ports]]
    port = 443
    handlers = ["tls", "http"]
    tls_options = { default_self_signed = true }
    """
)
FIRST = [
    ("[http_service]", True, "a web app gets a shared address"),
    ("[[services]]\nports = [{ port = 80, handlers = ['http'] }]", True, "port 80 is enough"),
    ("[[services]]\nports = [{ port = 443, handlers = ['tls', 'http'] }]", True, "so is 443"),
    ("[[services]]\nports = [{ port = 443, handlers = ['tls'] }]", False, "TLS alone is not"),
    ("[[services]]\nports = [{ port = 8443, handlers = ['tls'] }]", False, "nor another port"),
    ("[[services]]\nports = ['80']", False, "nor a raw one"),
    ("", False, "nor no service at all"),
]


@pytest.mark.parametrize(("text", "gets", "why"), FIRST, ids=[case[2] for case in FIRST])
def test_what_a_first_deploy_allocates(store: SqliteStore, text: str, gets: bool, why: str) -> None:
    result = deploy.deploy(store, PROXY, "web", flytoml.parse(text))
    assert [a.type for a in result.allocated] == [AddressKind.SHARED_V4] * gets, why
    assert addresses.list_all(store, "web") == list(result.allocated)
    if gets:
        assert result.warnings == ()


def test_a_first_deploy_gives_an_ipv6_address_too(store: SqliteStore) -> None:
    """One of the app's own; where its pool is full, the deploy goes on and says so."""
    pools = replace(PROXY.pools, anycast_v6=("2001:db8::/127",))
    six = replace(PROXY, pools=pools)
    first = deploy.deploy(store, six, "web", HTTP)
    assert [a.type for a in first.allocated] == [AddressKind.SHARED_V4, AddressKind.V6]
    assert first.allocated[1].address == "2001:db8::1"
    assert first.warnings == ()
    assert deploy.deploy(store, six, "web", HTTP).allocated == ()
    addresses.allocate_v6(store, six, "web")
    second = deploy.deploy(store, six, "db", HTTP)
    assert [a.type for a in second.allocated] == [AddressKind.SHARED_V4]
    (warning,) = second.warnings
    assert "app db has no IPv6 address: the pool pools.anycast_v6 has no free one" in warning
    assert "ips allocate-v6 -a db" in warning


def test_an_ipv6_pool_alone_is_enough(store: SqliteStore) -> None:
    six = replace(PROXY, pools=PoolsConfig(anycast_v6=("2001:db8::/64",)))
    result = deploy.deploy(store, six, "web", HTTP)
    assert [a.address for a in result.allocated] == ["2001:db8::1"]
    assert result.warnings == ()


def test_only_the_first_deploy_allocates_and_only_what_is_missing(store: SqliteStore) -> None:
    assert deploy.deploy(store, PROXY, "web", RAW).allocated == ()
    assert deploy.deploy(store, PROXY, "web", HTTP).allocated == ()
    own = addresses.allocate_v4(store, PROXY, "db")
    assert deploy.deploy(store, PROXY, "db", HTTP).allocated == ()
    assert addresses.list_all(store) == [own]


def test_a_deploy_that_is_told_not_to_allocates_nothing(store: SqliteStore) -> None:
    result = deploy.deploy(store, PROXY, "web", HTTP, public_ips=False)
    assert (result.allocated, result.warnings) == ((), ())


def test_without_a_pool_of_shared_addresses_there_is_a_warning(store: SqliteStore) -> None:
    result = deploy.deploy(store, config(engine="envoy"), "web", HTTP)
    assert result.allocated == ()
    assert result.warnings == ("app web has no IP address: flyebpf ips allocate-v4 -a web",)


def test_what_the_shared_address_does_not_carry_is_named(store: SqliteStore) -> None:
    both = flytoml.parse("[http_service]\n[[services]]\nports = ['25']\ninternal_port = 2525\n")
    (warning,) = deploy.deploy(store, PROXY, "web", both).warnings
    assert "services[1] (tcp port 25 to 2525) of app web is not served on its shared" in warning
    assert "ips allocate-v4 -a web" in warning
    addresses.allocate_v4(store, PROXY, "web")
    assert deploy.deploy(store, PROXY, "web", both).warnings == ()


def test_a_deploy_that_leaves_a_shared_address_nothing_to_carry_is_refused(
    store: SqliteStore,
) -> None:
    """Unless there is another address; and an app without services is none of it."""
    raw = flytoml.parse("[[services]]\nports = ['25']\n")
    deploy.deploy(store, PROXY, "web", HTTP)
    before = store.revision()
    with pytest.raises(
        InvalidError, match=r"carries no service of app web: services\[0\]"
    ) as caught:
        deploy.deploy(store, PROXY, "web", raw)
    assert "allocate-v4" in caught.value.remedy
    assert store.revision() == before
    deploy.deploy(store, PROXY, "web", flytoml.parse(""), remove_services=True)
    addresses.allocate_v4(store, PROXY, "web")
    deploy.deploy(store, PROXY, "web", raw)


BARE = [
    ("[http_service]", None, "443", "a web app"),
    ("[[services]]\nports = [{ port = 5432, handlers = ['pg_tls'] }]", None, "5432", "PostgreSQL"),
    ("[[services]]\nports = [{ port = 80, handlers = ['http'] }]", None, "", "no TLS at all"),
    ("[http_service]", "www.example.com", "", "a certificate of its own"),
    ("[http_service]\ntls_options = { default_self_signed = true }", None, "", "signed by itself"),
]


@pytest.mark.parametrize(("text", "has", "ports", "why"), BARE, ids=[case[3] for case in BARE])
def test_tls_without_a_certificate(
    store: SqliteStore, text: str, has: str | None, ports: str, why: str
) -> None:
    certificates.remove(store, "*.fly.test")
    if has:
        chain_pem, key_pem = chain(has)
        certificates.add(store, PROXY, has, "web", chain=chain_pem, key=key_pem)
    said = deploy.deploy(store, PROXY, "web", flytoml.parse(text), public_ips=False).warnings
    wanted = f"app web has no certificate, so TLS fails on port {ports}: "
    remedy = "flyebpf certs add web.fly.test -a web"
    assert said == ((wanted + remedy,) if ports else ()), why


def test_a_self_signed_certificate_is_there_once_a_port_asks_for_it(store: SqliteStore) -> None:
    deploy.deploy(store, PROXY, "web", HTTP)
    assert Tx(store).get(SelfSigned, DEFAULT) is None
    deploy.deploy(store, PROXY, "web", SIGNED)
    first = Tx(store).get(SelfSigned, DEFAULT)
    assert first is not None
    assert first.not_after > "2030"
    found = pair("web.fly.test", first.chain, first.key, datetime.now(UTC))
    assert found.names == ("*.fly.test", "*.flycast")
    deploy.deploy(store, PROXY, "web", SIGNED)
    assert Tx(store).get(SelfSigned, DEFAULT) == first, "not another one at each deploy"


def test_a_self_signed_certificate_that_has_expired_is_made_anew(store: SqliteStore) -> None:
    old = SelfSigned(DEFAULT, "chain", "key", "2020-01-01T00:00:00Z")
    transact(store, lambda tx: tx.put(old))
    deploy.deploy(store, PROXY, "web", SIGNED)
    found = Tx(store).get(SelfSigned, DEFAULT)
    assert found is not None
    assert found.not_after > old.not_after


def test_an_app_that_does_not_exist(store: SqliteStore) -> None:
    with pytest.raises(NotFoundError, match="app 'wbe'"):
        deploy.deploy(store, config(), "wbe", RAW)
    with pytest.raises(NotFoundError, match="app 'wbe'"):
        deploy.get(store, "wbe")
