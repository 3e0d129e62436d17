# SPDX-License-Identifier: Apache-2.0
"""What a fly.toml means: values, defaults, older forms, warnings."""

from __future__ import annotations

import contextlib
import datetime
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyebpf.errors import InvalidError
from flyebpf.flytoml import ParsedConfig, parse, parse_table
from flyebpf.model.codec import decode, encode
from flyebpf.model.records import (
    Check,
    Concurrency,
    Deployment,
    HttpOptions,
    Port,
    ReplayCache,
    Service,
    TlsOptions,
)

WHOLE = """
app = "web"
primary_region = "ams"
kill_signal = "SIGTERM"
[build]
image = "x"
[env]
ANY = "thing"
[processes]
front = "serve"
worker = "work"

[http_service]
internal_port = 3000
force_https = true
processes = ["front"]
auto_stop_machines = "suspend"
auto_start_machines = false
min_machines_running = 2
[http_service.concurrency]
type = "requests"
soft_limit = 50
hard_limit = 60
[http_service.tls_options]
alpn = ["h2"]
versions = ["TLSv1.3"]
default_self_signed = true
[http_service.http_options]
compress = true
h2_backend = true
idle_timeout = 600
headers_read_timeout = 10
[http_service.http_options.response]
pristine = true
[http_service.http_options.response.headers]
X-Removed = false
X-One = "a"
X-Two = ["a", "b"]
[[http_service.http_options.replay_cache]]
path_prefix = "/api"
ttl_seconds = 30
type = "header"
name = "X-Tenant"
allow_bypass = true
[[http_service.checks]]
interval = "10s"
timeout = 3000
grace_period = "30s"
method = "head"
path = "/health?full=1"
protocol = "https"
tls_skip_verify = true
tls_server_name = "web.internal"
[http_service.checks.headers]
X-Check = "yes"

[[services]]
protocol = "udp"
internal_port = 5353
processes = ["front", "worker"]
[[services.ports]]
port = 53
[[services.ports]]
start_port = 6000
end_port = 6010

[[services]]
processes = ["front"]
[[services.ports]]
port = 5432
handlers = ["pg_tls", "proxy_proto"]
[services.ports.proxy_proto_options]
version = "v2"
[[services.tcp_checks]]
interval = "20s"

[checks.alive]
type = "http"
port = 3000
path = "/alive"
processes = ["front"]
[checks.socket]
type = "tcp"
port = "5432"
"""


def service(text: str, **more: Any) -> Service:
    """The only service of a file that has no errors and no warnings."""
    parsed = parse(text, **more)
    assert parsed.warnings == ()
    (only,) = parsed.services
    return only


def raw(text: str = "") -> Service:
    """A service on port 80 with these lines in it."""
    return service(f"[[services]]\n{text}\n[[services.ports]]\nport = 80\n")


def port(text: str) -> Port:
    """A port with these lines in it."""
    (only,) = service(f"[[services]]\n[[services.ports]]\n{text}\n").ports
    return only


def test_the_whole_schema() -> None:
    http = HttpOptions(
        compress=True,
        h2_backend=True,
        idle_timeout=600,
        headers_read_timeout=10,
        pristine=True,
        response_headers=(("X-Removed", ()), ("X-One", ("a",)), ("X-Two", ("a", "b"))),
        replay_cache=(ReplayCache("/api", "header", "X-Tenant", 30, True),),
    )
    web = Service(
        "tcp",
        3000,
        (
            Port(80, 80, ("http",), force_https=True, http_options=http),
            Port(
                443,
                443,
                ("http", "tls"),
                tls_options=TlsOptions(("h2",), ("TLSv1.3",), True),
                http_options=http,
            ),
        ),
        processes=("front",),
        concurrency=Concurrency("requests", 50, 60),
        auto_stop="suspend",
        auto_start=False,
        min_machines_running=2,
        checks=(
            Check(
                "http",
                interval=10_000,
                timeout=3_000,
                grace_period=30_000,
                method="HEAD",
                path="/health?full=1",
                protocol="https",
                headers=(("X-Check", "yes"),),
                tls_skip_verify=True,
                tls_server_name="web.internal",
            ),
        ),
    )
    dns = Service("udp", 5353, (Port(53, 53), Port(6000, 6010)), processes=("front", "worker"))
    database = Service(
        "tcp",
        8080,
        (Port(5432, 5432, ("pg_tls", "proxy_proto"), proxy_proto_version="v2"),),
        processes=("front",),
        checks=(Check("tcp", interval=20_000),),
    )
    assert parse(WHOLE, strict=True) == ParsedConfig(
        app="web",
        primary_region="ams",
        services=(web, dns, database),
        checks=(
            Check("http", name="alive", port=3000, path="/alive", processes=("front",)),
            Check("tcp", name="socket", port=5432),
        ),
        processes=("front", "worker"),
        warnings=(
            "http_service.http_options.headers_read_timeout (line 32): is not applied: every "
            "port allows 60 s",
        ),
    )


