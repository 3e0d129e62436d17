# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's first words, and the relay that answers them, with a listener of the
test's in Envoy's place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.proxy import relay
from flyebpf.proxy.chains import Listener, cancel_listener, pg_listeners, pipe
from flyebpf.proxy.postgres import Opening, Step, proxy_header, refusal

SSL, GSS = struct.pack("!II", 8, 80877103), struct.pack("!II", 8, 80877104)
CANCEL = struct.pack("!IIII", 16, 80877102, 77, 99)
STARTUP = struct.pack("!II", 17, 3 << 16) + b"user\0me\0\0"
HELLO = b"\x16\x03\x01\x00\x05hello"
LISTENER: Listener = next(pg_listeners())


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ([SSL, HELLO], [Step.ASK, Step.TLS]),
        ([HELLO], [Step.TLS]),
        ([GSS, SSL, HELLO], [Step.DECLINE, Step.ASK, Step.TLS]),
        ([SSL[:3], SSL[3:], HELLO[:1]], [Step.WAIT, Step.ASK, Step.TLS]),
        ([STARTUP], [Step.PLAIN]),
        ([GSS, STARTUP], [Step.DECLINE, Step.PLAIN]),
        ([CANCEL], [Step.CANCEL]),
        ([CANCEL[:9], CANCEL[9:]], [Step.WAIT, Step.CANCEL]),
        ([SSL + HELLO], [Step.NONSENSE]),  # CVE-2021-23222
        ([SSL, SSL], [Step.ASK, Step.NONSENSE]),
        ([SSL, STARTUP], [Step.ASK, Step.NONSENSE]),
        ([GSS, GSS], [Step.DECLINE, Step.NONSENSE]),
        ([CANCEL + b"x"], [Step.NONSENSE]),
        ([b"GET / HTTP/1.1\r\n\r\n"], [Step.NONSENSE]),
        ([struct.pack("!II", 1 << 30, 3 << 16)], [Step.NONSENSE]),
        ([struct.pack("!II", 9, 80877103)], [Step.NONSENSE]),
    ],
)
def test_first_words(words: list[bytes], steps: list[Step]) -> None:
    opening = Opening()
    assert [opening.take(word) for word in words] == steps


@given(st.binary(max_size=64), st.integers(0, 64))
def test_any_bytes_are_something_however_they_arrive(data: bytes, cut: int) -> None:
    whole, parts = Opening().take(data), Opening()
    if not data[:cut]:
        return
    first = parts.take(data[:cut])
    if first is Step.WAIT and data[cut:]:
        assert parts.take(data[cut:]) is whole


def test_what_plain_clients_are_told() -> None:
    told = refusal()
    assert told[:1] == b"E"
    assert struct.unpack("!I", told[1:5])[0] == len(told) - 1
    assert b"SFATAL\0" in told
    assert b"C28000\0" in told
    assert told.endswith(b"\0\0")


def test_the_header_of_both_families() -> None:
    assert proxy_header(("1.2.3.4", 5), ("6.7.8.9", 10)) == b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"
    assert proxy_header(("::1", 5), ("::2", 10)) == b"PROXY TCP6 ::1 ::2 5 10\r\n"


class Lines:
    """A relay between clients and what stands for Envoy."""

    def __init__(self, folder: Path) -> None:
        self.relay = relay.Relay(folder)
        self.behind: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )
        self.folder = folder
        self.port = 0
        self.opened: list[asyncio.StreamWriter] = []

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(writer)
        await self.behind.put((reader, writer))

    async def close(self) -> None:
        for writer in self.opened:
            writer.close()
        for writer in self.opened:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        async with asyncio.timeout(10):
            while self.relay.clients:
                await asyncio.sleep(0.001)


def run(folder: Path, test: Callable[[Lines], Awaitable[None]]) -> None:
    async def inside() -> None:
        lines = Lines(folder)
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = [
            await asyncio.start_unix_server(lines.take, str(pipe(folder, of)))
            for of in (LISTENER, cancel_listener(LISTENER))
        ]
        made = socket.create_server(("127.0.0.1", 0))
        lines.port = made.getsockname()[1]
        factory = partial(relay.Client, lines.relay, LISTENER)
        servers.append(await loop.create_server(factory, sock=made))
        try:
            await asyncio.wait_for(test(lines), 30)
        finally:
            await lines.close()
            for server in servers:
                server.close()

    asyncio.run(inside())


def test_a_client_is_handed_over_with_its_address(tmp_path: Path) -> None:
    async def test(lines: Lines) -> None:
        reader, writer = await lines.client()
        for asked, answer in ((GSS, b"N"), (SSL, b"S")):
            writer.write(asked)
            assert await reader.readexactly(1) == answer
        writer.write(HELLO)
        behind, back = await lines.behind.get()
        port = writer.get_extra_info("sockname")[1]
        said = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {lines.port}\r\n".encode()
        assert await behind.readline() == said
        assert await behind.readexactly(len(HELLO)) == HELLO
        writer.write_eof()
        assert await behind.read() == b""
        back.write(b"x" * 5_000_000)  # far more than the relay keeps
        back.write_eof()
        assert len(await reader.read()) == 5_000_000

    run(tmp_path, test)


def test_a_cancel_request_goes_on_without_tls(tmp_path: Path) -> None:
    async def test(lines: Lines) -> None:
        _, writer = await lines.client()
        writer.write(CANCEL)
        behind, _ = await lines.behind.get()
        assert (await behind.readline()).startswith(b"PROXY TCP4 ")
        assert await behind.readexactly(16) == CANCEL
        writer.close()
        assert await behind.read() == b""

    run(tmp_path, test)


def test_who_wants_no_tls_is_told(tmp_path: Path) -> None:
    async def test(lines: Lines) -> None:
        reader, writer = await lines.client()
        writer.write(STARTUP)
        assert await reader.read() == refusal()
        writer.close()

    run(tmp_path, test)


def test_clients_that_say_nothing_do_not_keep_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that has been silent for longest goes."""
    monkeypatch.setattr(relay, "MOST_OPENING", 3)

    async def test(lines: Lines) -> None:
        silent = []
        for number in range(5):
            silent.append(await lines.client())
            while len(lines.relay.opening) < min(number + 1, 3):
                await asyncio.sleep(0)
        for reader, _ in silent[:2]:
            assert await reader.read() == b""
        reader, writer = silent[-1]
        writer.write(SSL)
        assert await reader.readexactly(1) == b"S"
        for _, one in silent:
            one.close()

    run(tmp_path, test)


def test_a_silent_client_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "OPENING", 0.05)

    async def test(lines: Lines) -> None:
        reader, writer = await lines.client()
        writer.write(SSL[:5])
        assert await reader.read() == b""
        writer.close()

    run(tmp_path, test)


def test_without_envoy_a_client_is_let_go(tmp_path: Path) -> None:
    async def test(lines: Lines) -> None:
        pipe(lines.folder, LISTENER).unlink()
        reader, writer = await lines.client()
        writer.write(HELLO)
        assert await reader.read() == b""
        writer.close()

    run(tmp_path, test)
