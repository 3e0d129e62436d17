# SPDX-License-Identifier: Apache-2.0
"""Certificates of apps' host names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, InvalidError, NotFoundError
from flyebpf.model import hostnames
from flyebpf.model.acme import AcmeChallenge, AcmeName
from flyebpf.model.certificates import DEFAULT, Certificate, KeyPair, SelfSigned
from flyebpf.model.names import app_name, did_you_mean
from flyebpf.model.records import App, Service
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

_PIECE = 40
"""Certificates that one transaction removes: etcd takes only so many writes."""


def add(
    store: Store,
    config: DaemonConfig,
    hostname: str,
    app: str | None,
    *,
    chain: str,
    key: str,
    by_acme: str = "",
) -> Certificate:
    """Serve ``hostname`` with a certificate from now on: the app's first one for
    this name, or one in the place of its last.

    Without an app it is the operator's, for all apps' default host names
    (``*.<domain>``). ``by_acme``: the host whose order of ACME it is of; a name that
    somebody else gives a certificate does not get it by ACME any more. Raises
    InvalidError for a pair that cannot be served (``flyebpf.certificates``),
    NotFoundError when there is no such app, and ConflictError when the host name is
    another app's.
    """
    hostname = hostnames.hostname(hostname)
    app = app_name(app) if app is not None else ""
    check_owner(config.domain, hostname, app)
    record, pair = _checked(hostname, app, chain, key)

    def action(tx: Tx) -> Certificate:
        owner = tx.require(App, app) if app else None
        last = tx.get(Certificate, hostname)
        if last is not None and last.app != app:
            raise ConflictError(
                f"host name {hostname} belongs to {whose(last.app)}, which has a certificate "
                "for it",
                f"remove that one first: flyebpf certs remove {hostname}",
            )
        _settle_acme(tx, record, by_acme)
        if owner is not None:
            if last is None and not by_acme:
                check_wildcards(tx, hostname, owner)
            tx.touch(owner)  # so that destroying the app at the same time sees it
        tx.put(record)
        tx.put_unguarded(pair)  # guarded by the record
        return record

    return transact(store, action)


def check_wildcards(tx: Tx, hostname: str, app: App) -> None:
    """A name that a wildcard stands for is that organization's whose the wildcard is, and
    no wildcard stands for another's names: on shared addresses whoever is named more
    exactly gets its clients, over HTTP without any certificate. Raises ConflictError."""
    start, _, above = hostname.partition(".")
    found: list[Certificate | AcmeName | None] = [tx.get(Certificate, f"*.{above}")]
    if start == "*":
        kinds: tuple[type[Certificate] | type[AcmeName], ...] = (Certificate, AcmeName)
        every_one = (one for kind in kinds for one in every(tx.store, kind))
        found = [one for one in every_one if one.hostname.partition(".")[2] == above]
    for one in found:
        owner = tx.get(App, one.app) if one is not None and one.app else None
        if one is not None and owner is not None and owner.org != app.org:
            raise ConflictError(
                f"host name {hostname} and {one.hostname} belong together, and that is "
                f"{whose(one.app)}'s, of another organization",
                f"remove it there first: flyebpf certs remove {one.hostname}",
            )


def _settle_acme(tx: Tx, record: Certificate, by_acme: str) -> None:
    name = tx.get(AcmeName, record.hostname)
    if by_acme and (name is None or name.host != by_acme):
        raise ConflictError(
            f"host name {record.hostname} does not get its certificate by ACME any more",
            "nothing is to be done",
        )
    if name is None or by_acme:
        return
    if name.app != record.app:
        raise ConflictError(
            f"host name {record.hostname} belongs to {whose(name.app)}",
            f"remove it there first: flyebpf certs remove {record.hostname}",
        )
    forget_acme(tx, record.hostname)


def forget_acme(tx: Tx, hostname: str) -> None:
    """In this transaction: the name gets no certificate by ACME any more."""
    for kind in (AcmeName, AcmeChallenge):
        if tx.get(kind, hostname) is not None:
            tx.delete(kind, hostname)


def get(store: Store, hostname: str) -> Certificate:
    """The certificate of a host name; NotFoundError if there is none."""
    name = hostnames.hostname(hostname)
    record = Tx(store).get(Certificate, name)
    if record is None:
        raise _not_found(store, name)
    return record


def list_all(store: Store, app: str | None = None) -> list[Certificate]:
    """All certificates, or an app's, by host name; NotFoundError if there is no
    such app."""
    if app is None:
        return every(store, Certificate)
    return every(store, Certificate, app=find(store, App, app_name(app)).name)


def remove(store: Store, hostname: str, app: str | None = None) -> Certificate:
    """Serve the host name no longer. With ``app``: only if it is that app's."""
    name = hostnames.hostname(hostname)
    wanted = app_name(app) if app is not None else None

    def action(tx: Tx) -> Certificate:
        record = tx.get(Certificate, name)
        if record is None:
            raise _not_found(store, name)
        if wanted is not None and record.app != wanted:
            raise NotFoundError(
                f"app {wanted} has no certificate for {name}: it is that of {whose(record.app)}",
                f"`flyebpf certs list -a {wanted}` shows the app's",
            )
        _delete(tx, record)
        return record

    return transact(store, action)


