# SPDX-License-Identifier: Apache-2.0
"""What a shared IPv4 address carries."""

from __future__ import annotations

import pytest

from flyebpf.model import shared
from flyebpf.model.records import AddressKind, Port, Service
from tests.records import service

HTTP, TLS, BOTH = ("http",), ("tls",), ("http", "tls")
CASES: list[tuple[int | tuple[int, int], tuple[str, ...], str, str | None, str]] = [
    (80, HTTP, "tcp", None, "port 80 as http: the request says its host"),
    (80, (), "tcp", "port 80 must have", "a raw stream on port 80 says nothing"),
    (80, BOTH, "tcp", "port 80 must have", "exactly [http], so no TLS on 80"),
    (80, TLS, "tcp", "port 80 must have", "nor TLS alone"),
    (80, ("http", "proxy_proto"), "tcp", "port 80 must have", "nor anything with it"),
    (443, BOTH, "tcp", None, "port 443 as https"),
    (443, ("tls", "http"), "tcp", None, "in any order: it is a set"),
    (443, TLS, "tcp", "port 443 must have", "exactly {http, tls}, so not TLS alone"),
    (443, HTTP, "tcp", "port 443 must have", "nor http alone"),
    (443, (), "tcp", "port 443 must have", "nor raw"),
    (443, ("pg_tls",), "tcp", "port 443 must have", "nor PostgreSQL"),
    (5432, TLS, "tcp", None, "another port with TLS: the client's hello says its name"),
    (8443, BOTH, "tcp", None, "also with http"),
    (993, ("tls", "proxy_proto"), "tcp", None, "also with the PROXY protocol"),
    ((9000, 9010), TLS, "tcp", "a range of ports", "a range, each port of which has many names"),
    (8080, HTTP, "tcp", "only the handler tls", "http on another port than 80"),
    (25, (), "tcp", "only the handler tls", "a raw stream on any port"),
    (5432, ("pg_tls",), "tcp", "only the handler tls", "pg_tls asks before it says a name"),
    (7000, ("proxy_proto",), "tcp", "only the handler tls", "the PROXY protocol alone"),
    ((79, 81), HTTP, "tcp", "port 80 must have", "a range that has port 80 in it"),
    ((80, 90), HTTP, "tcp", "port 80 must have", "or begins with it"),
    ((400, 443), TLS, "tcp", "port 443 must have", "or ends with port 443"),
    ((1, 65535), TLS, "tcp", "port 80 must have", "or is everything"),
    (5000, (), "udp", "udp says no app's name", "UDP has no names at all"),
    (80, (), "udp", "udp says no app's name", "on no port"),
]


@pytest.mark.parametrize(
    ("port", "handlers", "protocol", "why", "sentence"), CASES, ids=[case[4] for case in CASES]
)
def test_what_it_carries(
    port: int | tuple[int, int],
    handlers: tuple[str, ...],
    protocol: str,
    why: str | None,
    sentence: str,
) -> None:
    made = service(port, handlers=handlers, protocol=protocol)
    found = shared.misfit(made, made.ports[0])
    assert (found is None) == (why is None), sentence
    assert why is None or (found is not None and why in found)
    assert shared.carried((made,)) == (why is None)


def test_each_port_that_does_not_fit_is_named() -> None:
    web = service(80, handlers=HTTP)
    mail = Service("tcp", 2525, (Port(25, 25), Port(465, 465, TLS)))
    found = dict(shared.misfits((web, mail)))
    assert list(found) == ["services[1] (tcp port 25 to 2525)"]
    assert shared.carried((web, mail)) == 2


@pytest.mark.parametrize(
    ("kind", "carried"),
    [
        (AddressKind.V4, [True, True, True]),
        (AddressKind.V6, [True, True, True]),
        (AddressKind.SHARED_V4, [True, False, False]),
        (AddressKind.PRIVATE_V6, [True, True, False]),
        (AddressKind.EGRESS, [False, False, False]),
    ],
)
def test_which_address_carries_what(kind: AddressKind, carried: list[bool]) -> None:
    web, raw, udp = service(80, handlers=HTTP), service(25), service(53, protocol="udp")
    assert [shared.carries(kind, s, s.ports[0]) for s in (web, raw, udp)] == carried


@pytest.mark.parametrize(
    ("port", "handlers", "is_web"),
    [(80, HTTP, True), (443, BOTH, True), (80, (), False), (443, TLS, False), (8443, BOTH, False)],
)
def test_what_makes_an_app_a_web_app(port: int, handlers: tuple[str, ...], is_web: bool) -> None:
    made = service(port, handlers=handlers)
    assert shared.is_web(made, made.ports[0]) is is_web


def test_ports_that_force_https_are_named() -> None:
    forced = Service("tcp", 8080, (Port(80, 80, HTTP, force_https=True), Port(443, 443, BOTH)))
    assert list(shared.forcing_https((forced,))) == ["services[0] (tcp port 80 to 8080)"]