def test_an_empty_file() -> None:
    assert parse("") == ParsedConfig("", "", (), (), ("app",), ())


def test_defaults_of_a_service() -> None:
    assert raw() == Service(
        "tcp",
        8080,
        (Port(80, 80),),
        processes=("app",),
        concurrency=Concurrency("connections", 20, None),
        auto_stop="off",
        auto_start=True,
        min_machines_running=0,
        checks=(),
    )


def test_defaults_of_http_service() -> None:
    assert service("[http_service]").ports == (
        Port(80, 80, ("http",)),
        Port(443, 443, ("http", "tls")),
    )


def test_defaults_of_checks() -> None:
    text = "[[services.http_checks]]\n[[services.tcp_checks]]"
    assert raw(text).checks == (
        Check("tcp", 15_000, 2_000, 1_000),
        Check("http", 15_000, 2_000, 1_000, method="GET", path="/", protocol="http"),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", "stop"), ("false", "off"), ('"off"', "off"), ('"stop"', "stop")],
)
def test_auto_stop(value: str, expected: str) -> None:
    assert raw(f"auto_stop_machines = {value}").auto_stop == expected


def test_a_low_hard_limit_lowers_the_default_soft_limit() -> None:
    assert raw("concurrency = { hard_limit = 5 }").concurrency.soft_limit == 5


@pytest.mark.parametrize(
    "text",
    [
        "[services]\ninternal_port = '80'\n[[services.ports]]\nport = '80'",
        "[services]\ninternal_port = 80\n[services.ports]\nport = 80",
        "[[services]]\ninternal_port = '80'\nports = ['80']",
        "[[services]]\ninternal_port = 80\nports = [80]",
        "[[services]]\ninternal_port = 80\nports = [{ port = '80' }]",
        "[[services]]\ninternal_port = 80\nports = [{ start_port = '80', end_port = 80 }]",
    ],
)
def test_older_forms_of_services_and_ports(text: str) -> None:
    assert service(text) == Service("tcp", 80, (Port(80, 80),), processes=("app",))


def test_older_form_of_concurrency() -> None:
    assert raw('concurrency = "20, 25"').concurrency == Concurrency("requests", 20, 25)


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        ("{ A = 'b', C = ['d', 'e'] }", (("A", "b"), ("C", "d"), ("C", "e"))),
        ("['A: b', 'C:d:e']", (("A", "b"), ("C", "d:e"))),
        ("[{ name = 'A', value = 'b' }]", (("A", "b"),)),
        ("[{ A = 'b' }]", (("A", "b"),)),
        ("[]", ()),
    ],
)
def test_forms_of_check_headers(value: str, headers: tuple[tuple[str, str], ...]) -> None:
    text = f"[[services.http_checks]]\nheaders = {value}"
    assert raw(text).checks == (Check("http", headers=headers),)


@pytest.mark.parametrize(
    ("value", "used", "how"),
    [("10", 1_000, "raised"), ('"61s"', 60_000, "lowered"), ('"1h"', 60_000, "lowered")],
)
@pytest.mark.parametrize("key", ["interval", "timeout", "grace_period"])
def test_times_of_checks_have_bounds(key: str, value: str, used: int, how: str) -> None:
    parsed = parse(
        f"[[services]]\nports = [80]\n[[services.tcp_checks]]\n{key} = {value}", strict=True
    )
    (check,) = parsed.services[0].checks
    assert getattr(check, key) == used
    (warning,) = parsed.warnings
    assert warning.startswith(f"services[0].tcp_checks[0].{key} (line 4): ")
    assert f"is {how} to {used // 1000} s" in warning


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("colour = 1", "colour (line 1)"),
        ("[[services]]\ncolour = 1\nports = [1]", "services[0].colour (line 2)"),
        (
            "[[services]]\n[[services.ports]]\nport = 1\n[[services.ports]]\nport = 2\ncolour = 1",
            "services[0].ports[1].colour (line 6)",
        ),
        ("[http_service]\ncolour = 1", "http_service.colour (line 2)"),
        ("[http_service.concurrency]\ncolour = 1", "http_service.concurrency.colour (line 2)"),
        ("[http_service.tls_options]\ncolour = 1", "http_service.tls_options.colour (line 2)"),
        ("[http_service.http_options]\ncolour = 1", "http_service.http_options.colour (line 2)"),
        (
            "[http_service.http_options.response]\ncolour = 1",
            "http_service.http_options.response.colour (line 2)",
        ),
        ("[[http_service.checks]]\ncolour = 1", "http_service.checks[0].colour (line 2)"),
        ("[checks.a]\ntype = 'tcp'\nport = 1\ncolour = 1", "checks.a.colour (line 4)"),
    ],
)
def test_unknown_keys_are_warnings_and_strictly_errors(text: str, key: str) -> None:
    (warning,) = parse(text).warnings
    assert warning == f"{key}: unknown key"
    with pytest.raises(InvalidError) as caught:
        parse(text, strict=True)
    assert warning in caught.value.message


