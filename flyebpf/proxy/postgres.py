# SPDX-License-Identifier: Apache-2.0
"""How a PostgreSQL connection begins: what a client says before TLS, and what it is
answered (https://www.postgresql.org/docs/17/protocol-message-formats.html). No I/O.

All numbers are in network order. A packet begins with its length, itself included.
"""

from __future__ import annotations

import struct
from enum import Enum

HEAD = struct.Struct("!II")  # length, code
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
VERSION_3 = 3  # major version of a startup message, the upper half of its code
TLS_HANDSHAKE = 0x16  # first byte of a ClientHello (RFC 8446, section 5.1)
LONGEST = 10_000  # bytes of a startup message that the server takes
CANCEL_LONGEST = 8 + 4 + 256
"""Bytes of a CancelRequest: process id and a key of up to 256 bytes (version 3.2)."""
WILLING, UNWILLING = b"S", b"N"


class Step(Enum):
    """What is to be done with a client that has just begun."""

    WAIT = "wait"  # for more
    ASK = "ask"  # answer WILLING, and look at what comes then
    DECLINE = "decline"  # answer UNWILLING, and look at what comes then
    TLS = "tls"  # what it has said is TLS
    CANCEL = "cancel"  # what it has said is a CancelRequest
    PLAIN = "plain"  # it goes on without TLS
    NONSENSE = "nonsense"


class Opening:
    """One client's first words. ``data``: what has come and not been answered."""

    def __init__(self) -> None:
        self.data = b""
        self._asked: set[int] = set()

    def take(self, data: bytes) -> Step:
        """Of ASK and DECLINE, ``data`` is empty afterwards."""
        self.data += data
        if self.data[:1] == bytes((TLS_HANDSHAKE,)):
            return Step.TLS
        if SSL_REQUEST in self._asked and self.data:
            return Step.NONSENSE  # it has been promised TLS, and says something else
        if len(self.data) < HEAD.size:
            return Step.WAIT
        length, code = HEAD.unpack_from(self.data)
        if code in (SSL_REQUEST, GSS_REQUEST):
            return self._negotiate(length, code)
        if code == CANCEL_REQUEST:
            return self._cancel(length)
        return Step.PLAIN if code >> 16 == VERSION_3 and length <= LONGEST else Step.NONSENSE

    def _negotiate(self, length: int, code: int) -> Step:
        """Bytes that come before our answer are nobody's, as they would be taken for
        part of what is encrypted (CVE-2021-23222)."""
        if length != HEAD.size or len(self.data) != length or code in self._asked:
            return Step.NONSENSE
        self._asked.add(code)
        self.data = b""
        return Step.ASK if code == SSL_REQUEST else Step.DECLINE

    def _cancel(self, length: int) -> Step:
        if not HEAD.size + 4 < length <= CANCEL_LONGEST or len(self.data) > length:
            return Step.NONSENSE
        return Step.CANCEL if len(self.data) == length else Step.WAIT


def refusal() -> bytes:
    """An ErrorResponse to a client that wants no TLS."""
    fields = {
        "S": "FATAL",
        "V": "FATAL",
        "C": "28000",  # invalid_authorization_specification, as for pg_hba.conf's hostssl
        "M": "this address takes only encrypted connections",
        "H": "Connect with sslmode=require, or verify-full.",
    }
    body = b"".join(f"{kind}{text}\0".encode() for kind, text in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


def proxy_header(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """PROXY protocol, version 1. Of both: address and port; of one family."""
    family = "TCP6" if ":" in source[0] else "TCP4"
    words = ("PROXY", family, source[0], destination[0], str(source[1]), str(destination[1]))
    return (" ".join(words) + "\r\n").encode()
