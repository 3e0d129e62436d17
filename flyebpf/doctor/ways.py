# SPDX-License-Identifier: Apache-2.0
"""Is the app reached as its clients reach it: by Anycast, by Flycast, on 6PN?"""

from __future__ import annotations

from flyebpf.api.probes import Fetched, Reply, Trust, Way
from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, skipped, warning
from flyebpf.doctor.facts import (
    PUBLIC,
    SHOWN,
    TLS,
    Facts,
    Findings,
    facts,
    is_proxys,
    named,
    of_machine,
    server_names,
    together,
)
from flyebpf.model.certificates import Certificate
from flyebpf.model.records import Address, AddressKind
from flyebpf.ops.transact import every
from flyebpf.plan.services import Exposure

PAIRS = 32
"""(address, port) that are asked at most."""
REDIRECT, NOT_FOUND, SERVER_ERROR = 301, 404, 500
NO_MACHINE = "no healthy upstream"
NO_CONNECTION = "upstream connect error"
"""What Envoy says by itself (common/router, "response flags" UH and UF)."""


def look_at_anycast(patient: Patient) -> Findings:
    """Public addresses that the proxy serves: packets for it, then connections."""
    yield from _through_proxy(patient, PUBLIC)


def look_at_flycast(patient: Patient) -> Findings:
    """Flycast addresses, at the proxy of this host."""
    yield from _through_proxy(patient, frozenset((AddressKind.PRIVATE_V6,)))


def _through_proxy(patient: Patient, kinds: frozenset[AddressKind]) -> Findings:
    found = facts(patient)
    pairs = [
        (exposure, address)
        for exposure in found.exposures
        for address in found.carrying(exposure)
        if address.type in kinds and is_proxys(address, exposure) and exposure.protocol == "tcp"
    ]
    why = _unasked(patient, found, bool(pairs))
    if why:
        yield skipped(why)
        return

    def ask(pair: tuple[Exposure, Address]) -> list[Finding]:
        return list(_asked(patient, found, *pair))

    for findings in together(ask, pairs[:PAIRS]):
        yield from findings


def _unasked(patient: Patient, found: Facts, pairs: bool) -> str:
    said = patient.backend.proxy()
    if not pairs:
        return "the proxy serves no port of the app there"
    if said is None or not said["up"]:
        return "Envoy does not serve on this host: see app-proxy"
    if not found.started():
        return "no machine is started: see app-machines"
    return ""


def _asked(patient: Patient, found: Facts, exposure: Exposure, address: Address) -> Findings:
    where = f"{named(exposure)} at {address.address}"
    if address.type in PUBLIC:
        (edge, *_) = patient.backend.probes.edge(address.address, "tcp", exposure.first)
        if edge.way is not Way.STACK:
            why = f" ({', '.join(edge.reasons)})" if edge.reasons else ""
            yield failed(
                f"{where}: clients' packets do not reach the proxy: {edge.way}{why}",
                "flyebpf status --wait",
            )
            return
    handlers = set(exposure.port.handlers)
    if "proxy_proto" not in handlers and "http" in handlers:
        yield from _http(patient, found, exposure, address, where)
    elif handlers & {"tls", "pg_tls"}:
        yield from _tls(patient, found, exposure, address, where)
    else:
        yield _raw(patient, exposure, address, where)


def _names(patient: Patient, found: Facts, exposure: Exposure, address: Address) -> list[str]:
    """Those by which clients ask there; where any is taken, the first."""
    tls = not TLS.isdisjoint(exposure.port.handlers)
    private = f"{found.app}.flycast"
    if address.type is AddressKind.PRIVATE_V6:
        own = {record.hostname for record in every(patient.store, Certificate, app=found.app)}
        if not tls or private in own:
            return [private]
    names = list(server_names(patient, found.app))
    return names[:SHOWN] if tls or address.type is AddressKind.SHARED_V4 else names[:1]


def _http(
    patient: Patient, found: Facts, exposure: Exposure, address: Address, where: str
) -> Findings:
    tls = "tls" in exposure.port.handlers
    for name in _names(patient, found, exposure, address):
        got = patient.backend.probes.fetch(address.address, exposure.first, name, tls=tls)
        port = exposure.first
        shown = f"{where}, {'https' if tls else 'http'}://{name}:{port}/"
        yield _http_said(found, exposure, shown, got)
        if got.trust not in (Trust.NONE, Trust.TRUSTED):
            yield _untrusted(found, shown, name, got.trust)


def _http_said(found: Facts, exposure: Exposure, where: str, got: Fetched) -> Finding:
    if not got.status:
        return _no_answer(found, where, got)
    if exposure.port.force_https:
        if got.status == REDIRECT and got.headers.get("location", "").startswith("https://"):
            return ok(f"{where}: 301 to https, as force_https says")
        return failed(f"{where}: {got.status} in place of a redirect to https", "flyebpf status")
    return _of_proxy(found, exposure, where, got) or _of_app(where, got)


