# SPDX-License-Identifier: Apache-2.0
"""A service's ``ports``: numbers, ranges, handlers and their options."""

from __future__ import annotations

from flyebpf.flytoml import options
from flyebpf.flytoml.section import Section, port_number
from flyebpf.model.names import quoted
from flyebpf.model.records import Port

HANDLERS = ("http", "tls", "pg_tls", "proxy_proto")

_CONTRADICTIONS = (
    ("pg_tls", "tls", "each terminates TLS in its own way"),
    ("pg_tls", "http", "PostgreSQL is not HTTP"),
)


def ports(service: Section, protocol: str) -> list[tuple[str, Port]]:
    """Every port with its key path. A port may be a table, or in the older form
    a number or a string."""
    value = service.raw("ports")
    if value is None or value == []:
        service.error("ports", "is missing: a service needs at least one port")
        return []
    items = [("ports", value)]
    if isinstance(value, list):
        items = [(f"ports[{index}]", item) for index, item in enumerate(value)]
    found = [(service.at(key), _port(service, key, item, protocol)) for key, item in items]
    return [(path, port) for path, port in found if port is not None]


def _port(service: Section, key: str, item: object, protocol: str) -> Port | None:
    if isinstance(item, dict):
        return _table(Section(item, service.at(key), service.problems), protocol)
    number = port_number(item)
    if number is not None and key != "ports":
        return Port(number, number)
    what = "an array of tables" if key == "ports" else "a table or a port from 1 to 65535"
    service.error(key, f"must be {what}, not {quoted(item)}")
    return None


def _table(section: Section, protocol: str) -> Port | None:
    numbers = _numbers(section)
    handlers = section.choices("handlers", HANDLERS) or ()
    _check_contradictions(section, handlers)
    force_https = section.boolean("force_https", False)
    if protocol == "udp":
        _check_udp(section, handlers, force_https)
    elif force_https and ("http" not in handlers or "tls" in handlers):
        section.error(
            "force_https", "needs a port whose handlers contain http and not tls, such as port 80"
        )
    port = Port(
        *(numbers or (1, 1)),
        handlers=handlers,
        force_https=force_https,
        tls_options=options.tls_options(section),
        http_options=options.http_options(section),
        proxy_proto_version=options.proxy_proto_version(section),
    )
    _warn_of_useless_options(section, handlers)
    section.finish()
    return port if numbers else None


def _numbers(section: Section) -> tuple[int, int] | None:
    """First and last port; None when they are wrong."""
    port, start, end = (section.port(key) for key in ("port", "start_port", "end_port"))
    bounds = [key for key in ("start_port", "end_port") if key in section]
    if "port" in section and bounds:
        section.error("port", f"cannot be together with {bounds[0]}: give one or the other")
    elif "port" in section:
        return (port, port) if port is not None else None
    elif not bounds:
        section.error("port", "is missing: give `port`, or `start_port` and `end_port`")
    elif len(bounds) == 1:
        missing = "end_port" if bounds == ["start_port"] else "start_port"
        section.error(missing, f"is missing: {bounds[0]} and {missing} go together")
    elif start is not None and end is not None:
        if start <= end:
            return start, end
        section.error("start_port", f"{start} is above end_port {end}")
    return None


def _check_contradictions(section: Section, handlers: tuple[str, ...]) -> None:
    for one, other, why in _CONTRADICTIONS:
        if one in handlers and other in handlers:
            section.error("handlers", f"{one} and {other} contradict each other: {why}")


def _check_udp(section: Section, handlers: tuple[str, ...], force_https: bool) -> None:
    if handlers:
        section.error(
            "handlers", "a udp service cannot have handlers; remove them, or use protocol tcp"
        )
    if force_https:
        section.error("force_https", "a udp service cannot force https; remove it")


def _warn_of_useless_options(section: Section, handlers: tuple[str, ...]) -> None:
    if not {"tls", "pg_tls"} & set(handlers):
        section.warn_useless(["tls_options"], "the handler tls or pg_tls")
    if "http" not in handlers:
        section.warn_useless(["http_options"], "the handler http")
    if "proxy_proto" not in handlers:
        section.warn_useless(["proxy_proto_options"], "the handler proxy_proto")
