# SPDX-License-Identifier: Apache-2.0
"""A new host joins a cluster: before any daemon runs on it.

It talks to the store itself. All checks come first; then the files are written
aside, the host is registered and its token used up in one transaction, and the
files get their names. Nothing is left of an attempt that fails.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

from flyebpf import configfile
from flyebpf.config import (
    DaemonConfig,
    EgressConfig,
    EtcdConfig,
    MeshConfig,
    PrivateConfig,
    ProxyConfig,
)
from flyebpf.errors import (
    ConfigError,
    ConflictError,
    ExhaustedError,
    InvalidError,
    UnavailableError,
)
from flyebpf.join.files import Staged
from flyebpf.join.text import render
from flyebpf.model.fleet import block_of
from flyebpf.model.records import Cluster, Host, JoinToken
from flyebpf.ops import cluster, tokens
from flyebpf.ops.tokens import Invitation
from flyebpf.ops.transact import Tx, every, transact
from flyebpf.store.base import Store

Opener = Callable[[EtcdConfig], Store]
_ATTEMPTS = 20
_NEW = "new"


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What only the new host knows of itself. ``endpoint``: its address on the
    mesh; ``block``: its part of the private prefix, or "" for a free one;
    ``interface``: that of the mesh, or "" where it is called as on other hosts."""

    host: str
    region: str
    uplinks: tuple[str, ...]
    endpoint: str = ""
    block: str = ""
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """``config``: the configuration's file, which is there now."""

    host: Host
    config: Path


def open_store(config: EtcdConfig) -> Store:
    """The cluster's store. Raises StoreUnavailableError where it cannot be reached."""
    from flyebpf.store.etcd import EtcdStore  # noqa: PLC0415 (only clusters have it)

    return EtcdStore(config)


def with_token(token: str, newcomer: Newcomer, path: Path, opener: Opener = open_store) -> Joined:
    """Join by a token and write the configuration to ``path``, with the files
    of the etcd certificate beside it. Raises FlyebpfError."""
    invitation = tokens.read(token)
    _check_interfaces(newcomer.uplinks)
    if invitation.underlay != "none" and not newcomer.endpoint:
        raise InvalidError(
            f"the cluster has a mesh ({invitation.underlay}), and no address of this machine on "
            "it was given",
            "give the one at which the other hosts reach it, with --endpoint",
        )
    with _reached(invitation, opener) as store:
        tokens.check(Tx(store), invitation.secret)
        _require_cluster(store)
        for _ in range(_ATTEMPTS):
            block = newcomer.block or _free_block(store, invitation)
            config = _configuration(invitation, replace(newcomer, block=block), path)
            _check_endpoint(config)
            try:
                return Joined(_join(store, config, invitation, path), path)
            except ConflictError:
                if newcomer.block or not _taken(store, block):
                    raise  # else another host took the block that was free a moment ago
    raise UnavailableError("other hosts took every block that was free", "try again")


def with_config(path: Path, opener: Opener = open_store) -> Joined:
    """Join by a configuration that has been written; its certificate is what
    lets the host in. Raises FlyebpfError."""
    config = configfile.load(path)
    if config.store != "etcd":
        raise InvalidError(
            f"{path}: store is {config.store!r}, a file of this host: there is nothing to join",
            'set store = "etcd" and the table [etcd]',
        )
    _check_interfaces(config.uplinks)
    _check_endpoint(config)
    store = opener(config.etcd)
    try:
        _require_cluster(store)
        return Joined(transact(store, lambda tx: _register(tx, config)), path)
    finally:
        store.close()


def _join(store: Store, config: DaemonConfig, invitation: Invitation, path: Path) -> Host:
    """Register the host and write its files: both or neither."""
    spent: list[JoinToken] = []

    def action(tx: Tx) -> Host:
        spent[:] = [tokens.check(tx, invitation.secret)]
        tokens.consume(tx, invitation.secret)
        return _register(tx, config)

    with Staged(_files(config, invitation, path)) as staged:
        host = transact(store, action)
        try:
            staged.publish()
        except BaseException:
            _undo(store, host, spent[0])
            raise
    return host


def _register(tx: Tx, config: DaemonConfig) -> Host:
    """The host's record, made in this transaction."""
    if tx.get(Host, config.host) is not None:
        raise ConflictError(
            f"the cluster has a host {config.host!r} already",
            f"choose another name, or remove that one: `flyebpf hosts remove {config.host}`",
        )
    _check_prefix(config, every(tx.store, Host))
    return cluster.register(tx, cluster.host_of(config))[1]


def _undo(store: Store, host: Host, token: JoinToken) -> None:
    def action(tx: Tx) -> None:
        if tx.get(Host, host.name) == host:
            tx.delete(Host, host.name)
            tx.put(token)

    transact(store, action)


@contextmanager
def _reached(invitation: Invitation, opener: Opener) -> Iterator[Store]:
    """The store that a token names, by files of its certificate that go away."""
    with tempfile.TemporaryDirectory(prefix="flyebpf-join-") as folder:
        files = _tls_files(invitation, Path(folder))
        for path, text in files.items():
            path.touch(0o600)
            path.write_text(text)
        store = opener(_etcd(invitation, Path(folder)))
        try:
            yield store
        finally:
            store.close()


