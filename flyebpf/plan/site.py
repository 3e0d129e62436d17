# SPDX-License-Identifier: Apache-2.0
"""What planning starts from, and what it returns beside rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from flyebpf.config import DaemonConfig
from flyebpf.model.rows import Row
from flyebpf.plan.prefixes import Pool6, Prefix, parse_all

Owner = tuple[str, ...]
"""Who asks for rows: ``("host",)``, ``("app", name)``, ``("machine", id)``,
``("names", app)`` for its names in DNS, ``("proxy", app)`` for what the proxy
serves of it,
``("mesh", name)`` for another host, ``("wireguard", id)`` for a user's peer."""

HOST: Owner = ("host",)
"""What this host has whatever runs on it."""


@dataclass(frozen=True, slots=True)
class Site:
    """This host's configuration, parsed once."""

    config: DaemonConfig
    anycast: tuple[Prefix, ...]
    shared: tuple[Prefix, ...]
    private: Prefix | None
    anycast6: tuple[Pool6, ...] = ()

    @classmethod
    def of(cls, config: DaemonConfig) -> Site:
        pools, most = config.pools, config.dataplane.pool6_addresses
        found = [Pool6.parse(text, most) for text in pools.anycast_v6]
        return cls(
            config,
            parse_all(pools.anycast_v4),
            parse_all(pools.shared_v4),
            Prefix.parse(config.private.prefix),
            tuple(pool for pool in found if pool is not None),
        )

    @property
    def proxied(self) -> bool:
        """Whether this host runs a proxy."""
        return self.config.proxy.engine != "none"


@dataclass(slots=True)
class Plan:
    """The rows of one owner, and what could not be planned and why."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
