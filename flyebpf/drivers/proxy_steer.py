# SPDX-License-Identifier: Apache-2.0
"""``binds``, ``proxies`` and ``proxy_sockets``: which connections the program in the
host's network namespace gives to the proxy; and that program."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

from flyebpf.bpf import layout
from flyebpf.bpf.layout import BIND_NOBODY, BIND_SHARED
from flyebpf.bpf.loader import set_aside
from flyebpf.bpf.program import NetnsLink, Program
from flyebpf.drivers.mapio import MapLike, u32
from flyebpf.model.proxyrows import TLS_CHAINS, Chain, ProxyBindRow, ProxyRow
from flyebpf.model.records import TlsOptions
from flyebpf.proxy.chains import (
    HTTP,
    RAW,
    SHARED_HTTP,
    SHARED_HTTPS,
    SHARED_TLS,
    Listener,
    Signed,
    raw_range,
    with_tls,
)

log = logging.getLogger(__name__)
KEY = struct.Struct("=I16sHH")  # prefixlen, addr, port (network order), pad
MAPPED = bytes(10) + b"\xff\xff"
ADDRESS_BITS, PORT_BITS = 128, 16
PIN = "proxy-sklookup"
OWNERS = {"envoy", "relay"}
"""Processes with sockets of their own."""
SO_ATTACH_FILTER = 26
SOCK_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
SOCK_FPROG = struct.Struct("HP")  # struct sock_fprog: len, filter
BPF_RET = 0x06  # with k: how many bytes of the packet to take
Entries = dict[bytes, bytes]


def key_of(address: bytes, bits: int, port: int = 0) -> bytes:
    """Of ``binds``: the first ``bits`` of address and port."""
    return KEY.pack(bits, address, int.from_bytes(port.to_bytes(2, "big"), "little"), 0)


def packed(address: str) -> bytes:
    """16 bytes, IPv4 mapped."""
    parsed = ip_address(address)
    return parsed.packed if parsed.version == 6 else MAPPED + parsed.packed


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The range as aligned blocks: first port, and bits that its ports share."""
    start = first
    while start <= last:
        size = start & -start or 1 << PORT_BITS
        while start + size - 1 > last:
            size >>= 1
        yield start, PORT_BITS - (size.bit_length() - 1)
        start += size


def listener_of(row: ProxyBindRow, place: int | None, signed: Signed) -> int:
    """The number of the listener; BIND_NOBODY where there is none for it."""
    if row.chain is Chain.RAW:
        if row.first_port == row.last_port:
            return RAW.number
        return BIND_NOBODY if place is None else raw_range(place).number
    if row.chain is Chain.HTTP:
        return HTTP.number
    if row.chain in TLS_CHAINS:
        return with_tls(row.chain, row.tls or TlsOptions(), signed).number
    return BIND_NOBODY


def bind_entries(row: ProxyBindRow, place: int | None, signed: Signed = Signed.NONE) -> Entries:
    """What the row makes of ``binds``."""
    address, value = packed(row.address), u32(listener_of(row, place, signed))
    return {
        key_of(address, ADDRESS_BITS + bits, port): value
        for port, bits in port_prefixes(row.first_port, row.last_port)
    }


def address_entries(address: str) -> Entries:
    """Nobody answers at the address but what is bound."""
    return {key_of(packed(address), ADDRESS_BITS): u32(BIND_NOBODY)}


def pool_entries(row: ProxyRow) -> Entries:
    """Pools: nobody answers there but what is bound. Shared ones: their ports."""
    found: Entries = {}
    for cidr in row.pools:
        found[_pool_key(cidr)] = u32(BIND_NOBODY)
    for cidr in row.shared:
        found[_pool_key(cidr)] = u32(BIND_SHARED)
    if row.shared:
        found |= shared_entries(80, SHARED_HTTP.number) | shared_entries(443, SHARED_HTTPS.number)
    return found


def shared_entries(port: int, listener: int) -> Entries:
    return {key_of(bytes(16), ADDRESS_BITS + PORT_BITS, port): u32(listener)}


def sni_entries(port: int) -> Entries:
    return shared_entries(port, SHARED_TLS.number)


def _pool_key(cidr: str) -> bytes:
    net = ip_network(cidr)
    bits = net.prefixlen if net.version == 6 else 96 + net.prefixlen
    return key_of(packed(str(net.network_address)), bits)