def _require_cluster(store: Store) -> None:
    if store.get(Cluster.kind, "cluster") is None:
        raise UnavailableError(
            "the store holds no cluster",
            "check etcd.endpoints and etcd.prefix; the first host needs no join: start its daemon",
        )


def _check_interfaces(uplinks: Iterable[str]) -> None:
    there = {name for _, name in socket.if_nameindex()}
    for name in uplinks:
        if name not in there:
            raise InvalidError(
                f"uplink {name!r} does not exist on this machine",
                f"it has {', '.join(sorted(there - {'lo'})) or 'none'}",
            )


def _check_endpoint(config: DaemonConfig) -> None:
    """The daemon takes the mesh's MTU from the interface that has it."""
    mesh = config.mesh
    if mesh.underlay != "none" and not mesh.mtu and not _is_own(mesh.endpoint):
        raise InvalidError(
            f"no interface of this machine has the address {mesh.endpoint} of mesh.endpoint",
            "give its own one (--endpoint); where others reach it at an address that is "
            "translated, write its configuration with mesh.mtu and join with --config",
        )


def _is_own(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _check_prefix(config: DaemonConfig, hosts: Iterable[Host]) -> None:
    """Every host's block is a part of one prefix."""
    prefix = IPv4Network(config.private.prefix)
    for host in hosts:
        block = block_of(host)
        if block is not None and not block.subnet_of(prefix):
            raise ConflictError(
                f"private.prefix {prefix} does not contain the block {host.block} of host "
                f"{host.name!r}",
                "use the prefix that the other hosts have",
            )


def _free_block(store: Store, invitation: Invitation) -> str:
    """The first part of the private prefix that overlaps no host's."""
    taken = sorted(_blocks(store))
    prefix = IPv4Network(invitation.private_prefix)
    size = 1 << (32 - invitation.block_length)
    start, end = int(prefix.network_address), int(prefix.broadcast_address)
    for block in taken:
        if start + size <= int(block.network_address):
            break
        after = int(block.broadcast_address) + 1
        start = max(start, (after + size - 1) // size * size)
    if start + size - 1 > end:
        raise ExhaustedError(
            f"the private prefix {prefix} has no free block of /{invitation.block_length}",
            "name a smaller one with --block, or remove hosts that are gone",
        )
    return str(IPv4Network((start, invitation.block_length)))


def _taken(store: Store, block: str) -> bool:
    wanted = IPv4Network(block)
    return any(taken.overlaps(wanted) for taken in _blocks(store))


def _blocks(store: Store) -> list[IPv4Network]:
    """Those of all hosts; a record that nobody of us wrote may have none."""
    found = (block_of(host) for host in every(store, Host))
    return [block for block in found if block is not None]


def _configuration(invitation: Invitation, newcomer: Newcomer, path: Path) -> DaemonConfig:
    """The new host's configuration, checked as the daemon does it."""
    config = DaemonConfig(
        host=newcomer.host,
        region=newcomer.region,
        uplinks=newcomer.uplinks,
        store="etcd",
        domain=invitation.domain,
        pools=invitation.pools,
        private=PrivateConfig(invitation.private_prefix, newcomer.block, invitation.private_alias),
        egress=EgressConfig(invitation.egress),
        mesh=MeshConfig(
            underlay=invitation.underlay,
            endpoint=newcomer.endpoint,
            port=invitation.port,
            interface=newcomer.interface or invitation.interface,
            return_path=invitation.return_path,
            latency=invitation.latency,
        ),
        etcd=_etcd(invitation, path.parent),
        proxy=ProxyConfig(invitation.proxy),
    )
    try:
        return configfile.parse(render(config), _NEW)
    except ConfigError as error:  # lines of a file that is not there tell nobody anything
        message = re.sub(rf"^{_NEW}:\d+: ", "", error.message, flags=re.MULTILINE)
        raise ConfigError(message, error.remedy or "nothing was done") from error


def _etcd(invitation: Invitation, folder: Path) -> EtcdConfig:
    ca, cert, key = (
        str(folder / name) if text else "" for name, text in _certificate(invitation).items()
    )
    return EtcdConfig(invitation.endpoints, ca, cert, key, invitation.prefix)


def _certificate(invitation: Invitation) -> dict[str, str]:
    return {
        "etcd-ca.pem": invitation.ca,
        "etcd-cert.pem": invitation.cert,
        "etcd-key.pem": invitation.key,
    }


def _tls_files(invitation: Invitation, folder: Path) -> dict[Path, str]:
    return {folder / name: text for name, text in _certificate(invitation).items() if text}


def _files(config: DaemonConfig, invitation: Invitation, path: Path) -> dict[Path, str]:
    """The configuration comes last: when it is there, all that it names is."""
    return {**_tls_files(invitation, path.parent), path: render(config)}
