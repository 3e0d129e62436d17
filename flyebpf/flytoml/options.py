# SPDX-License-Identifier: Apache-2.0
"""A port's ``tls_options``, ``http_options`` and ``proxy_proto_options``."""

from __future__ import annotations

from flyebpf.flytoml.headers import TOKEN, response_headers
from flyebpf.flytoml.section import Section
from flyebpf.model.names import quoted
from flyebpf.model.records import HttpOptions, ReplayCache, TlsOptions

_TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
_OFFERED = ("h2", "http/1.1")
"""By the proxy's listeners; those of pg_tls offer PostgreSQL's own."""
_ALPN_MAX = 255  # octets, RFC 7301 section 3.1
_SHORTEST_TTL, _DEFAULT_TTL = 10, 60  # seconds


def tls_options(owner: Section) -> TlsOptions | None:
    """None when there are none."""
    section = owner.section("tls_options")
    if section is None:
        return None
    default = TlsOptions()
    alpn = section.strings("alpn")
    for protocol in alpn or ():
        if not (protocol.isascii() and protocol.isprintable() and 0 < len(protocol) <= _ALPN_MAX):
            section.error("alpn", f"{quoted(protocol)} is not a protocol's name")
        elif protocol not in _OFFERED:
            section.warn(
                "alpn",
                f"{quoted(protocol)} is not offered, only {', '.join(_OFFERED)} are: clients "
                "that insist on it fail, others go on without",
            )
    versions = section.choices("versions", _TLS_VERSIONS)
    if versions == ():
        section.error("versions", f"is empty: name one or both of {', '.join(_TLS_VERSIONS)}")
    options = TlsOptions(
        alpn=default.alpn if alpn is None else alpn,
        versions=versions or default.versions,
        default_self_signed=section.boolean("default_self_signed", default.default_self_signed),
    )
    section.finish()
    return options


def http_options(owner: Section) -> HttpOptions | None:
    """None when there are none."""
    section = owner.section("http_options")
    if section is None:
        return None
    pristine = False
    headers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    response = section.section("response")
    if response is not None:
        pristine = response.boolean("pristine", False)
        headers = response_headers(response, "headers")
        response.finish()
    if section.raw("headers_read_timeout") is not None:
        section.warn("headers_read_timeout", "is not applied: every port allows 60 s")
    options = HttpOptions(
        compress=section.boolean("compress", False),
        h2_backend=section.boolean("h2_backend", False),
        idle_timeout=section.integer("idle_timeout", 1),
        headers_read_timeout=section.integer("headers_read_timeout", 1),
        pristine=pristine,
        response_headers=headers,
        replay_cache=tuple(_replay_cache(rule) for rule in section.sections("replay_cache")),
    )
    section.finish()
    return options


def proxy_proto_version(owner: Section) -> str:
    """``v1`` or ``v2``."""
    section = owner.section("proxy_proto_options")
    if section is None:
        return "v1"
    version = section.choice("version", ("v1", "v2"), "v1")
    section.finish()
    return version


def _replay_cache(section: Section) -> ReplayCache:
    for key in ("path_prefix", "type", "name"):
        if key not in section:
            section.error(key, "is missing")
    prefix = section.string("path_prefix", "/")
    if not prefix.startswith("/"):
        section.error("path_prefix", f"must start with /, not {quoted(prefix)}")
    name = section.string("name", "x")
    if not TOKEN.fullmatch(name):
        section.error("name", f"{quoted(name)} is not a name of a cookie or a header")
    rule = ReplayCache(
        path_prefix=prefix,
        type=section.choice("type", ("cookie", "header"), "cookie"),
        name=name,
        ttl_seconds=section.integer("ttl_seconds", _SHORTEST_TTL) or _DEFAULT_TTL,
        allow_bypass=section.boolean("allow_bypass", False),
    )
    section.finish()
    return rule
