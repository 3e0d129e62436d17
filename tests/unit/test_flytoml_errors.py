# SPDX-License-Identifier: Apache-2.0
"""Every rule of the schema: what breaks it, and where the message points."""

from __future__ import annotations

import pytest

from flyebpf.errors import InvalidError
from flyebpf.flytoml import parse

SERVICE = "[[services]]\n"
PORT = "[[services]]\n[[services.ports]]\nport = 80\n"
UDP = '[[services]]\nprotocol = "udp"\n[[services.ports]]\nport = 80\n'
HTTP_CHECK = "[[services]]\nports = [80]\n[[services.http_checks]]\n"
CACHE = "[[http_service.http_options.replay_cache]]\n"

CASES = [
    ("app = 1", "app (line 1)", "app name 1"),
    ('app = "Web"', "app (line 1)", "app name 'Web'"),
    ('primary_region = "all"', "primary_region (line 1)", "reserved"),
    ("services = 1", "services (line 1)", "must be an array of tables"),
    ("services = [1]", "services[0] (line 1)", "must be a table"),
    ("http_service = 1", "http_service (line 1)", "must be a table"),
    ("processes = 1", "processes (line 1)", "must be a table"),
    ("[processes]\na = 1", "processes.a (line 2)", "must be a string"),
    ('[processes]\n"a b" = "x"', "processes.a b (line 2)", "process group 'a b'"),
    (SERVICE + "internal_port = 0\nports = [1]", "services[0].internal_port (line 2)", "from 1 to"),
    (SERVICE + "internal_port = 65536\nports = [1]", "services[0].internal_port", "65535"),
    (SERVICE + "internal_port = '8x'\nports = [1]", "services[0].internal_port", "'8x'"),
    (SERVICE + "internal_port = true\nports = [1]", "services[0].internal_port", "True"),
    (SERVICE + "protocol = 'tpc'\nports = [1]", "services[0].protocol", 'did you mean "tcp"?'),
    (SERVICE, "services[0].ports (line 1)", "at least one port"),
    (SERVICE + "ports = []", "services[0].ports (line 2)", "at least one port"),
    (SERVICE + "ports = 80", "services[0].ports (line 2)", "must be an array"),
    (SERVICE + "ports = [80, 'x']", "services[0].ports[1] (line 2)", "must be a table or a port"),
    (SERVICE + "ports = [{}]", "services[0].ports[0].port", "is missing"),
    (SERVICE + "ports = [{port = 0}]", "services[0].ports[0].port", "from 1 to 65535"),
    (SERVICE + "ports = [{start_port = 1}]", "services[0].ports[0].end_port", "go together"),
    (SERVICE + "ports = [{end_port = 1}]", "services[0].ports[0].start_port", "go together"),
    (SERVICE + "ports = [{start_port = 2, end_port = 1}]", "ports[0].start_port", "2 is above"),
    (SERVICE + "ports = [{port = 1, end_port = 2}]", "ports[0].port", "together with end_port"),
    (PORT + "handlers = 'http'", "services[0].ports[0].handlers (line 4)", "list of strings"),
    (PORT + "handlers = ['htp']", "services[0].ports[0].handlers", 'did you mean "http"?'),
    (PORT + "handlers = ['tls', 'tls']", "services[0].ports[0].handlers", "twice"),
    (PORT + "handlers = ['tls', 'pg_tls']", "ports[0].handlers", "contradict"),
    (PORT + "handlers = ['http', 'pg_tls']", "ports[0].handlers", "contradict"),
    (PORT + "force_https = true", "services[0].ports[0].force_https (line 4)", "contain http"),
    (PORT + "force_https = true\nhandlers = ['http', 'tls']", "ports[0].force_https", "not tls"),
    (PORT + "force_https = 1", "services[0].ports[0].force_https", "true or false"),
    (UDP + "handlers = ['tls']", "services[0].ports[0].handlers (line 5)", "udp service"),
    (UDP + "force_https = true", "services[0].ports[0].force_https", "udp service"),
    (
        UDP + "[services.concurrency]\ntype = 'requests'",
        "services[0].concurrency (line 5)",
        "udp service",
    ),
    (
        "[[services]]\nprotocol = 'udp'\nports = [1]\nconcurrency = '1,2'",
        "services[0].concurrency (line 4)",
        "udp service",
    ),
    (SERVICE + "processes = ['x']\nports = [1]", "services[0].processes", "no process group 'x'"),
    (
        "[processes]\nfront = 'x'\n[http_service]\nprocesses = ['frnt']",
        "http_service.processes (line 4)",
        'did you mean "front"?',
    ),
    (
        "[processes]\nfront = 'x'\n[http_service]",
        "http_service.processes (line 3)",
        "is missing: the app has process groups",
    ),
    ("[http_service]\nprocesses = [1]", "http_service.processes (line 2)", "list of strings"),
    ("[http_service]\nauto_stop_machines = 'on'", "auto_stop_machines (line 2)", "off, stop"),
    ("[http_service]\nauto_start_machines = 'x'", "auto_start_machines", "true or false"),
    ("[http_service]\nmin_machines_running = -1", "min_machines_running", "at least 0"),
    ("[http_service]\nmin_machines_running = 1.5", "min_machines_running", "whole number"),
    ("[http_service.concurrency]\ntype = 'x'", "http_service.concurrency.type", "connections"),
    ("[http_service.concurrency]\nsoft_limit = 0", "concurrency.soft_limit", "at least 1"),
    (
        "[http_service.concurrency]\nsoft_limit = 9\nhard_limit = 8",
        "http_service.concurrency.soft_limit (line 2)",
        "9 is above hard_limit 8",
    ),
    ("[http_service]\nconcurrency = '25,20'", "http_service.concurrency", "above"),
    ("[http_service]\nconcurrency = '25'", "http_service.concurrency", '"SOFT,HARD"'),
    ("[http_service]\nconcurrency = 25", "http_service.concurrency", "must be a table"),
    ("[http_service.tls_options]\nalpn = ['']", "http_service.tls_options.alpn", "''"),
    (
        SERVICE + "ports = [{start_port = 1, end_port = 513, handlers = ['tls']}]",
        "services",
        "513 ports, more than 512",
    ),
    (
        f"[[services]]\nports = [80]\ntcp_checks = [{'{},' * 26}]\nhttp_checks = [{'{},' * 25}]\n",
        "checks",
        "51 of them, more than 50",
    ),
    ("[http_service.tls_options]\nversions = []", "tls_options.versions", "is empty"),
    ("[http_service.tls_options]\nversions = ['TLSv1.1']", "tls_options.versions", "TLSv1.2"),
    ("[http_service.http_options]\nidle_timeout = 0", "http_options.idle_timeout", "at least 1"),
    (
        "[http_service.http_options.response.headers]\nHost = 'a'",
        "response.headers.Host (line 2)",
        "no header of an answer",
    ),
    ("[http_service.http_options.response.headers]\nhost = false", "headers.host", "no header"),
    (
        f"[http_service.http_options.response.headers]\nX = '{'ü' * 2049}'",
        "response.headers.X (line 2)",
        "4098 bytes, more than 4096",
    ),
    (
        f"[http_service.http_options.response.headers]\nX = {['a'] * 101}",
        "response.headers (line 1)",
        "101 headers, more than 100",
    ),
    (
        "[http_service.http_options.response.headers]\nX = true",
        "http_service.http_options.response.headers.X (line 2)",
        "must be false",
    ),
    (
        '[http_service.http_options.response.headers]\nX = "a\\r\\nSet-Cookie: b"',
        "response.headers.X",
        "one line",
    ),
    (
        "[http_service.http_options.response.headers]\n'X Y' = 'a'",
        "response.headers.X Y",
        "not a header name",
    ),
    (CACHE, "http_service.http_options.replay_cache[0].type (line 1)", "is missing"),
    (CACHE + "ttl_seconds = 9", "replay_cache[0].ttl_seconds (line 2)", "at least 10"),
    (CACHE + "path_prefix = 'x'", "replay_cache[0].path_prefix", "start with /"),
    (CACHE + "type = 'body'", "replay_cache[0].type", "cookie, header"),
    (CACHE + "name = 'a b'", "replay_cache[0].name", "'a b'"),
    (
        PORT + "handlers = ['proxy_proto']\nproxy_proto_options = {version = 'v3'}",
        "ports[0].proxy_proto_options.version",
        "v1, v2",
    ),
    (HTTP_CHECK + "interval = 'x'", "services[0].http_checks[0].interval (line 4)", "duration"),
    (HTTP_CHECK + "timeout = -1", "http_checks[0].timeout", "duration"),
    (HTTP_CHECK + "timeout = inf", "http_checks[0].timeout", "duration"),
    (HTTP_CHECK + "path = 'x'", "http_checks[0].path", "start with /"),
    (HTTP_CHECK + "path = '/a b'", "http_checks[0].path", "no spaces"),
    (HTTP_CHECK + "method = 'G T'", "http_checks[0].method", "HTTP method"),
    (HTTP_CHECK + "protocol = 'ftp'", "http_checks[0].protocol", "http, https"),
    (HTTP_CHECK + "headers = 1", "http_checks[0].headers", "table of header names"),
    (HTTP_CHECK + "headers = ['x']", "http_checks[0].headers", '"Name: value"'),
    (HTTP_CHECK + "headers = {X = 1}", "http_checks[0].headers", "string of one line"),
    (HTTP_CHECK + "tls_server_name = '-'", "http_checks[0].tls_server_name", "host name"),
    ("[checks]\na = 1", "checks.a (line 2)", "must be a table"),
    ("[checks.a]\nport = 1", "checks.a.type (line 1)", "is missing"),
    ("[checks.a]\ntype = 'tcp'", "checks.a.port (line 1)", "is missing"),
    ("[checks.a]\ntype = 'udp'\nport = 1", "checks.a.type (line 2)", "tcp, http"),
    ("[checks.'a b']\ntype = 'tcp'\nport = 1", "checks.a b (line 1)", "check name 'a b'"),
    (
        "[checks.a]\ntype = 'tcp'\nport = 1\nprocesses = ['x']",
        "checks.a.processes (line 4)",
        "no process group 'x'",
    ),
]