def clear(store: Store, app: str) -> None:
    """Remove all certificates of an app, some at a time."""

    def action(tx: Tx) -> int:
        found = every(tx.store, Certificate, app=app)[:_PIECE]
        for record in found:
            _remove_owned(tx, record)
        return len(found)

    while transact(store, action):
        pass


def remove_of(tx: Tx, app: str) -> None:
    """Remove in this transaction what :func:`clear` has left or not seen."""
    for record in every(tx.store, Certificate, app=app):
        _remove_owned(tx, record)
    for name in every(tx.store, AcmeName, app=app):
        forget_acme(tx, name.hostname)


def _remove_owned(tx: Tx, record: Certificate) -> None:
    current = tx.get(Certificate, record.hostname)
    if current is not None and current.app == record.app:
        _delete(tx, record)


def _delete(tx: Tx, record: Certificate) -> None:
    tx.delete(Certificate, record.hostname)
    tx.delete(KeyPair, record.hostname)
    forget_acme(tx, record.hostname)


def need_self_signed(
    tx: Tx, config: DaemonConfig, services: Sequence[Service], now: datetime
) -> None:
    """Have a certificate that vouches for nobody, if a port asks for one."""
    if not any(_self_signs(service) for service in services):
        return
    last = tx.get(SelfSigned, DEFAULT)
    if last is not None and last.not_after > _text(now):
        return
    from flyebpf import certificates  # noqa: PLC0415 (start-up time)

    names = (f"*.{config.domain}", "*.flycast")
    chain, key, end = certificates.self_signed(names, now)
    tx.put(SelfSigned(DEFAULT, chain, key, _text(end)))


def _self_signs(service: Service) -> bool:
    options = (port.tls_options for port in service.ports)
    return any(found is not None and found.default_self_signed for found in options)


def check_owner(domain: str, hostname: str, app: str) -> None:
    """Names that follow from an app's name are that app's, and ``*.<domain>`` is
    the operator's."""
    if hostname == f"*.{domain}":
        if app:
            raise InvalidError(
                f"{hostname} is for the default host names of all apps, not of app {app} alone",
                "add it without an app: flyebpf certs add --operator",
            )
        return
    if not app:
        raise InvalidError(
            f"{hostname} is no certificate of the operator: that is *.{domain} alone",
            "name the app whose host name it is with -a APP",
        )
    for suffix in (domain, "flycast"):
        above = hostname.removesuffix(f".{suffix}")
        if above not in (hostname, app):
            raise InvalidError(
                f"host name {hostname} cannot be app {app}'s: below {suffix} names are those "
                "of apps",
                f"use {app}.{suffix}, or a name of the app's own",
            )
    if hostname == domain or hostname.endswith(".internal"):
        raise InvalidError(
            f"host name {hostname} is never served by the proxy for an app",
            "use a name of the app's own",
        )


def _checked(hostname: str, app: str, chain: str, key: str) -> tuple[Certificate, KeyPair]:
    from flyebpf import certificates  # noqa: PLC0415 (start-up time)

    now = datetime.now(UTC)
    found = certificates.pair(hostname, chain, key, now)
    record = Certificate(
        hostname,
        app,
        names=found.names,
        issuer=found.issuer,
        self_issued=found.self_issued,
        key_type=found.key_type,
        fingerprint=found.fingerprint,
        not_before=_text(found.not_before),
        not_after=_text(found.not_after),
        created=_text(now),
    )
    return record, KeyPair(hostname, app, found.chain, found.key)


def whose(app: str) -> str:
    """An app as messages call it."""
    return f"app {app}" if app else "the operator"


def _not_found(store: Store, name: str) -> NotFoundError:
    hint = did_you_mean(name, (entry.id for entry in store.list(Certificate.kind)))
    shown = "`flyebpf certs list` shows all."
    return NotFoundError(f"host name {name} has no certificate", f"{hint} {shown}".strip())


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
