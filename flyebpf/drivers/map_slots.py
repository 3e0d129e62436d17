# SPDX-License-Identifier: Apache-2.0
"""``slots``: the machines that packets can be delivered to, and how they are
found: this host's by their interface (``vm_slots``) and number (``sixpn``).

A slot names its machine itself (``machine_id``), so nothing else is needed to
find it again. An empty slot keeps its generation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_REMOTE, SLOT_VIA_TC
from flyebpf.drivers.link import LinkOf
from flyebpf.drivers.map_sixpn import Key, Sixpn
from flyebpf.drivers.map_vm_slots import NOWHERE, Place, VmSlots
from flyebpf.drivers.mapio import MapLike, Pair, UnappliedError, explain, full, u32, write_all
from flyebpf.drivers.slot_value import (
    EMPTY,
    SLOT,
    following,
    generation_of,
    has_way,
    ifindex_of,
    ipv4,
    machine_name,
    owner_of,
    sixpn_keys,
)
from flyebpf.model.rows import Row, SlotRow
from flyebpf.reconcile.base import Failure

STRAY, STRAY_KEY = "vm_slots#", "sixpn#"
"""How an entry of these maps is named that fits no slot: by its place or key."""


class SlotPart:
    """Gives slots to machines and fills them.

    A slot goes from one owner to the next through an empty state that is not
    live, and gets a new generation on the way: flows of the old owner end. So do
    those of a machine that is on another host now.
    """

    kind: type[Row] = SlotRow

    def __init__(
        self, slots: MapLike, vm_slots: VmSlots, sixpn: Sixpn, capacity: int, link_of: LinkOf
    ) -> None:
        self._slots = slots
        self._vm_slots = vm_slots
        self._sixpn = sixpn
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
        """The slot of a machine that packets can get to: its interface exists, or
        it is on another host."""
        return None if machine in self._absent else self._of.get(machine)

    def used(self) -> int:
        return len(self._of)

    def read(self) -> dict[Hashable, object]:
        """Also takes over who has which slot."""
        keys = self._sixpn.entries()
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
            fields = SLOT.unpack(value)
            number, ifindex = fields[7], fields[2]
            name = machine_name(number)
            if number == 0:
                free.append(index)
            elif name not in self._of:
                self._of[name] = index
                if not has_way(value[4:]):
                    self._absent.add(name)
                place, slot = by_ifindex.get(ifindex, (NOWHERE, -1))
                if slot == index:
                    del strays[place]
                linked = slot == index or not ifindex
                found[name] = (value[4:], linked and take(keys, sixpn_keys(value), index))
            self._next = max(self._next, index + 1)
        order = {index: place for place, index in enumerate(self._free)}
        self._free = deque(sorted(free, key=lambda index: order.get(index, -1)))
        found.update((f"{STRAY}{a}/{b}", slot) for (a, b), slot in strays.items())
        found.update((f"{STRAY_KEY}{a}/{b}", slot) for (a, b), slot in keys.items())
        return found

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, SlotRow)
        content = self._lower(row)[4:]
        return (content, True) if has_way(content) else "no interface"

    def _lower(self, row: SlotRow) -> bytes:
        """The slot's contents, generation 0; without its interface a machine
        has a slot, but nothing is delivered."""
        link = None if row.remote else self._link_of(row.interface)
        flags = SLOT_REMOTE if row.remote else 0
        if row.live and (link is not None or row.remote):
            flags |= SLOT_LIVE
        if link is not None and not link.redirect:
            flags |= SLOT_VIA_TC
        return SLOT.pack(
            0,
            flags,
            link.ifindex if link else 0,
            ipv4(row.private_ip),
            ipv4(row.services_ip),
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
            if not has_way(after[4:]):
                self._absent.add(row.machine)
                missing = no_interface(row.interface, row.machine)
                failures.append(missing.failure(SlotRow, row.key))
            if before is not None:
                veiled.append((u32(index), before))
            final[u32(index)] = (row, after)
        write_all(self._slots, veiled)
        refused = write_all(self._slots, [(key, value) for key, (_, value) in final.items()])
        for key, error in refused.items():
            failures.append(explain("slots", error).failure(SlotRow, final.pop(key)[0].key))
        return failures + self._link(final)

    def _link(self, written: dict[bytes, tuple[SlotRow, bytes]]) -> list[Failure]:
        """Let slots be found, once they are complete."""
        by_ifindex: dict[int, tuple[str, int]] = {}
        by_key: dict[Key, tuple[str, int]] = {}
        for raw, (row, value) in written.items():
            index = int.from_bytes(raw, "little")
            if ifindex := ifindex_of(value):
                by_ifindex[ifindex] = row.machine, index
            by_key.update((key, (row.machine, index)) for key in sixpn_keys(value))
        failed = {
            by_ifindex[ifindex][0]: reason
            for ifindex, reason in self._vm_slots.write(
                (ifindex, index) for ifindex, (_, index) in by_ifindex.items()
            ).items()
        }
        refused = self._sixpn.write((key, index) for key, (_, index) in by_key.items())
        failed.update((by_key[key][0], reason) for key, reason in refused.items())
        return [reason.failure(SlotRow, machine) for machine, reason in failed.items()]

    def _plan(self, row: SlotRow) -> tuple[int, bytes | None, bytes]:
        """The slot, what to write first so that nothing half-written is live
        (None: nothing), and what to write then."""
        content = self._lower(row)
        index = self._of.get(row.machine)
        if index is None:
            index = self._take(row.machine)
        old = self._slots.lookup(u32(index)) or EMPTY
        generation = generation_of(old)
        flags = int.from_bytes(content[4:8], "little")
        was_live = int.from_bytes(old[4:8], "little") & SLOT_LIVE
        if owner_of(old) != owner_of(content) or (was_live and not flags & SLOT_LIVE):
            generation = following(generation)
        after = u32(generation) + content[4:]
        self._unlink(index, old, after)
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

    def _unlink(self, index: int, old: bytes, new: bytes) -> None:
        """What led to a slot's old contents and does not lead to the new ones."""
        if ifindex_of(old) not in (0, ifindex_of(new)):
            self._vm_slots.delete(ifindex_of(old), index)
        for key in set(sixpn_keys(old)).difference(sixpn_keys(new)):
            self._sixpn.delete(key, index)

    def _drop(self, machines: Sequence[Hashable]) -> None:
        """First what its interface sends is refused, then nothing is delivered."""
        for machine in machines:
            name = str(machine)
            if name.startswith((STRAY, STRAY_KEY)):
                self._drop_stray(name)
                continue
            index = self._of.get(name)
            if index is None:
                continue
            old = self._slots.lookup(u32(index)) or EMPTY
            self._unlink(index, old, EMPTY)
            self._slots.update(u32(index), u32(following(generation_of(old))) + EMPTY[4:])
            del self._of[name]  # only now: what could not be cleared is tried again
            self._absent.discard(name)
            self._free.append(index)

    def _drop_stray(self, name: str) -> None:
        """Unless it has come to fit a slot since it was read."""
        one, other = (int(part) for part in name.partition("#")[2].split("/"))
        place = key = (one, other)
        if name.startswith(STRAY_KEY):
            slot = self._sixpn.get(key)
            value = None if slot is None else self._slots.lookup(u32(slot))
            if slot is not None and (value is None or key not in sixpn_keys(value)):
                self._sixpn.delete(key, slot)
            return
        ifindex, slot = self._vm_slots.at(place)
        value = self._slots.lookup(u32(slot))
        fits = value is not None and ifindex_of(value) == ifindex
        if not fits or not self._vm_slots.is_found(place, ifindex):
            self._vm_slots.clear(place)


def take(keys: dict[Key, int], wanted: tuple[Key, ...], slot: int) -> bool:
    """Remove those of ``wanted`` that lead to ``slot``; whether all did."""
    good = [key for key in wanted if keys.get(key) == slot]
    for key in good:
        del keys[key]
    return len(good) == len(wanted)


def no_interface(interface: str, machine: str) -> UnappliedError:
    return UnappliedError(
        f"interface {interface} of machine {machine} does not exist",
        "Create it, or remove the machine; it is picked up when it appears.",
        permanent=True,
    )
