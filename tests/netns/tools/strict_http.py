# SPDX-License-Identifier: Apache-2.0
"""A server in a VM that takes HTTP/1.1 literally: ``strict_http.py PORT NAME FILE``.

Every request becomes a line of JSON in the file, ``{"line", "headers", "body"}``, as it
came. What is not framed as RFC 9112 says becomes ``{"malformed": …}``: whoever lets that
through lets a client hide one request in another. It answers with its name.
"""

from __future__ import annotations

import json
import re
import socketserver
import sys

REQUEST = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\n")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*)\r\n")
CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})(;[^\r\n]*)?\r\n")


class MalformedError(Exception):
    pass


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            while line := self.rfile.readline(65536):
                self.request_of(line)
        except MalformedError as error:
            note({"malformed": str(error)})
        except (OSError, EOFError):
            return  # who sent it has given up

    def request_of(self, line: bytes) -> None:
        if not REQUEST.fullmatch(line):
            raise MalformedError(repr(line))
        headers: list[list[str]] = []
        while (field := self.rfile.readline(65536)) != b"\r\n":
            match = HEADER.fullmatch(field)
            if match is None:
                raise MalformedError(repr(field))
            headers.append([part.decode("latin-1") for part in match.groups()])
        body = self.body(headers)
        note({"line": line.decode().strip(), "headers": headers, "body": body.decode("latin-1")})
        name = sys.argv[2].encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(name), name))

    def body(self, headers: list[list[str]]) -> bytes:
        framing = [(name.lower(), value) for name, value in headers
                   if name.lower() in ("content-length", "transfer-encoding")]  # fmt: skip
        if len(framing) > 1:
            raise MalformedError(repr(framing))
        if not framing:
            return b""
        ((name, value),) = framing
        if name == "transfer-encoding":
            if value != "chunked":
                raise MalformedError(value)
            return b"".join(iter(self.chunk, b""))
        if not value.isdecimal():
            raise MalformedError(value)
        return self.rfile.read(int(value))

    def chunk(self) -> bytes:
        line = self.rfile.readline(4096)
        match = CHUNK.fullmatch(line)
        if match is None:
            raise MalformedError(repr(line)) if line else EOFError
        data = self.rfile.read(int(match[1], 16))
        end = self.rfile.readline(4096)
        if end != b"\r\n":
            raise MalformedError("a chunk's end, or trailers") if end else EOFError
        return data


def note(what: object) -> None:
    with open(sys.argv[3], "a", encoding="ascii") as file:
        file.write(json.dumps(what) + "\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
