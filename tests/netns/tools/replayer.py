# SPDX-License-Identifier: Apache-2.0
"""An HTTP server in a VM that answers as a request's headers tell it to: ``replayer.py
PORT NAME``. Without any, with what it was asked.

``x-NAME-headers``: lines ``name: value`` of its answer with ``|`` between them;
``x-NAME-status`` and ``x-NAME-body``: its status and body; ``x-NAME-early``: before it
has read the request's body; ``x-NAME-wait``: seconds before it answers. A request that
was sent back to it (``fly-replay-failed``) is answered plainly, unless there is
``x-NAME-again``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def told(self, what: str) -> str | None:
        return self.headers.get(f"x-{NAME}-{what}")

    def do_GET(self) -> None:
        early = self.told("early")
        data = b"" if early else self.read_body()
        time.sleep(float(self.told("wait") or 0))
        seen = {
            "name": NAME,
            "path": self.path,
            "method": self.command,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "names": sorted(name.lower() for name in self.headers),
            "body": [len(data), hashlib.sha256(data).hexdigest()],
        }
        extra, body = self.told("headers"), self.told("body")
        if "fly-replay-failed" in self.headers and not self.told("again"):
            extra = body = None
        answer = (json.dumps(seen) if body is None else body).encode()
        self.send_response(int(self.told("status") or 200))
        for line in extra.split("|") if extra else ():
            name, _, value = line.partition(":")
            self.send_header(name.strip(), value.strip())
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        if early:
            self.wfile.flush()
            self.read_body()

    do_POST = do_PUT = do_GET  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
