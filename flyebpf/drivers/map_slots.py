# SPDX-License-Identifier: Apache-2.0
"""``slots`` and ``vm_slots``: the machines that packets can be delivered to.

A slot names its machine itself (``machine_id``), so nothing else is needed to
find it again. An empty slot keeps its generation.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Hashable, Sequence

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_VIA_TC
from flyebpf.drivers.link import LinkOf
from flyebpf.drivers.map_vm_slots import NOWHERE, Place, VmSlots
from flyebpf.drivers.mapio import MapLike, Pair, UnappliedError, explain, full, u32, write_all
from flyebpf.model.rows import Row, SlotRow
from flyebpf.reconcile.base import Failure

# struct slot: generation, flags, ifindex, addresses, MACs, machine_id, 6PN fields, pad.
SLOT = struct.Struct("=III4s4s6s6sQIII12x")
EMPTY = bytes(SLOT.size)
STRAY = "vm_slots#"
"""How an entry of ``vm_slots`` is named that fits no slot: by its place."""


def generation_of(value: bytes) -> int:
    return int.from_bytes(value[:4], "little")


def following(generation: int) -> int:
    """The next generation; 0 is that of slots never used."""
    return generation % 0xFFFFFFFF + 1


class SlotPart:
    """Gives slots to machines and fills them.

    A slot goes from one owner to the next through an empty state that is not
    live, and gets a new generation on the way: flows of the old owner end.
    """

    kind: type[Row] = SlotRow

    def __init__(self, slots: MapLike, vm_slots: VmSlots, capacity: int, link_of: LinkOf) -> None:
        self._slots = slots
        self._vm_slots = vm_slots
        self._capacity = capacity
        self._link_of = link_of
        self._of: dict[str, int] = {}
        self._absent: set[str] = set()  # machines without their interface
        self._next = 0
        self._free: deque[int] = deque()

    def index(self, machine: str) -> int | None:
        """The machine's slot."""
        return self._of.get(machine)

    def machine(self, index: int) -> str | None:
        """The machine in a slot, as the kernel has it."""
        value = self._slots.lookup(u32(index))
        number = SLOT.unpack(value)[7] if value else 0
        return machine_name(number) if number else None

    def ready(self, machine: str) -> int | None:
        """The slot of a machine whose interface exists."""
        return None if machine in self._absent else self._of.get(machine)

    def used(self) -> int:
        return len(self._of)

    def read(self) -> dict[Hashable, object]:
        """Also takes over who has which slot."""
        strays: dict[Place, int] = {}
        by_ifindex: dict[int, tuple[Place, int]] = {}
        for place, ifindex, slot in self._vm_slots.entries():
            strays[place] = slot
            if self._vm_slots.is_found(place, ifindex):
                by_ifindex[ifindex] = place, slot
        found: dict[Hashable, object] = {}
        self._of, self._absent, free = {}, set(), []
        for raw, value in self._slots.filled():
            index = int.from_bytes(raw, "little")
            number, ifindex = SLOT.unpack(value)[7], SLOT.unpack(value)[2]
            name = machine_name(number)
            if number == 0:
                free.append(index)
            elif name not in self._of:
                self._of[name] = index
                if not has_interface(value[4:]):
                    self._absent.add(name)
                place, slot = by_ifindex.get(ifindex, (NOWHERE, -1))
                if slot == index:
                    del strays[place]
                found[name] = (value[4:], slot == index)
            self._next = max(self._next, index + 1)
        order = {index: place for place, index in enumerate(self._free)}
        self._free = deque(sorted(free, key=lambda index: order.get(index, -1)))
        found.update((stray_name(place), slot) for place, slot in strays.items())
        return found

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, SlotRow)
        content = self._lower(row)[4:]
        return (content, True) if has_interface(content) else "no interface"

    def _lower(self, row: SlotRow) -> bytes:
        """The slot's contents, generation 0; without its interface a machine
        has a slot, but nothing is delivered."""
        link = self._link_of(row.interface)
        flags = 0
        if link is not None:
            flags = (SLOT_LIVE if row.live else 0) | (0 if link.redirect else SLOT_VIA_TC)
        return SLOT.pack(
            0,
            flags,
            link.ifindex if link else 0,
            socket.inet_aton(row.private_ip),
            socket.inet_aton(row.services_ip),
            bytes.fromhex(row.mac.replace(":", "")),
            link.mac if link else bytes(6),
            int(row.machine, 16),
            row.network,
            row.host,
            row.number,
        )

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        failures: list[Failure] = []
        self._drop(deletes)
        veiled: list[Pair] = []
        final: dict[bytes, tuple[SlotRow, bytes]] = {}
        for row in puts:
            assert isinstance(row, SlotRow)
            try:
                index, before, after = self._plan(row)
            except UnappliedError as reason:
                failures.append(reason.failure(SlotRow, row.key))
                continue
            self._absent.discard(row.machine)
            if not has_interface(after[4:]):
                self._absent.add(row.machine)
                missing = no_interface(row.interface, row.machine)
                failures.append(missing.failure(SlotRow, row.key))
            if before is not None:
                veiled.append((u32(index), before))
            final[u32(index)] = (row, after)
        write_all(self._slots, veiled)
        refused = write_all(self._slots, [(key, value) for key, (_, value) in final.items()])
        pairs = [
            (ifindex_of(value), int.from_bytes(key, "little"))
            for key, (_, value) in final.items()
            if key not in refused and has_interface(value[4:])
        ]
        names = {ifindex_of(value): row.key for row, value in final.values()}
        for key, error in refused.items():
            failures.append(explain("slots", error).failure(SlotRow, final[key][0].key))
        for ifindex, refusal in self._vm_slots.write(pairs).items():
            failures.append(refusal.failure(SlotRow, names[ifindex]))
        return failures

    def _plan(self, row: SlotRow) -> tuple[int, bytes | None, bytes]:
        """The slot, what to write first so that nothing half-written is live
        (None: nothing), and what to write then."""
        content = self._lower(row)
        index = self._of.get(row.machine)
        if index is None:
            index = self._take(row.machine)
        old = self._slots.lookup(u32(index)) or EMPTY
        generation, owner = generation_of(old), SLOT.unpack(old)[7]
        flags = int.from_bytes(content[4:8], "little")
        was_live = int.from_bytes(old[4:8], "little") & SLOT_LIVE
        if owner != int(row.machine, 16) or (was_live and not flags & SLOT_LIVE):
            generation = following(generation)
        self._unlink(old, keep=content[8:12])
        after = u32(generation) + content[4:]
        if old[8:] == content[8:]:
            return index, None, after
        return index, u32(generation) + bytes(4) + content[8:], after

    def _take(self, machine: str) -> int:
        if self._next < self._capacity:
            index = self._next
            self._next += 1
        elif self._free:
            index = self._free.popleft()
        else:
            raise full("slots")
        self._of[machine] = index
        return index

    def _unlink(self, old: bytes, keep: bytes) -> None:
        """The interface of a slot's old contents is no longer its own."""
        if old[8:12] not in (bytes(4), keep):
            self._vm_slots.delete(ifindex_of(old))

    def _drop(self, machines: Sequence[Hashable]) -> None:
        """First what its interface sends is refused, then nothing is delivered."""
        for machine in machines:
            name = str(machine)
            if name.startswith(STRAY):
                self._drop_stray(stray_place(name))
                continue
            index = self._of.get(name)
            if index is None:
                continue
            old = self._slots.lookup(u32(index)) or EMPTY
            self._unlink(old, keep=bytes(4))
            self._slots.update(u32(index), u32(following(generation_of(old))) + EMPTY[4:])
            del self._of[name]  # only now: what could not be cleared is tried again
            self._absent.discard(name)
            self._free.append(index)

    def _drop_stray(self, place: Place) -> None:
        """Unless it has come to fit a slot since it was read."""
        ifindex, slot = self._vm_slots.at(place)
        value = self._slots.lookup(u32(slot))
        fits = value is not None and ifindex_of(value) == ifindex
        if not fits or not self._vm_slots.is_found(place, ifindex):
            self._vm_slots.clear(place)


def has_interface(content: bytes) -> bool:
    """Of a slot's contents after the generation."""
    return content[4:8] != bytes(4)


def ifindex_of(value: bytes) -> int:
    """Of a whole slot."""
    return int.from_bytes(value[8:12], "little")


def stray_name(place: Place) -> str:
    bucket, way = place
    return f"{STRAY}{bucket}/{way}"


def stray_place(name: str) -> Place:
    bucket, way = name.removeprefix(STRAY).split("/")
    return int(bucket), int(way)


def machine_name(number: int) -> str:
    """``machine_id`` as machines are called."""
    return f"{number:014x}"


def no_interface(interface: str, machine: str) -> UnappliedError:
    return UnappliedError(
        f"interface {interface} of machine {machine} does not exist",
        "Create it, or remove the machine; it is picked up when it appears.",
        permanent=True,
    )
