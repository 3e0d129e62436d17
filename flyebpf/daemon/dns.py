# SPDX-License-Identifier: Apache-2.0
"""The daemon's part in DNS: keeps the process that serves it running, and feeds it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address
from itertools import chain
from pathlib import Path

from flyebpf.api.backend import Problem
from flyebpf.config import DaemonConfig
from flyebpf.dns.client import DnsClient
from flyebpf.dns.forward import ForwardConfig
from flyebpf.dns.frames import Json, ProcessConfig
from flyebpf.dns.server import ServerConfig
from flyebpf.errors import FlyebpfError, UnavailableError
from flyebpf.model.records import AnyRecord, Network, WireguardPeer
from flyebpf.model.sixpn import NAMESERVER
from flyebpf.model.state import State, Update
from flyebpf.plan.names import nameservers

log = logging.getLogger(__name__)
RESOLV_CONF = Path("/etc/resolv.conf")
SIXPN = IPv6Network("fdaa::/16")


class DnsAgent:
    """Methods that take a state or updates are for the main thread, the others for
    any. ``soon`` has the main thread do something."""

    def __init__(self, config: DaemonConfig, soon: Callable[[Callable[[], object]], None]) -> None:
        self._config = config
        self._soon = soon
        self._state: State | None = None
        self._client: DnsClient | None = None

    def loaded(self, state: State) -> None:
        """The whole state is a new one."""
        self._state = state
        if not self._arrange(state):
            self._load()

    def changed(self, state: State, updates: Sequence[Update]) -> None:
        """What has changed in it, in order."""
        kinds = {update.kind for update in updates}
        if kinds & {WireguardPeer.kind, Network.kind} and self._arrange(state):
            return
        if self._client is not None:
            self._client.feed(state.revision, updates)

    def reconfigured(self, config: DaemonConfig) -> None:
        self._config = config
        if self._state is not None:
            self._arrange(self._state)

    def stop(self) -> None:
        """The process goes on."""
        if self._client is not None:
            self._client.close()

    def _arrange(self, state: State) -> bool:
        """A client for the process that is wanted now; whether it is another one.
        It asks for the state by itself."""
        wanted = process_config(self._config, state)
        if self._client is not None:
            if self._client.config == wanted:
                return False
            self._client.close()
        self._client = DnsClient(wanted, lambda: self._soon(self._load))
        self._client.start()
        return True

    def _load(self) -> None:
        if self._client is not None and self._state is not None:
            self._client.load(self._state.revision, records(self._state))

    def problems(self) -> list[Problem]:
        client = self._client
        if client is None or not client.problem:
            return []
        remedy = "Names that programs answer are answered as before; see the daemon's log."
        return [Problem("dns", client.problem, remedy)]

    def metrics(self) -> Json | None:
        """What the process counts; None while it is not there."""
        if self._client is None:
            return None
        try:
            return self._client.metrics()
        except FlyebpfError as error:
            log.warning("%s", error.message)
            return None

    @property
    def client(self) -> DnsClient:
        """Raises UnavailableError while nothing is known yet."""
        if self._client is None:
            raise UnavailableError("DNS is not served yet", "Try again in a moment.")
        return self._client


def process_config(config: DaemonConfig, state: State) -> ProcessConfig:
    """What the process is to be for this state: its addresses are those of the
    networks with users' peers here, besides the one for machines."""
    forward = ForwardConfig(upstreams=config.dns.upstreams or resolvers(RESOLV_CONF))
    return ProcessConfig(
        str(Path(config.api.socket).with_name("dns.sock")),
        (NAMESERVER, *nameservers(state, config.host)),
        user=config.dns.user,
        server=ServerConfig(forward, latency=config.mesh.latency),
        log=config.log,
    )


def resolvers(path: Path) -> tuple[str, ...]:
    """The name servers of a resolv.conf; none where it cannot be read. Those of
    private networks are this host's own."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        log.warning("no resolvers are known: %s: %s", path, error.strerror)
        return ()
    words = [line.split() for line in lines]
    return tuple(
        dict.fromkeys(_addresses(w[1] for w in words if w[:1] == ["nameserver"] and w[1:]))
    )


def _addresses(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if isinstance(address, IPv6Address) and (address in SIXPN or address.scope_id):
            continue
        yield str(address)


def records(state: State) -> Iterable[AnyRecord]:
    """All that names are made of."""
    return chain(
        state.networks.values(),
        state.hosts.values(),
        state.fleet.presences.values(),
        state.fleet.latencies.values(),
        state.apps.values(),
        state.machines.values(),
        state.addresses.values(),
        state.wireguard_peers.values(),
    )
