# SPDX-License-Identifier: Apache-2.0
"""Tokens with which a new host joins the cluster.

A token is one word: a JSON object as base64 (RFC 4648, section 5, no padding).
It says where the store is and how to get in, what all hosts share, and a secret
that the store knows by its SHA-256 digest only. Who has it can read and write
the store until etcd's certificate is replaced: it is to be kept like a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flyebpf.config import DaemonConfig, PoolsConfig
from flyebpf.errors import InvalidError, UnavailableError
from flyebpf.model.records import JoinToken
from flyebpf.ops.transact import Tx, every, transact
from flyebpf.store.base import Store

LONGEST = 30 * 24 * 60
"""Minutes that a token is valid at most."""

_VERSION = 2
_AT_ONCE = 50  # writes of one transaction: etcd takes 128
_NEW = "`flyebpf hosts token` on a host of the cluster makes a new one"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a token says. ``ca``, ``cert`` and ``key`` are PEM texts, or empty."""

    endpoints: tuple[str, ...]
    prefix: str
    ca: str
    cert: str
    key: str
    domain: str
    pools: PoolsConfig
    private_prefix: str
    private_alias: str
    block_length: int
    egress: tuple[str, ...]
    underlay: str
    port: int
    interface: str
    return_path: str
    latency: tuple[str, ...]
    proxy: str
    secret: str


@dataclass(frozen=True, slots=True)
class NewToken:
    """``expires``: RFC 3339, UTC."""

    token: str
    expires: str


def create(store: Store, config: DaemonConfig, minutes: int) -> NewToken:
    """A token for one host, valid for ``minutes``. It is not stored.

    Raises UnavailableError where the store is not one that hosts can share, or
    its files cannot be read.
    """
    if config.store != "etcd":
        raise UnavailableError(
            f"no host can join: the store of host {config.host!r} is a file of its own",
            'a cluster of hosts has store = "etcd" in the daemon\'s configuration',
        )
    if not 1 <= minutes <= LONGEST:
        raise InvalidError(
            f"a token cannot be valid for {minutes} minutes", f"use 1 to {LONGEST} minutes"
        )
    secret = secrets.token_urlsafe(32)
    token = write(_invitation(config, secret))
    expires = _text(datetime.now(UTC) + timedelta(minutes=minutes))

    def action(tx: Tx) -> None:
        _forget_expired(tx)
        tx.put(JoinToken(digest_of(secret), expires))

    transact(store, action)
    return NewToken(token, expires)


def revoke_all(store: Store) -> int:
    """Make every token that has not been used invalid; says how many."""
    revoked = 0
    while tokens := every(store, JoinToken)[:_AT_ONCE]:
        transact(store, partial(_delete, tokens))
        revoked += len(tokens)
    return revoked


def check(tx: Tx, secret: str) -> JoinToken:
    """The record of a secret that can be used now; raises InvalidError."""
    record = tx.get(JoinToken, digest_of(secret))
    if record is None:
        raise InvalidError(
            "this cluster does not know the token: it has been used or revoked, has expired, or "
            "is another cluster's",
            _NEW,
        )
    if record.expires <= _text(datetime.now(UTC)):
        raise InvalidError(
            f"the token has expired ({record.expires}, by this machine's clock)", _NEW
        )
    return record


def consume(tx: Tx, secret: str) -> None:
    """Use the secret up in this transaction; raises InvalidError."""
    tx.delete(JoinToken, check(tx, secret).digest)


def digest_of(secret: str) -> str:
    """The id of a secret's record. The secret has 256 random bits: a slow hash
    would protect nothing more."""
    return hashlib.sha256(secret.encode()).hexdigest()


def write(invitation: Invitation) -> str:
    """The token of an invitation."""
    body = json.dumps({"v": _VERSION, **asdict(invitation)}, separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


def read(token: str) -> Invitation:
    """What a token says; raises InvalidError, which does not quote it."""
    damaged = InvalidError(
        "this is not a token, or only a part of one", f"copy the whole word; {_NEW}"
    )
    try:
        text = token.encode("ascii")
        body = json.loads(base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise damaged from error
    if not isinstance(body, dict) or body.get("v") is None:
        raise damaged
    if body.pop("v") != _VERSION:
        raise InvalidError(
            "the token was made by another version of flyebpf", "install the version of the cluster"
        )
    pools = _fields(PoolsConfig, body.get("pools"))
    values: Invitation | None = _fields(Invitation, {**body, "pools": ()})
    if pools is None or values is None:
        raise damaged
    return replace(values, pools=pools)


def _fields(cls: Any, body: object) -> Any:
    """``cls`` of a JSON object that has exactly its fields, each of the type
    that its dataclass says; None for anything else."""
    if not isinstance(body, dict) or body.keys() != {field.name for field in fields(cls)}:
        return None
    values: dict[str, Any] = {}
    for field in fields(cls):
        value = body[field.name]
        if field.type in ("str", "int"):
            if type(value).__name__ != field.type:
                return None
            values[field.name] = value
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            values[field.name] = tuple(value)
        else:
            return None
    return cls(**values)


def _invitation(config: DaemonConfig, secret: str) -> Invitation:
    etcd, mesh = config.etcd, config.mesh
    return Invitation(
        endpoints=etcd.endpoints,
        prefix=etcd.prefix,
        ca=_pem("etcd.ca", etcd.ca),
        cert=_pem("etcd.cert", etcd.cert),
        key=_pem("etcd.key", etcd.key),
        domain=config.domain,
        pools=config.pools,
        private_prefix=config.private.prefix,
        private_alias=config.private.alias,
        block_length=int(config.private.block.rpartition("/")[2]),
        egress=config.egress.allow,
        underlay=mesh.underlay,
        port=mesh.port,
        interface=mesh.interface,
        return_path=mesh.return_path,
        latency=mesh.latency,
        proxy=config.proxy.engine,
        secret=secret,
    )


def _pem(key: str, path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not PEM text"
        raise UnavailableError(
            f"cannot put {key} into a token: {path}: {reason}",
            "correct the daemon's configuration; nothing was made",
        ) from error


def _forget_expired(tx: Tx) -> None:
    now = _text(datetime.now(UTC))
    _delete([token for token in every(tx.store, JoinToken) if token.expires <= now][:_AT_ONCE], tx)


def _delete(tokens: Iterable[JoinToken], tx: Tx) -> None:
    for token in tokens:
        tx.delete(JoinToken, token.digest)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
