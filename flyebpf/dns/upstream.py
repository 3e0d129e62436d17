# SPDX-License-Identifier: Apache-2.0
"""One resolver: how a question gets to it and what is believed of the answer.

An answer by UDP is believed when it comes from the resolver's address to the
port that the kernel chose for this one query, has its random id, and repeats
the question with the same random upper and lower case. Anything else is waited
out; where it looks like somebody is guessing, or all fits but the case (some
resolvers do not keep it), TCP is used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import struct

import dns.message
import dns.rcode

from flyebpf.dns import wire
from flyebpf.dns.cache import Key
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.wire import CD, HEADER, IN, OPCODE, QR, RD, TC, UDP_MAX, Rcode, Type
from flyebpf.errors import InvalidError

WRONG_MAX = 8
"""Datagrams that do not fit the query before TCP is used."""
RECORDS_MAX = 500
"""Of an answer: reading one takes some 50 microseconds, and who asks may also be
who owns the name."""
QUICK = 1500
"""Bytes of an answer that is read at once; a longer one is read beside the loop,
so that others do not wait for it."""
UDP_TIMEOUT = 2.5  # seconds; a later answer is as good as none
TCP_TIMEOUT = 3.0
_DOWN_AFTER = 3  # failures in a row
_DOWN_LONGEST = 30.0  # seconds
_SRTT_MAX = 2.0


class FailedError(Exception):
    """The resolver has no usable answer. ``answered``: it is there all the same."""

    def __init__(self, reason: str, answered: bool = False) -> None:
        super().__init__(reason)
        self.answered = answered


class _DoubtfulError(Exception):
    """What came by UDP is not to be believed; TCP will tell."""


def parse_address(text: str) -> tuple[str, int]:
    """``192.0.2.1``, ``192.0.2.1:5353``, ``2001:db8::1`` or ``[2001:db8::1]:5353``.

    Raises InvalidError.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536 or not port.isascii():
        raise InvalidError(
            f"resolver {text!r} is not an address",
            "write it such as 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353",
        )
    return str(address), number


