# SPDX-License-Identifier: Apache-2.0
"""What a name means to whoever asks (contract, section 8). Pure: no I/O, no clock.

``answer`` knows three zones: ``internal``, ``flycast`` and the reverse names of
``fdaa::/16``. Everything in them is decided from the asker's own network; what
exists elsewhere cannot be told from what exists nowhere. A name that exists only
because others end with it is answered without data, not denied, or a resolver
could take everything below it for denied too (RFC 8020).
"""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

from flyebpf.dns.asker import Asker
from flyebpf.dns.tables import AppTable, Place
from flyebpf.dns.view import View
from flyebpf.dns.wire import NAMESERVER, SOA_RDATA, Answer, Rcode, Type, labels_of, name_of

INTERNAL = name_of("internal")
FLYCAST = name_of("flycast")
REVERSE = name_of("a.a.d.f.ip6.arpa")
HIDDEN_PEERS = "interactive-"
TEXT_MAX = 64_000
"""Bytes of a TXT record's text: the rest of a list is left out, because no
message could carry it."""

_TOP = re.compile(rb"top([1-9][0-9]{0,4})")
_REVERSE_LABELS = [b"a", b"a", b"d", b"f", b"ip6", b"arpa"]
_NIBBLES = frozenset(b"%x" % value for value in range(16))
_UNDER_APP = frozenset((b"vm", b"process", b"of", b"_metadata"))
"""Labels before an app's that only end longer names."""


class Question(Protocol):
    """``name`` in wire form and lower case, ``type`` of the wanted records."""

    @property
    def name(self) -> bytes: ...
    @property
    def type(self) -> int: ...


def answer(view: View, question: Question, asker: Asker) -> Answer | None:
    """The answer, or None for a name that is not ours but the world's."""
    labels = labels_of(question.name)
    if not labels:
        return None
    last = labels[-1]
    if last == b"internal":
        return _zone(INTERNAL, question, labels[:-1], _Internal(view, asker))
    if last == b"flycast":
        return _zone(FLYCAST, question, labels[:-1], _Flycast(view, asker))
    if last == b"arpa" and labels[-6:] == _REVERSE_LABELS:
        return _zone(REVERSE, question, labels[:-6], _Reverse(view, asker))
    return None


Records = tuple[int, Sequence[bytes], bool]
"""Type, rdata, and whether their order means something."""
EMPTY: Records = (0, (), False)
"""A name that exists and has no data."""


class _Zone(Protocol):
    def records(self, labels: list[bytes]) -> Records | None:
        """What the name has; None: there is no such name."""


def _zone(apex: bytes, question: Question, labels: list[bytes], zone: _Zone) -> Answer:
    asked = question.type
    if not labels:
        return _of_apex(apex, asked)
    found = zone.records(labels)
    if found is None:
        return Answer(Rcode.NXDOMAIN, apex)
    kind, rdata, ordered = found
    if rdata and asked in (kind, Type.ANY):
        return Answer(Rcode.NOERROR, apex, kind, rdata, ordered)
    return Answer(Rcode.NOERROR, apex)


def _of_apex(apex: bytes, asked: int) -> Answer:
    if asked in (Type.SOA, Type.ANY):
        return Answer(Rcode.NOERROR, apex, Type.SOA, (SOA_RDATA,))
    if asked == Type.NS:
        return Answer(Rcode.NOERROR, apex, Type.NS, (NAMESERVER,))
    return Answer(Rcode.NOERROR, apex)


def addresses(found: Sequence[bytes] | None) -> Records | None:
    return None if found is None else (Type.AAAA, found, False)


def text(
    kept_in: dict[str, tuple[bytes, ...]], key: str, items: Iterable[bytes], separator: bytes = b","
) -> Records:
    """One TXT record of a list, in as many strings as it takes; made once."""
    rdata = kept_in.get(key)
    if rdata is None:
        rdata = kept_in[key] = _text_rdata(items, separator)
    return (Type.TXT, rdata, True) if rdata else EMPTY


def _text_rdata(items: Iterable[bytes], separator: bytes) -> tuple[bytes, ...]:
    kept, size = [], 0
    for item in items:
        size += len(item) + 1
        if size > TEXT_MAX:
            break
        kept.append(item)
    whole = separator.join(kept)
    strings = [whole[at : at + 255] for at in range(0, len(whole), 255)]
    rdata = b"".join(bytes([len(string)]) + string for string in strings)
    return (rdata,) if rdata else ()


