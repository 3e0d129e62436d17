# SPDX-License-Identifier: Apache-2.0
"""One look at a machine: whether a TCP port answers, or a request gets 2xx."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from dataclasses import dataclass, field
from functools import cache

LINE = 8192  # longest line of an answer, bytes
INTERIM = 20  # 1xx answers before the real one, at most
FIELDS = 100  # headers of each of them, at most


@dataclass(frozen=True, slots=True)
class Spec:
    """What to ask. Times in seconds. ``headers``: name and value."""

    type: str
    address: str
    port: int
    source: str
    interval: float
    timeout: float
    grace: float
    method: str = "GET"
    path: str = "/"
    protocol: str = "http"
    headers: list[list[str]] = field(default_factory=list)
    tls_skip_verify: bool = False
    tls_server_name: str = ""


OWN_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class UndecidedError(Exception):
    """This host could not look: that says nothing of the machine."""


async def probe(spec: Spec) -> str:
    """Why it fails, "" when it passes. Raises UndecidedError."""
    try:
        async with asyncio.timeout(spec.timeout):
            return await _look(spec)
    except TimeoutError:
        return f"no answer within {spec.timeout:g} s"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not valid: {error.verify_message}"
    except ssl.SSLError as error:
        return f"TLS: {error.reason or error}"
    except OSError as error:
        if error.errno in OWN_FAULTS:
            raise UndecidedError(os.strerror(error.errno)) from error
        return f"cannot connect: {os.strerror(error.errno) if error.errno else error}"
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        return "what it answers is no HTTP"


async def _look(spec: Spec) -> str:
    tls = spec.type == "http" and spec.protocol == "https"
    reader, writer = await asyncio.open_connection(
        spec.address,
        spec.port,
        limit=LINE,
        local_addr=(spec.source, 0),
        ssl=_context(not spec.tls_skip_verify) if tls else None,
        server_hostname=(spec.tls_server_name or spec.address) if tls else None,
    )
    try:
        if spec.type == "tcp":
            return ""
        writer.write(_request(spec))
        status = await _status(reader)
    except BaseException:
        writer.transport.abort()  # what it does not take would keep the connection
        raise
    finally:
        writer.transport.abort() if tls else writer.close()
    return "" if 200 <= status <= 299 else f"HTTP {status}; 2xx passes"


def _request(spec: Spec) -> bytes:
    """Redirects are not followed, and the answer's body is not read."""
    given = {name.lower() for name, _ in spec.headers}
    defaults = (
        ("Host", f"{spec.address}:{spec.port}"),
        ("User-Agent", "flyebpf-check"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    )
    headers = [(name, value) for name, value in defaults if name.lower() not in given]
    lines = [f"{spec.method} {spec.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in (*headers, *spec.headers)]
    if spec.method in ("POST", "PUT", "PATCH"):
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _status(reader: asyncio.StreamReader) -> int:
    """The final answer's (RFC 9110, section 15). Raises ValueError."""
    for _ in range(INTERIM):
        version, code = (await reader.readuntil(b"\n")).split(maxsplit=2)[:2]
        if not version.startswith(b"HTTP/1.") or len(code) != 3 or not code.isdigit():
            raise ValueError(version)
        status = int(code)
        if status >= 200 or status == 101:
            return status
        await _skip_headers(reader)
    raise ValueError("no end of interim answers")


async def _skip_headers(reader: asyncio.StreamReader) -> None:
    """Raises ValueError where there is no end of them: all machines of the host are
    looked at by one process."""
    for _ in range(FIELDS):
        if not (await reader.readuntil(b"\n")).strip():
            return
    raise ValueError("no end of headers")


@cache
def _context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