class Binds:
    """The map ``binds``, by who wants which entries."""

    def __init__(self, table: MapLike) -> None:
        self._table = table
        self._of: dict[Hashable, Entries] = {}

    def set(self, owner: Hashable, entries: Entries) -> None:
        """What ``owner`` wants from now on. Raises KernelError."""
        before = self._of.get(owner, {})
        for key, value in entries.items():
            if before.get(key) != value:
                self._table.update(key, value)
        if entries:
            self._of[owner] = entries
        else:
            self._of.pop(owner, None)
        for key in before.keys() - entries.keys():
            self._table.delete(key)

    def repair(self) -> int:
        """Make the map as it should be; how much of it was not. Raises KernelError."""
        wanted = {key: value for of in self._of.values() for key, value in of.items()}
        found = dict(self._table.items())
        wrong = [(k, v) for k, v in wanted.items() if found.get(k) != v]
        for key, value in wrong:
            self._table.update(key, value)
        stale = found.keys() - wanted.keys()
        for key in stale:
            self._table.delete(key)
        return len(wrong) + len(stale)

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))


class Sockets:
    """The map ``proxy_sockets``."""

    def __init__(self, table: MapLike, ports: MapLike) -> None:
        """``ports``: the map ``proxy_own``, of the sockets' own ports."""
        self._table = table
        self._ports = ports
        self._hidden: dict[str, set[int]] = {}
        self._lock = threading.Lock()
        self._waiting: list[socket.socket] = []

    def wait(self) -> None:
        """Whose listener has no socket is not refused, but tries again. Raises
        KernelError."""
        if self._waiting:
            return
        self._waiting = [deaf_socket(family) for family in (socket.AF_INET, socket.AF_INET6)]
        for place, waiting in enumerate(self._waiting):
            key = u32(2 * layout.PROXY_WAITING + place)
            self._table.update(key, waiting.fileno().to_bytes(8, "little"))

    def refuse(self) -> None:
        """The opposite. Their entries go with the sockets."""
        for waiting in self._waiting:
            waiting.close()
        self._waiting.clear()

    def fill(
        self, of: str, listeners: Iterable[Listener], found: Mapping[str, tuple[int, int]]
    ) -> bool:
        """Give each listener its sockets, by descriptors, which are closed. False: one
        is missing. ``of``: whose they are. Raises KernelError."""
        complete = True
        try:
            self._hide(of, {port_of(descriptor) for descriptor in _all(found.values())})
            for listener in listeners:
                pair = found.get(listener.name)
                if pair is None:
                    complete = False
                    continue
                for family, descriptor in enumerate(pair):
                    self._table.update(
                        u32(2 * listener.number + family), descriptor.to_bytes(8, "little")
                    )
        finally:
            for descriptor in _all(found.values()):
                os.close(descriptor)
        return complete

    def _hide(self, of: str, ports: set[int]) -> None:
        """Let nobody dial the sockets at their own ports."""
        with self._lock:
            for number in ports:
                self._ports.update(u32(number), u32(1))
            self._hidden[of] = ports
            if self._hidden.keys() < OWNERS:
                return  # what is there may be of others that an earlier daemon knew
            wanted = {u32(port) for found in self._hidden.values() for port in found}
            for port, _ in list(self._ports.items()):
                if port not in wanted:
                    self._ports.delete(port)

    def present(self, listener: Listener = RAW) -> bool:
        """Whether the map has a socket for the listener; those of a process that has
        ended are gone."""
        return self._table.lookup(u32(2 * listener.number)) is not None


def deaf_socket(family: int) -> socket.socket:
    """A listening socket whose filter drops every packet before TCP sees it."""
    made = socket.socket(family)
    take_nothing = ctypes.create_string_buffer(SOCK_FILTER.pack(BPF_RET, 0, 0, 0))
    made.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, SOCK_FPROG.pack(1, ctypes.addressof(take_nothing))
    )
    made.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    made.listen(1)
    return made


def port_of(descriptor: int) -> int:
    """The local port of a socket."""
    found = socket.socket(fileno=os.dup(descriptor))
    try:
        return int(found.getsockname()[1])
    finally:
        found.close()


def _all(pairs: Iterable[tuple[int, int]]) -> Iterator[int]:
    for pair in pairs:
        yield from pair


def attach(links: Path, program: Program) -> None:
    """The program in this network namespace, by a pinned link; swapped in place when
    there is an older one. Raises KernelError."""
    pin = links / PIN
    if os.path.lexists(pin):
        with NetnsLink.open(pin) as link:
            if not link.is_netns_link:
                set_aside(pin, "is no link of a network namespace", log.warning)
            elif link.is_here:
                if link.program_id != program.id:
                    link.update(program)
                    log.info("swapped in steer_sklookup %d", program.id)
                return
            else:
                pin.unlink()  # that namespace is gone
    with NetnsLink.create(program) as link:
        link.pin(pin)


def detach(links: Path) -> None:
    (links / PIN).unlink(missing_ok=True)


def is_attached(links: Path, program: Program) -> bool:
    """Raises KernelError."""
    pin = links / PIN
    if not os.path.lexists(pin):
        return False
    with NetnsLink.open(pin) as link:
        return link.is_netns_link and link.is_here and link.program_id == program.id
