# SPDX-License-Identifier: Apache-2.0
"""Certificates by ACME: which names want one, whose turn it is to ask, what came of it.

One host of a cluster asks for a name at a time: it takes a lease of the name's record,
which ends by itself should the host.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, InvalidError, NotFoundError
from flyebpf.model import hostnames
from flyebpf.model.acme import AcmeChallenge, AcmeName, AcmeState
from flyebpf.model.certificates import Certificate
from flyebpf.model.names import app_name
from flyebpf.model.records import App
from flyebpf.ops import certificates
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

LEASE = timedelta(minutes=10)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=5), timedelta(days=1)
"""After a failure; twice as long after each further one."""
RATE_LIMITED = timedelta(hours=3)
RENEWAL = timedelta(days=30)
"""Before its end a certificate is renewed; a third of its life before, if that is less."""
JITTER = timedelta(days=1)
LONGEST_ERROR = 500


def want(store: Store, config: DaemonConfig, hostname: str, app: str) -> AcmeName:
    """Get ``hostname`` of an app a certificate by ACME, now and whenever one ends.

    A name that failed is tried again at once. Raises InvalidError where ACME is not
    configured or cannot be for such a name, NotFoundError for an app that there is
    not, ConflictError for a name of another app's.
    """
    name, app = hostnames.hostname(hostname), app_name(app)
    _check(config, name, app)

    def action(tx: Tx) -> AcmeName:
        owner = tx.require(App, app)
        tx.touch(owner)
        owners = (tx.get(Certificate, name), tx.get(AcmeName, name))
        for found in owners:
            if found is not None and found.app != app:
                raise ConflictError(
                    f"host name {name} belongs to {certificates.whose(found.app)}",
                    f"remove it there first: flyebpf certs remove {name}",
                )
        if not any(owners):
            certificates.check_wildcards(tx, name, owner)
        last = tx.get(AcmeName, name) or AcmeName(name, app, created=text(datetime.now(UTC)))
        made = replace(last, next_try="")
        tx.put(made)
        return made

    return transact(store, action)


def _check(config: DaemonConfig, name: str, app: str) -> None:
    if not config.acme.directory:
        raise InvalidError(
            "no ACME authority is configured",
            "set acme.directory in the configuration of all hosts, or give --cert and --key",
        )
    if config.proxy.engine == "none":
        raise InvalidError(
            "no proxy runs, so no authority can look whether a name leads here",
            'set proxy.engine = "envoy" in the configuration of all hosts',
        )
    if name.startswith("*."):
        raise InvalidError(
            f"{name} is a wildcard, which takes a proof by DNS",
            "get such a certificate elsewhere, and give it with --cert and --key",
        )
    if name.endswith((".flycast", ".internal")):
        raise InvalidError(
            f"{name} is no name of the public DNS, so no authority vouches for it",
            "use a name that clients find there",
        )
    certificates.check_owner(config.domain, name, app)


def list_all(store: Store, app: str | None = None) -> list[AcmeName]:
    """All, or an app's; NotFoundError if there is no such app."""
    if app is None:
        return every(store, AcmeName)
    return every(store, AcmeName, app=find(store, App, app_name(app)).name)


def get(store: Store, hostname: str) -> AcmeName:
    """NotFoundError where the name does not get its certificate by ACME."""
    name = hostnames.hostname(hostname)
    found = Tx(store).get(AcmeName, name)
    if found is None:
        raise NotFoundError(
            f"host name {name} does not get its certificate by ACME",
            f"flyebpf certs add {name} --acme",
        )
    return found


def check(store: Store, hostname: str) -> AcmeName:
    """Have a name that failed tried again at once; the name."""
    name = get(store, hostname).hostname

    def action(tx: Tx) -> AcmeName:
        found = tx.require(AcmeName, name)
        if found.state is AcmeState.FAILED and found.next_try:
            found = replace(found, next_try="")
            tx.put(found)
        return found

    return transact(store, action)


def remove(store: Store, hostname: str) -> AcmeName:
    """Ask for it no more; a certificate that there is stays."""
    name = get(store, hostname).hostname

    def action(tx: Tx) -> AcmeName:
        found = tx.require(AcmeName, name)
        certificates.forget_acme(tx, name)
        return found

    return transact(store, action)


def due(name: AcmeName, certificate: Certificate | None, now: datetime) -> bool:
    """Whether somebody should ask the authority."""
    if _is_later(name.lease, now) or _is_later(name.next_try, now):
        return False
    if name.state is not AcmeState.ISSUED or certificate is None:
        return True
    return now >= renewal(certificate)


def renewal(certificate: Certificate) -> datetime:
    """When it is to be renewed: not all of a cluster's at the same time."""
    start = datetime.fromisoformat(certificate.not_before)
    end = datetime.fromisoformat(certificate.not_after)
    ahead = min(RENEWAL, (end - start) / 3)
    spread = int.from_bytes(blake2b(certificate.hostname.encode(), digest_size=4).digest(), "big")
    return end - ahead - min(JITTER, ahead / 10) * (spread / (1 << 32))


def lease(store: Store, hostname: str, host: str, now: datetime) -> AcmeName | None:
    """The name for this host alone, for a while; None: it is nobody's turn, or another's."""

    def action(tx: Tx) -> AcmeName | None:
        found = tx.get(AcmeName, hostname)
        if found is None or not due(found, tx.get(Certificate, hostname), now):
            return None
        taken = replace(found, host=host, lease=text(now + LEASE))
        tx.put(taken)
        return taken

    return transact(store, action)


def show(store: Store, name: AcmeName, challenge: AcmeChallenge) -> bool:
    """Have all proxies answer this. False: the lease is another's by now."""

    def action(tx: Tx) -> bool:
        if not _is_mine(tx, name):
            return False
        tx.put(challenge)
        return True

    return transact(store, action)


def issued(store: Store, config: DaemonConfig, name: AcmeName, chain: str, key: str) -> None:
    """Serve it, and let the name go. Raises InvalidError for what cannot be served."""
    certificates.add(
        store, config, name.hostname, name.app, chain=chain, key=key, by_acme=name.host
    )
    _finish(store, name, state=AcmeState.ISSUED, error="", attempts=0, next_try="")


def failed(
    store: Store, name: AcmeName, error: str, now: datetime, *, limited: bool = False
) -> None:
    """The next try is after a pause. ``limited``: the authority wants fewer orders."""
    wait = max(pause(name.attempts), RATE_LIMITED if limited else timedelta())
    _finish(
        store,
        name,
        state=AcmeState.FAILED,
        error=error[:LONGEST_ERROR],
        attempts=name.attempts + 1,
        next_try=text(now + wait),
    )


def pause(attempts: int) -> timedelta:
    """After a failure, by how many there were before."""
    return min(FIRST_PAUSE * (1 << min(attempts, 16)), LONGEST_PAUSE)


def _finish(store: Store, name: AcmeName, **values: object) -> None:
    def action(tx: Tx) -> None:
        if not _is_mine(tx, name):
            return
        tx.put(replace(name, host="", lease="", **values))  # type: ignore[arg-type]
        if tx.get(AcmeChallenge, name.hostname) is not None:
            tx.delete(AcmeChallenge, name.hostname)

    transact(store, action)


def _is_mine(tx: Tx, name: AcmeName) -> bool:
    found = tx.get(AcmeName, name.hostname)
    return found is not None and (found.host, found.lease) == (name.host, name.lease)


def _is_later(when: str, now: datetime) -> bool:
    return when > text(now)


def text(time: datetime) -> str:
    """RFC 3339, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