@pytest.mark.parametrize(("text", "where", "what"), CASES, ids=[case[1] for case in CASES])
def test_rule(text: str, where: str, what: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(text)
    lines = caught.value.message.splitlines()
    assert any(where in line and what in line for line in lines), caught.value.message
    assert caught.value.remedy


OVERLAPS = [
    ("[http_service]\n[[services]]\nports = [443]", ["http_service", "services[0]", "443"]),
    (
        "[[services]]\nports = [{start_port = 1, end_port = 9}]\n[[services]]\nports = [5]",
        ["services[0]", "services[1]", "1-9", "port 5"],
    ),
    (
        "[[services]]\nports = [5]\n[[services]]\nports = [{start_port = 1, end_port = 9}]",
        ["services[0]", "services[1]"],
    ),
    (
        "[[services]]\nprotocol='udp'\nports = [{start_port = 1, end_port = 9}]\n"
        "[[services]]\nprotocol='udp'\nports = [{start_port = 9, end_port = 10}]",
        ["services[0]", "services[1]", "1-9", "9-10", "udp"],
    ),
    (  # the range that both overlap is not their neighbour in port order
        "[[services]]\nports = [{start_port = 1, end_port = 9}, 20]\n[[services]]\nports = [3]\n"
        "[[services]]\nports = [8]",
        ["tcp port 8 of services[2] overlaps ports 1-9 of services[0]"],
    ),
    ("[[services]]\nports = [7, 7]", ["services[0]", "port 7"]),
]


@pytest.mark.parametrize(("text", "named"), OVERLAPS)
def test_overlaps_name_both_services(text: str, named: list[str]) -> None:
    with pytest.raises(InvalidError, match="overlaps") as caught:
        parse(text)
    for word in named:
        assert word in caught.value.message


def test_neighbours_do_not_overlap() -> None:
    assert parse("[[services]]\nports = [{start_port = 1, end_port = 9}, 10]").services


def test_all_errors_are_told_at_once() -> None:
    text = PORT + "handlers = ['x']\n[[services]]\ninternal_port = 0\n[http_service]\nprocesses = 1"
    with pytest.raises(InvalidError) as caught:
        parse(text)
    message = caught.value.message
    assert message.startswith("fly.toml has 5 errors:")
    for where in ("ports[0].handlers (line 4)", "services[1].internal_port (line 6)"):
        assert where in message
    for where in ("services[1].ports (line 5)", "http_service.processes (line 8)", "overlaps"):
        assert where in message


def test_errors_beyond_a_screenful_are_counted() -> None:
    with pytest.raises(InvalidError) as caught:
        parse("[[services]]\n" * 60)
    assert caught.value.message.startswith("fly.toml has 60 errors")
    assert caught.value.message.endswith("and 10 more")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a = \n", "line 1, column"),
        ("a = 1\na = 2\n", "line 2"),
        ("a = " + "[" * 5000, "deeply"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = '" + "x" * 70_000 + "'", "more than 65536"),
    ],
)
def test_what_is_not_toml(text: str, match: str) -> None:
    with pytest.raises(InvalidError, match=match) as caught:
        parse(text)
    assert caught.value.remedy


def test_an_integer_too_long_to_print() -> None:
    with pytest.raises(InvalidError, match="a very long int"):
        parse("[[services]]\ninternal_port = 0x" + "f" * 9000 + "\nports = [1]")


def test_keys_cannot_write_on_the_terminal() -> None:
    (warning,) = parse('"\\u001b[2J" = 1').warnings
    assert warning.isprintable()
