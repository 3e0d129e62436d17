# SPDX-License-Identifier: Apache-2.0
"""Resolvers on loopback that answer as they are told: also late, wrong or not
at all."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rrset

Answers = bytes | list[bytes] | None
Behave = Callable[["Question"], Answers]


@dataclass
class Question:
    """One query as it came. ``number``: how many came before it."""

    wire: bytes
    message: dns.message.Message
    tcp: bool
    client: Any
    number: int

    @property
    def name(self) -> str:
        return str(self.message.question[0].name)

    def answer(self, *records: str, rcode: int = 0, flags: int = 0, authority: str = "") -> bytes:
        """A proper answer with records in zone file form."""
        made = dns.message.make_response(self.message, recursion_available=True)
        made.flags |= flags
        made.set_rcode(rcode)
        made.answer = [dns.rrset.from_text(*_fields(record)) for record in records]
        made.authority = [dns.rrset.from_text(*_fields(authority))] if authority else []
        return bytes(made.to_wire(max_size=65535))


def _fields(record: str) -> tuple[str, int, str, str, str]:
    name, ttl, klass, kind, data = record.split(maxsplit=4)
    return name, int(ttl), klass, kind, data


@dataclass
class Resolver:
    """``delay``: seconds before each answer."""

    address: str
    behave: Behave
    delay: float = 0.0
    asked: list[Question] = field(default_factory=list)
    udp: socket.socket = field(init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def upstream(self) -> str:
        host, port = self.udp.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def names(self, tcp: bool | None = None) -> list[str]:
        """Names that it was asked for, in lower case."""
        return [q.name.lower() for q in self.asked if tcp is None or q.tcp == tcp]

    def take(self, data: bytes, tcp: bool, client: Any) -> list[bytes]:
        question = Question(data, dns.message.from_wire(data), tcp, client, len(self.asked))
        self.asked.append(question)
        found = self.behave(question)
        return found if isinstance(found, list) else [] if found is None else [found]

    def readable(self) -> None:
        data, client = self.udp.recvfrom(65535)
        task = asyncio.get_running_loop().create_task(self.send(data, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send(self, data: bytes, client: Any) -> None:
        answers = self.take(data, False, client)
        await asyncio.sleep(self.delay)
        for answer in answers:
            if self.udp.fileno() >= 0:
                self.udp.sendto(answer, client)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        answers = self.take(await reader.readexactly(size), True, None)
        await asyncio.sleep(self.delay)
        for answer in answers:
            writer.write(struct.pack("!H", len(answer)) + answer)
        if not answers:  # it keeps the client waiting
            await reader.read()
        writer.close()


@asynccontextmanager
async def running(
    behave: Behave, *, address: str = "127.0.0.1", delay: float = 0.0, port: int = 0
) -> AsyncIterator[Resolver]:
    """A resolver on a port of a loopback address, UDP and TCP; 0: a free one."""
    resolver = Resolver(address, behave, delay)
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        resolver.udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        resolver.udp.bind((address, port))
        try:
            server = await asyncio.start_server(
                resolver.serve, address, resolver.udp.getsockname()[1]
            )
            break
        except OSError:  # somebody has that port by TCP
            resolver.udp.close()
    loop.add_reader(resolver.udp, resolver.readable)
    try:
        yield resolver
    finally:
        loop.remove_reader(resolver.udp)
        resolver.udp.close()
        server.close()


def addresses(question: Question) -> Answers:
    """A usual answer to everything."""
    return question.answer(f"{question.name} 60 IN A 192.0.2.7")


def silent(question: Question) -> Answers:
    return None


async def main(address: str, port: int) -> None:
    """A resolver as a process: A and AAAA for everything below ``example``."""

    def behave(question: Question) -> Answers:
        kind = question.message.question[0].rdtype
        if not question.name.lower().endswith(".example."):
            return question.answer(rcode=3)
        if question.name.lower().startswith("long."):
            text = " ".join(f'"{letter * 250}"' for letter in "abcdefgh")
            if not question.tcp:
                return question.answer(flags=dns.flags.TC)
            return question.answer(f"{question.name} 60 IN TXT {text}")
        records = {1: "A 192.0.2.7", 28: "AAAA 2001:db8::7"}
        return question.answer(
            *([f"{question.name} 60 IN {records[kind]}"] if kind in records else [])
        )

    async with running(behave, address=address, port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