def _of_proxy(found: Facts, exposure: Exposure, where: str, got: Fetched) -> Finding | None:
    """What the proxy itself says in place of the app, if that is it."""
    if got.text.startswith(NO_MACHINE):
        why = f"flyebpf machines list -a {found.app}, and flyebpf checks list -a {found.app}"
        return failed(f"{where}: {got.status}, no machine can take it", why)
    if got.text.startswith(NO_CONNECTION):
        return failed(
            f"{where}: {got.status}, the proxy reaches no machine, or that ends the connection",
            "see app-listening",
        )
    options = exposure.port.http_options
    pristine = options is not None and options.pristine
    if got.status == NOT_FOUND and "fly-request-id" not in got.headers and not pristine:
        return failed(
            f"{where}: 404, the proxy does not know this name at this address",
            "flyebpf status --wait, and what it says of certificates",
        )
    return None


def _of_app(where: str, got: Fetched) -> Finding:
    if got.status >= SERVER_ERROR:
        return warning(f"{where}: reached, and the app answers {got.status}", "see the app's log")
    return ok(f"{where}: {got.status}")


def _no_answer(found: Facts, where: str, got: Fetched) -> Finding:
    if got.reply is Reply.OPEN:
        return failed(
            f"{where}: the app takes the request and does not answer",
            f"see the app's log, and flyebpf machines list -a {found.app}",
        )
    remedy = "see app-certificates" if "TLS" in got.fault else "see app-proxy and app-listening"
    return failed(f"{where}: {got.fault}", remedy)


def _untrusted(found: Facts, where: str, name: str, trust: Trust) -> Finding:
    renew = f"flyebpf certs add {name} -a {found.app} with a certificate for it"
    if trust is Trust.UNKNOWN_ISSUER:
        return warning(
            f"{where}: clients of this host's trust do not know who issued the certificate", renew
        )
    return failed(f"{where}: clients refuse the certificate: {trust}", renew)


def _tls(
    patient: Patient, found: Facts, exposure: Exposure, address: Address, where: str
) -> Findings:
    """Decrypted and passed on as it is: what the app speaks is not known."""
    for name in _names(patient, found, exposure, address):
        got = patient.backend.probes.handshake(
            address.address, exposure.first, name, postgres="pg_tls" in exposure.port.handlers
        )
        shown = f"{where}, server name {name}"
        if got.trust is Trust.NONE:
            yield failed(f"{shown}: {got.fault}", "see app-certificates")
        elif got.reply is Reply.CLOSED:
            yield failed(f"{shown}: the proxy reaches no machine", "see app-listening")
        else:
            yield ok(f"{shown}: the handshake is made, and the connection stays")
        if got.trust not in (Trust.NONE, Trust.TRUSTED):
            yield _untrusted(found, shown, name, got.trust)


def _raw(patient: Patient, exposure: Exposure, address: Address, where: str) -> Finding:
    reply = patient.backend.probes.connect(address.address, exposure.first)
    if reply is Reply.OPEN:
        return ok(f"{where}: connected")
    if reply is Reply.CLOSED:
        return failed(
            f"{where}: the proxy takes the connection and reaches no machine", "see app-listening"
        )
    return failed(f"{where}: {reply}", "flyebpf status --wait")


def look_at_6pn(patient: Patient) -> Findings:
    """``<app>.internal``, and each machine that it leads to, at the services' ports."""
    found = facts(patient)
    assert patient.network is not None
    name = f"{found.app}.internal"
    answer = patient.backend.dig(patient.network.number, name, "AAAA", tcp=True)
    led = {record.data for record in answer.answers}
    ports = sorted({e.internal_port for e in found.exposures if e.protocol == "tcp"})
    here = [m for m in found.started() if m.host == found.here and m.id in found.sixpn]
    if not ports or not here:
        yield skipped("no TCP service, or no started machine of this host")
        return
    for machine in here[:PAIRS]:
        address = found.sixpn[machine.id]
        replies = patient.backend.probes.sixpn(address, ports)
        opened = [port for port, reply in replies.items() if reply is Reply.OPEN]
        who = f"{of_machine(machine)} at [{address}]"
        if not opened:
            yield warning(
                f"{who} takes no connection of its network at {', '.join(map(str, ports))}",
                "see app-listening: the app has to listen on [::], or on fly-local-6pn",
            )
        elif address not in led:
            yield warning(f"{who} can be called, but {name} leaves it out", "see dns-app")
        else:
            yield ok(f"{who}, of {name}: ports {', '.join(map(str, opened))} take connections")


CHECKS = (
    Check("app-anycast", look_at_anycast, of_app=True),
    Check("app-flycast", look_at_flycast, of_app=True),
    Check("app-6pn", look_at_6pn, of_app=True),
)
