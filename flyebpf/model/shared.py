# SPDX-License-Identifier: Apache-2.0
"""What a shared IPv4 address and a Flycast address may carry (contract, sections
1 and 5). Many apps are behind a shared one: what tells them apart must be in the
connection, an HTTP host or a TLS server name."""

from __future__ import annotations

from collections.abc import Iterator

from flyebpf.model.records import AddressKind, Port, Service

HTTP, HTTPS = 80, 443


def misfit(service: Service, port: Port) -> str | None:
    """Why clients of a shared address cannot reach this port of a service, or None."""
    handlers = frozenset(port.handlers)
    if service.protocol != "tcp":
        return f"{service.protocol} says no app's name"
    if HTTP in (port.start, port.end) or port.start < HTTP < port.end:
        good = port.start == port.end and handlers == {"http"}
        return None if good else f"port {HTTP} must have the handlers [http] and no others"
    if HTTPS in (port.start, port.end) or port.start < HTTPS < port.end:
        good = port.start == port.end and handlers == {"http", "tls"}
        return None if good else f"port {HTTPS} must have the handlers [http, tls] and no others"
    if port.start != port.end:
        return "a range of ports is no app's alone"
    if "tls" not in handlers:
        return f"only the handler tls says the app's name on ports other than {HTTP} and {HTTPS}"
    return None


def is_web(service: Service, port: Port) -> bool:
    """Whether it is port 80 or 443, as a shared address carries them."""
    return port.start in (HTTP, HTTPS) and misfit(service, port) is None


def misfits(services: tuple[Service, ...]) -> Iterator[tuple[str, str]]:
    """The ports that a shared address does not carry, as users know them, and why."""
    for number, service in enumerate(services):
        for port in service.ports:
            why = misfit(service, port)
            if why is not None:
                yield named(number, service, port), why


def carried(services: tuple[Service, ...]) -> int:
    """How many ports a shared address carries."""
    return sum(misfit(service, port) is None for service in services for port in service.ports)


def forcing_https(services: tuple[Service, ...]) -> Iterator[str]:
    """The ports with ``force_https``, which a Flycast address cannot have: who
    calls it has no certificate to trust."""
    for number, service in enumerate(services):
        for port in service.ports:
            if port.force_https:
                yield named(number, service, port)


def carries(kind: AddressKind, service: Service, port: Port) -> bool:
    """Whether clients reach the port of a service at an address of this kind."""
    match kind:
        case AddressKind.V4 | AddressKind.V6:
            return True
        case AddressKind.SHARED_V4:
            return misfit(service, port) is None
        case AddressKind.PRIVATE_V6:
            return service.protocol == "tcp"
        case AddressKind.EGRESS:
            return False


def named(number: int, service: Service, port: Port) -> str:
    """``services[0] (tcp port 80 to 8080)``."""
    ports = str(port.start) if port.start == port.end else f"{port.start}-{port.end}"
    return f"services[{number}] ({service.protocol} port {ports} to {service.internal_port})"