class Upstream:
    """A resolver and its health. ``srtt``: smoothed seconds to an answer;
    ``failures``: in a row, until now."""

    def __init__(self, address: str, metrics: Metrics) -> None:
        self.address = parse_address(address)
        self.srtt = 0.1
        self._family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        self._metrics = metrics
        self.failures = 0
        self._down_until = 0.0

    def __str__(self) -> str:
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def patience(self) -> float:
        """Seconds to wait for it before another one is asked too."""
        return min(max(3 * self.srtt, 0.1), 1.0)

    def is_down(self, now: float) -> bool:
        return now < self._down_until

    def _learn(self, seconds: float | None) -> None:
        """An answer after so many seconds, or None: no answer."""
        now = asyncio.get_running_loop().time()
        if seconds is not None:
            self.srtt += (seconds - self.srtt) / 4
            self.failures, self._down_until = 0, 0.0
            return
        self.srtt = min(self.srtt * 2, _SRTT_MAX)
        self.failures += 1
        if self.failures >= _DOWN_AFTER:
            pause = min(2.0 ** (self.failures - _DOWN_AFTER), _DOWN_LONGEST)
            self._down_until = now + pause

    async def ask(self, key: Key) -> dns.message.Message:
        """The answer to a question. Raises FailedError."""
        begun = asyncio.get_running_loop().time()
        self._metrics.count("upstream_queries")
        try:
            message = await self._ask(key, edns=True)
            if message.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and message.edns < 0:
                message = await self._ask(key, edns=False)  # RFC 6891, 6.2.2
        except FailedError as error:
            self._metrics.count("upstream_failures")
            if not error.answered:
                self._learn(None)
            raise
        self._learn(asyncio.get_running_loop().time() - begun)
        if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or not message.question:
            self._metrics.count("upstream_failures")
            raise FailedError(f"{self} says {dns.rcode.to_text(message.rcode())}", answered=True)
        return message

    async def _ask(self, key: Key, edns: bool) -> dns.message.Message:
        sent = query(key, edns)
        try:
            data = await self._by_udp(sent)
            if not struct.unpack_from("!H", data, 2)[0] & TC:
                return await self._read(data)
        except _DoubtfulError:
            self._metrics.count("spoofed")
        self._metrics.count("upstream_tcp")
        return await self._read(await self._by_tcp(sent))

    async def _by_udp(self, sent: bytes) -> bytes:
        """On a socket of its own: the kernel chooses its port at random, and lets
        nothing in that comes from another address."""
        loop = asyncio.get_running_loop()
        try:
            made = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:  # there are too many
            raise FailedError(f"no socket for {self}: {error}", answered=True) from error
        with made as sock:
            try:
                sock.connect(self.address)
                sock.send(sent)
                async with asyncio.timeout(UDP_TIMEOUT):
                    for _ in range(WRONG_MAX):
                        data = await loop.sock_recv(sock, 65535)
                        if fits(sent, data):
                            return data
                        if fits(sent, data, case=False):
                            raise _DoubtfulError  # guessed, or it does not keep the case
                        self._metrics.count("spoofed")
            except TimeoutError:
                raise FailedError(f"{self} does not answer") from None
            except OSError as error:
                raise FailedError(f"{self} cannot be reached: {error}") from error
        raise _DoubtfulError

    async def _by_tcp(self, sent: bytes) -> bytes:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(TCP_TIMEOUT):
                reader, writer = await asyncio.open_connection(*self.address)
                writer.write(struct.pack("!H", len(sent)) + sent)
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                data = await reader.readexactly(size)
        except TimeoutError:
            raise FailedError(f"{self} does not answer by TCP") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise FailedError(f"{self} cannot be reached by TCP: {error}") from error
        finally:
            if writer is not None:
                writer.transport.abort()
        if not fits(sent, data, case=False):
            raise FailedError(f"{self} answers another question", answered=True)
        return data

    async def _read(self, data: bytes) -> dns.message.Message:
        if sum(struct.unpack_from("!HHH", data, 6)) > RECORDS_MAX:
            raise FailedError(f"{self} sends more than {RECORDS_MAX} records", answered=True)
        if len(data) <= QUICK:
            return self._parse(data)
        return await asyncio.to_thread(self._parse, data)

    def _parse(self, data: bytes) -> dns.message.Message:
        try:
            return dns.message.from_wire(data)
        except Exception as error:  # whatever a liar can bring about in a parser
            raise FailedError(f"{self} sends malformed answers: {error!r}", True) from error


def query(key: Key, edns: bool) -> bytes:
    """A query with a random id and random case (draft-vixie-dnsext-dns0x20)."""
    bits = secrets.randbits(8 * len(key.name))
    mixed = bytes(
        byte ^ 0x20 if 97 <= byte <= 122 and bits >> at & 1 else byte
        for at, byte in enumerate(key.name)
    )
    flags = RD | (CD if key.cd else 0)
    front = struct.pack("!HHHHHH", secrets.randbits(16), flags, 1, 0, 0, edns)
    opt = struct.pack("!BHHIH", 0, Type.OPT, UDP_MAX, wire.DO if key.do else 0, 0)
    return front + mixed + struct.pack("!HH", key.type, IN) + (opt if edns else b"")


def fits(sent: bytes, data: bytes, case: bool = True) -> bool:
    """Whether ``data`` answers the query ``sent``. ``case``: letters have to be
    the same; without it only their names."""
    if len(data) < HEADER or data[:2] != sent[:2]:
        return False
    flags, questions = struct.unpack_from("!HH", data, 2)
    if not flags & QR or flags & OPCODE:
        return False
    if not questions:  # a server that did not understand the query
        return flags & 15 in (Rcode.FORMERR, Rcode.NOTIMP, Rcode.REFUSED, Rcode.SERVFAIL)
    end = wire.skip_name(sent, HEADER) + 4
    asked, repeated = sent[HEADER:end], data[HEADER:end]
    return questions == 1 and (
        repeated == asked
        if case
        else repeated[:-4].lower() == asked[:-4].lower() and repeated[-4:] == asked[-4:]
    )