class _Internal:
    def __init__(self, view: View, asker: Asker) -> None:
        self._view = view
        self._asker = asker

    def records(self, labels: list[bytes]) -> Records | None:
        last = labels[-1]
        if last[:1] == b"_":
            return self._listed(last, labels[:-1])
        app = last.decode("latin-1")
        if not self._view.app_in(self._asker.network, app):
            return None
        table = self._view.table(app)
        if len(labels) == 1:
            return addresses(table.usable)
        return self._below_app(table, labels[-2], labels[:-2])

    def _below_app(self, table: AppTable, word: bytes, rest: list[bytes]) -> Records | None:
        if not rest:
            return _one_word(table, word)
        if word == b"of" and rest[-1] == b"nearest":
            return self._nearest(table, rest[:-1])
        if word == b"_metadata" and rest[-1] == b"kv":
            found = table.by_metadata.get(b".".join(rest[:-1]))
            return EMPTY if found is None and len(rest) == 1 else addresses(found)
        return _two_words(table, word, rest[0]) if len(rest) == 1 else None

    def _nearest(self, table: AppTable, rest: list[bytes]) -> Records | None:
        if not rest:
            return EMPTY
        match = _TOP.fullmatch(rest[0]) if len(rest) == 1 else None
        if match is None:
            return None
        return (Type.AAAA, self._closest(table, int(match[1])), True)

    def _closest(self, table: AppTable, count: int) -> list[bytes]:
        """Closest first: the asker's host, its region, then other regions; what
        is equally close, in random order."""
        regions = {key.decode(): found for key, found in table.by_region.items()}
        chosen: list[bytes] = []
        host = self._asker.host.to_bytes(4, "big")
        here = self._view.region_of(self._asker.host)
        for region in self._view.distances.order(here, regions):
            found = regions[region]
            mine = [address for address in found if address[6:10] == host] if region == here else []
            others = [address for address in found if address[6:10] != host] if mine else found
            for group in (mine, others):
                chosen += random.sample(group, min(len(group), count - len(chosen)))
            if len(chosen) == count:
                break
        return chosen

    def _listed(self, word: bytes, rest: list[bytes]) -> Records | None:
        number = self._asker.network
        lists = self._view.lists(number)
        if word == b"_instances" and rest in ([], [b"all"]):
            key = "all._instances" if rest else "_instances"
            return text(lists, key, self._instances(bool(rest)), b";")
        if word == b"_peer":
            return self._peer(lists, rest)
        if rest:
            return None
        if word == b"_apps":
            return text(lists, "_apps", self._apps())
        if word == b"_api":
            return addresses((nameserver(number),))
        return None

    def _apps(self) -> Iterable[bytes]:
        for name in self._view.apps_of(self._asker.network):
            yield name.encode()

    def _instances(self, every: bool) -> Iterable[bytes]:
        for app in self._view.apps_of(self._asker.network):
            for place in self._view.places(app):
                if every or place.usable:
                    yield _instance(place)

    def _peer(self, lists: dict[str, tuple[bytes, ...]], rest: list[bytes]) -> Records | None:
        number = self._asker.network
        if not rest:
            peers = self._view.peers_of(number)
            names = (peer.name for peer in peers if not peer.name.startswith(HIDDEN_PEERS))
            return text(lists, "_peer", (name.encode() for name in names))
        # A name with dots in it is asked for as several labels.
        peer = self._view.peer(number, b".".join(rest).decode("latin-1"))
        return None if peer is None else addresses((peer.address,))


def _one_word(table: AppTable, word: bytes) -> Records | None:
    """``<word>.<app>``."""
    if word == b"global":
        return addresses(table.usable)
    if word in (b"vms", b"regions"):
        return _app_list(table, word.decode())
    found = addresses(table.by_region.get(word))
    return EMPTY if found is None and word in _UNDER_APP else found


def _two_words(table: AppTable, word: bytes, first: bytes) -> Records | None:
    """``<first>.<word>.<app>``."""
    if word == b"vm":
        return addresses(table.by_id.get(first))
    if word == b"process":
        return addresses(table.by_group.get(first))
    if first == b"all" and word in (b"vms", b"regions"):
        return _app_list(table, f"all.{word.decode()}")
    return None


def _app_list(table: AppTable, which: str) -> Records:
    """``vms``, ``regions`` and the same with ``all.`` before."""
    every = which.startswith("all.")
    vms = (place.vm for place in table.places if every or place.usable)
    if which.endswith("vms"):
        return text(table.texts, which, (f"{vm.id} {vm.region}".encode() for vm in vms))
    regions = (region.encode() for region in sorted({vm.region for vm in vms}))
    return text(table.texts, which, regions)


def _instance(place: Place) -> bytes:
    vm = place.vm
    return b"instance=%s,app=%s,ip=%s,region=%s" % (
        vm.id.encode(),
        vm.app.encode(),
        _text_of(place.address).encode(),
        vm.region.encode(),
    )


def _text_of(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)


def nameserver(network: int) -> bytes:
    """``fdaa:<net>::3``, packed."""
    return struct.pack("!HI9xB", 0xFDAA, network, 3)


class _Flycast:
    def __init__(self, view: View, asker: Asker) -> None:
        self._view = view
        self._network = asker.network

    def records(self, labels: list[bytes]) -> Records | None:
        if len(labels) != 1:
            return None
        return addresses(self._view.flycast(self._network, labels[0].decode("latin-1")) or None)


class _Reverse:
    def __init__(self, view: View, asker: Asker) -> None:
        self._view = view
        self._network = asker.network

    def records(self, labels: list[bytes]) -> Records | None:
        if len(labels) > 28 or not _NIBBLES.issuperset(labels):
            return None
        digits = (b"fdaa" + b"".join(reversed(labels))).decode()
        own = f"fdaa{self._network:08x}"
        if len(digits) < 32:
            return EMPTY if own.startswith(digits) or digits.startswith(own) else None
        if not digits.startswith(own):
            return None
        return self._pointer(bytes.fromhex(digits))

    def _pointer(self, address: bytes) -> Records | None:
        view, network = self._view, self._network
        if (place := view.place_of(network, address)) is not None:
            name = name_of(f"{place.vm.id}.vm.{place.vm.app}.internal")
            return (Type.PTR, (name,), True) if place.usable else EMPTY
        if (peer := view.peer_at(network, address)) is not None:
            return (Type.PTR, (name_of(f"{peer.name}._peer.internal"),), True)
        if (app := view.flycast_at(address)) is not None:
            return (Type.PTR, (name_of(f"{app}.flycast"),), True)
        return (Type.PTR, (NAMESERVER,), True) if address == nameserver(network) else None
