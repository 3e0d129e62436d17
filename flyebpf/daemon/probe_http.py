# SPDX-License-Identifier: Apache-2.0
"""One HTTP request as a client makes it who checks certificates."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flyebpf.api.probes import Fetched, Reply, Trust

PATIENCE = 4.0  # seconds for each step
AT_ONCE = 0.3  # seconds within which a proxy that reaches nobody ends a connection
TEXT = 400  # bytes of an error's answer
AGENT = "flyebpf-doctor"
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # PostgreSQL's protocol, SSLRequest
EXPIRED, NOT_YET, WRONG_NAME = 10, 9, 62  # X509_V_ERR_* (openssl/x509_vfy.h)


def fetch(address: str, port: int, host: str, *, tls: bool) -> Fetched:
    """``HEAD /`` of ``host``; of an error's answer what it says."""
    found = _ask("HEAD", address, port, host, tls=tls)
    if found.status >= 500:
        again = _ask("GET", address, port, host, tls=tls)
        return again if again.status else found
    return found


def handshake(address: str, port: int, host: str, *, postgres: bool = False) -> Fetched:
    """Only that, and whether the connection stays. ``postgres``: asked for before."""
    with _shake(address, port, host, tls=True, postgres=postgres) as found:
        if found.connected is None:
            return found.failed
        reply = Reply.CLOSED if ends(found.connected) else Reply.OPEN
        return Fetched(reply, found.trust)


def ends(connected: socket.socket) -> bool:
    """Whether the other side ends it, having said nothing, at once."""
    connected.settimeout(AT_ONCE)
    try:
        return connected.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _ask(method: str, address: str, port: int, host: str, *, tls: bool) -> Fetched:
    with _shake(address, port, host, tls=tls) as found:
        if found.connected is None:
            return found.failed
        return _exchange(found.connected, method, host, found.trust)


NOTHING = Fetched(Reply.CLOSED)


@dataclass(frozen=True, slots=True)
class Shaken:
    """A connection, or why there is none."""

    connected: socket.socket | None
    trust: Trust
    failed: Fetched = NOTHING


@contextmanager
def _shake(
    address: str, port: int, host: str, *, tls: bool, postgres: bool = False
) -> Iterator[Shaken]:
    """Made as by a client that checks the certificate, and if that refuses it as by
    one that does not."""
    trust = Trust.NONE
    try:
        try:
            context = _careful() if tls else None
            connected = _connect(address, port, host, context, postgres=postgres)
            trust = Trust.TRUSTED if tls else Trust.NONE
        except ssl.SSLCertVerificationError as error:
            trust = _trust(error.verify_code)
            connected = _connect(address, port, host, _careless(), postgres=postgres)
    except OSError as error:
        yield Shaken(None, Trust.NONE, _failed(error))
        return
    with connected:
        yield Shaken(connected, trust)


def _failed(error: OSError) -> Fetched:
    if isinstance(error, ConnectionRefusedError):
        return Fetched(Reply.REFUSED, fault="the connection is refused")
    if isinstance(error, TimeoutError):
        return Fetched(Reply.SILENT, fault="nothing answers")
    if isinstance(error, ssl.SSLError):
        return Fetched(Reply.CLOSED, fault=f"the TLS handshake fails: {error.reason or error}")
    return Fetched(Reply.CLOSED, fault=f"the connection ends: {error.strerror}")


def _connect(
    address: str, port: int, host: str, context: ssl.SSLContext | None, *, postgres: bool = False
) -> socket.socket:
    plain = socket.create_connection((address, port), PATIENCE)
    if context is None:
        return plain
    try:
        if postgres:
            plain.sendall(SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise ssl.SSLError(1, "PostgreSQL's request for TLS is not taken")
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _exchange(connected: socket.socket, method: str, host: str, trust: Trust) -> Fetched:
    connection = http.client.HTTPConnection(host)
    connection.sock = connected
    try:
        connection.request(method, "/", headers={"user-agent": AGENT, "connection": "close"})
        answer = connection.getresponse()
        text = answer.read(TEXT).decode(errors="replace") if answer.status >= 400 else ""
    except TimeoutError:
        return Fetched(Reply.OPEN, trust, fault="no answer came")
    except (OSError, http.client.HTTPException) as error:
        return Fetched(Reply.CLOSED, trust, fault=f"no answer came: {error}")
    finally:
        connection.close()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Fetched(Reply.OPEN, trust, answer.status, headers, text)


def _trust(code: int) -> Trust:
    if code in (EXPIRED, NOT_YET):
        return Trust.EXPIRED
    return Trust.WRONG_NAME if code == WRONG_NAME else Trust.UNKNOWN_ISSUER


def _careful() -> ssl.SSLContext:
    return ssl.create_default_context()


def _careless() -> ssl.SSLContext:
    """Of a client that looks at no certificate: whether the rest works."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