def test_unknown_keys_suggest_known_ones() -> None:
    (warning,) = parse("[http_service]\ninternal_prot = 1").warnings
    assert warning.endswith('unknown key; did you mean "internal_port"?')


@pytest.mark.parametrize(
    ("text", "key", "handler"),
    [
        ("port = 1\ntls_options = {}", "tls_options", "tls or pg_tls"),
        ("port = 1\nhttp_options = {}", "http_options", "http"),
        ("port = 1\nproxy_proto_options = {}", "proxy_proto_options", "proxy_proto"),
    ],
)
def test_options_without_their_handler_are_warnings(text: str, key: str, handler: str) -> None:
    (warning,) = parse(f"[[services]]\n[[services.ports]]\n{text}", strict=True).warnings
    assert f"ports[0].{key}" in warning
    assert f"without the handler {handler}" in warning


def test_a_protocol_that_the_proxy_does_not_offer() -> None:
    text = "[[services]]\n[[services.ports]]\nport = 993\nhandlers = ['tls']\n"
    (warning,) = parse(f"{text}tls_options = {{ alpn = ['http/1.1', 'imap'] }}").warnings
    assert "ports[0].tls_options.alpn" in warning
    assert "'imap' is not offered, only h2, http/1.1 are" in warning


def test_force_https_on_plain_http() -> None:
    assert port('port = 8000\nhandlers = ["http"]\nforce_https = true').force_https


def test_one_number_may_be_on_tcp_and_udp() -> None:
    parsed = parse('[[services]]\nports = [53]\n[[services]]\nprotocol = "udp"\nports = [53]')
    assert [s.protocol for s in parsed.services] == ["tcp", "udp"]


KEYS = st.sampled_from(
    [
        "app",
        "primary_region",
        "http_service",
        "services",
        "checks",
        "processes",
        "internal_port",
        "protocol",
        "ports",
        "port",
        "start_port",
        "end_port",
        "handlers",
        "tls_options",
        "http_options",
        "proxy_proto_options",
        "version",
        "alpn",
        "versions",
        "response",
        "headers",
        "pristine",
        "replay_cache",
        "path_prefix",
        "ttl_seconds",
        "type",
        "name",
        "concurrency",
        "soft_limit",
        "hard_limit",
        "tcp_checks",
        "http_checks",
        "interval",
        "timeout",
        "grace_period",
        "method",
        "path",
        "force_https",
        "auto_stop_machines",
        "auto_start_machines",
        "min_machines_running",
    ]
)
WORDS = st.sampled_from(["tcp", "udp", "http", "tls", "pg_tls", "app", "web", "80", "15s", "v2"])
LEAVES = st.one_of(
    WORDS,
    st.text(max_size=6),
    st.booleans(),
    st.integers(-1, 70_000),
    st.integers(),
    st.floats(),
    st.builds(lambda: 10**5000),
    st.just(math.inf),
    st.just(datetime.date(2024, 2, 29)),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=6), inner, max_size=6)
    ),
    max_leaves=25,
)


def assert_valid_or_invalid(table: dict[str, Any]) -> None:
    """Parses to what can be stored, or raises InvalidError and nothing else."""
    try:
        parsed = parse_table(table)
    except InvalidError as error:
        message = str(error)
    else:
        deployment = Deployment("web", parsed.services, parsed.checks)
        assert decode("deployment", encode(deployment)) == deployment
        message = "".join(parsed.warnings)
    assert message.replace("\n", "").isprintable()


@settings(max_examples=300, deadline=None)
@given(table=st.dictionaries(KEYS | st.text(max_size=6), ANYTHING, max_size=6))
def test_any_table_is_valid_or_invalid(table: dict[str, Any]) -> None:
    assert_valid_or_invalid(table)


@settings(max_examples=300, deadline=None)
@given(
    service=st.dictionaries(KEYS, ANYTHING, max_size=8),
    ports=st.lists(st.dictionaries(KEYS, LEAVES | st.lists(WORDS, max_size=2)), max_size=3),
)
def test_any_service_is_valid_or_invalid(service: dict[str, Any], ports: list[Any]) -> None:
    assert_valid_or_invalid({"services": [service | {"ports": ports}], "http_service": service})


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab[]{}=.\"\n,'#1é\\", max_size=60))
def test_any_text_is_valid_or_invalid(text: str) -> None:
    with contextlib.suppress(InvalidError):
        parse(text)
