# SPDX-License-Identifier: Apache-2.0
"""A UDP server that answers with what it saw.

    python -m flyebpf.lab.udp_echo [--bind fly-global-services] [--port 5000] [--name NAME]

``--bind ::`` serves IPv6. The answer is one line of text: ``NAME saw ADDRESS:PORT say TEXT``.
"""

from __future__ import annotations

import argparse
import os
import socket


def answer(name: str, client: tuple[str, int, *tuple[int, ...]], payload: bytes) -> bytes:
    return f"{name} saw {client[0]}:{client[1]} say ".encode() + payload


def serve(bind: str, port: int, name: str) -> None:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        # 1,000 clients may write at the same moment.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind((bind, port))
        print(f"{name}: UDP on {server.getsockname()}", flush=True)
        while True:
            payload, client = server.recvfrom(65_535)
            server.sendto(answer(name, client, payload), client)


def main() -> None:
    parser = argparse.ArgumentParser(description="A UDP server that answers with what it saw.")
    parser.add_argument("--bind", default="fly-global-services")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--name", default=os.environ.get("FLY_MACHINE_ID", "echo"))
    options = parser.parse_args()
    serve(options.bind, options.port, options.name)


if __name__ == "__main__":
    main()
