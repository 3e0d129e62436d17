# SPDX-License-Identifier: Apache-2.0
"""The driver of the BPF maps.

It keeps no files: what it needs to know after a restart is in the pinned maps
(indexes of names in ``ids``, machines in ``slots``, pools in ``settings``).
Every kind of row has its part; each reads and writes its own maps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from flyebpf.bpf.maps import flow_buckets, vm_buckets
from flyebpf.config import DataplaneConfig
from flyebpf.drivers.link import LinkOf
from flyebpf.drivers.map_hosts import HostPart
from flyebpf.drivers.map_ids import VALUE, IdKind, IdTable
from flyebpf.drivers.map_names import NamePart
from flyebpf.drivers.map_policy import PolicyPart
from flyebpf.drivers.map_pools import Pools, SettingsPart, VipPart
from flyebpf.drivers.map_pools6 import Pools6
from flyebpf.drivers.map_proxy_ports import ProxyPortPart
from flyebpf.drivers.map_ranges import Ranges
from flyebpf.drivers.map_replies import ReplyPart
from flyebpf.drivers.map_service_ids import ServiceIds
from flyebpf.drivers.map_services import ServicePart
from flyebpf.drivers.map_sixpn import Sixpn
from flyebpf.drivers.map_slots import SlotPart
from flyebpf.drivers.map_tables import BuildTable, TablePart
from flyebpf.drivers.map_vm_slots import VmSlots
from flyebpf.drivers.mapio import MapLike, Part
from flyebpf.model.proxyrows import ProxyTargetRow
from flyebpf.model.rows import (
    HostRow,
    NameRow,
    PolicyRow,
    ReplyRow,
    Row,
    ServiceRow,
    SettingsRow,
    SlotRow,
    TableRow,
    VipRow,
)
from flyebpf.reconcile.base import Failure

APPLIED_KEY = b"applied".ljust(16, b"\0")
REVISION_KEY = b"applied revision".ljust(16, b"\0")


@dataclass(frozen=True, slots=True)
class Image:
    """What the maps were made of: the store's ``revision``, and 64 bits that say
    what else (and which revision, as the two are not written at once)."""

    mark: int
    revision: int


class MapsDriver:
    """``maps`` by name (``flyebpf.bpf.maps``). Nothing is read before the
    first use."""

    name = "maps"
    kinds: tuple[type[Row], ...] = (
        SettingsRow,
        PolicyRow,
        HostRow,
        SlotRow,
        TableRow,
        ReplyRow,
        ProxyTargetRow,
        ServiceRow,
        VipRow,
        NameRow,
    )

    def __init__(
        self,
        maps: Mapping[str, MapLike],
        config: DataplaneConfig,
        *,
        link_of: LinkOf,
        build_table: BuildTable,
        table_size: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._maps = maps
        self._link_of = link_of
        self._sizes = {
            "slots": config.machines,
            "tables": config.services,
            "maglev": config.maglev_entries,
            "service_states": config.services,
            "names": config.names,
        }
        self._names = NamePart(maps["names"])
        six = Pools6(config.pool_addresses, config.pool6_addresses)
        self._pools = Pools(config.pool_addresses, six)
        self._slots = SlotPart(
            maps["slots"],
            VmSlots(maps["vm_slots"], vm_buckets(config)),
            Sixpn(maps["sixpn"]),
            config.machines,
            link_of,
        )
        self._tables = TablePart(
            maps["tables"],
            maps["maglev"],
            IdTable(maps["ids"], IdKind.TABLE, "tables", config.services),
            self._slots,
            capacity=config.services,
            entries=config.maglev_entries,
            build=build_table,
            size_of=table_size,
            clock=clock,
        )
        self._service_ids = service_ids(maps, config.services)
        self._ranges = Ranges(maps["service_ranges"], maps["ids"])
        self._services = ServicePart(
            maps["services"], self._ranges, self._service_ids, self._tables, self._pools
        )
        self._vips = VipPart(maps["vips"], self._pools)
        self._settings = SettingsPart(
            maps["settings"],
            self._pools,
            link_of,
            {"flow_buckets": flow_buckets(config), "vm_buckets": vm_buckets(config)},
            self._purge,
        )
        self._parts = self._all_parts()
        self._open = False

    def _all_parts(self) -> dict[type[Row], Part]:
        parts: tuple[Part, ...] = (
            self._settings,
            PolicyPart(self._maps["egress_policy"]),
            HostPart(self._maps["hosts"], self._maps["proxies"], self._link_of),
            self._slots,
            self._tables,
            ProxyPortPart(self._maps["proxy_ports"], self._slots),
            ReplyPart(self._maps["replies"], self._service_ids, self._slots),
            self._services,
            self._vips,
            self._names,
        )
        return {part.kind: part for part in parts}

    def _ensure_open(self) -> None:
        """Take over what an earlier daemon left."""
        if self._open:
            return
        entries = list(self._maps["ids"].items())
        self._service_ids.ids.load(entries)
        self._tables.ids.load(entries)
        self._ranges.load(entries)
        self._settings.load()
        self._slots.read()
        self._tables.load()
        self._open = True

    def _purge(self, indexes: range) -> None:
        self._vips.purge(indexes)
        self._services.purge(indexes)

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        self._ensure_open()
        return self._parts[kind].read()

    def fingerprint(self, row: Row) -> object:
        self._ensure_open()
        return self._parts[type(row)].fingerprint(row)

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        self._ensure_open()
        return self._parts[kind].apply(puts, deletes)

    def learn(self, rows: Sequence[TableRow]) -> None:
        """Tables have only a digest of their name in the kernel: tell the
        names that it may be, before reading."""
        self._tables.learn(rows)

    def sweep(self) -> None:
        """Free the ids of services that are gone; call after a full pass."""
        self._ensure_open()
        self._service_ids.sweep()

    def service_id(self, name: str) -> int | None:
        """The index of a service's counters; None before the first use of the
        maps. From any thread, so it must not be the one that opens them."""
        return self._service_ids.find(name) if self._open else None

    def fill(self) -> dict[str, tuple[int, int]]:
        """Used and available entries of what can run out."""
        self._ensure_open()
        size = self._sizes
        return {
            "slots": (self._slots.used(), size["slots"]),
            "tables": (len(self._tables.ids), size["tables"]),
            "maglev": (size["maglev"] - self._tables.segments.free, size["maglev"]),
            "service_states": (len(self._service_ids.ids), size["service_states"]),
            "names": (self._names.used(), size["names"]),
        }

    def applied(self) -> Image | None:
        """What :meth:`set_applied` noted, or None."""
        found = [self._maps["ids"].lookup(key) for key in (APPLIED_KEY, REVISION_KEY)]
        mark, revision = (VALUE.unpack(value)[2] if value else 0 for value in found)
        return Image(mark, revision) if found[0] else None

    def set_applied(self, image: Image | None) -> None:
        """Note in the kernel what these maps are the image of; None: unknown. It
        lives and dies with the maps."""
        ids = self._maps["ids"]
        if image is None:
            ids.delete(APPLIED_KEY)
            return
        for key, value in ((APPLIED_KEY, image.mark), (REVISION_KEY, image.revision)):
            ids.update(key, VALUE.pack(0, IdKind.APPLIED, value))


def service_ids(maps: Mapping[str, MapLike], capacity: int) -> ServiceIds:
    """The names of services; the size of a per-CPU value is found by reading one."""
    stats = maps["service_stats"]
    return ServiceIds(
        IdTable(maps["ids"], IdKind.SERVICE, "service_states", capacity),
        maps["service_states"],
        stats,
        capacity,
        len(stats.lookup(bytes(4)) or b""),
    )
