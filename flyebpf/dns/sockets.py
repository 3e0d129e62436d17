# SPDX-License-Identifier: Apache-2.0
"""The server's sockets, and the filter that gives each machine its own queue."""

from __future__ import annotations

import ctypes as ct
import os
import socket
import struct

from flyebpf.errors import UnavailableError

SHARDS = 16
"""UDP sockets at one address. The kernel's queue of one may overflow under a
flood; only the machines that share it with the sender notice."""

_RECEIVE_BUFFER = 1 << 20
"""Bytes of each: more than a thousand queries, for when the process has to wait
for the CPU."""
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; needs root
_SO_ATTACH_REUSEPORT_CBPF = 51
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF, linux/filter.h
_SOURCE = 8  # offset of the source in an IPv6 header


def udp_sockets(address: str, port: int, shards: int = SHARDS) -> list[socket.socket]:
    """Sockets bound to one address that share what comes by who sent it.

    ``address`` need not be on an interface yet; ``::`` takes all. Port 0: any,
    for tests. Raises UnavailableError.
    """
    made: list[socket.socket] = []
    try:
        for _ in range(shards):
            sock = _socket(socket.SOCK_DGRAM)
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            force = _SO_RCVBUFFORCE if os.geteuid() == 0 else socket.SO_RCVBUF
            sock.setsockopt(socket.SOL_SOCKET, force, _RECEIVE_BUFFER)
            sock.bind((address, port))
            port = sock.getsockname()[1]
        _share_by_source(made[0], shards)
    except OSError as error:
        for sock in made:
            sock.close()
        raise _cannot_listen(address, port, "UDP", error) from error
    return made


def tcp_socket(address: str, port: int) -> socket.socket:
    """A listening socket, under the same conditions."""
    sock = _socket(socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(512)
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, port, "TCP", error) from error
    return sock


def _cannot_listen(address: str, port: int, what: str, error: OSError) -> UnavailableError:
    reason = os.strerror(error.errno or 0)
    return UnavailableError(
        f"DNS cannot listen on [{address}]:{port} ({what}): {reason}",
        f"see who does: ss -lnp 'sport = :{port}'",
    )


def _socket(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    return sock


_IP_FREEBIND = 15  # linux/in.h; for IPv6 sockets too


def _share_by_source(sock: socket.socket, shards: int) -> None:
    """Choose the socket by the sender's network and machine, not by its port or
    the rest of the address, which are the sender's to choose."""
    network, machine = (_NETWORK_HEADER + _SOURCE + at for at in (2, 10))
    code = [
        (0x20, network),  # A = network (BPF_LD | BPF_W | BPF_ABS)
        (0x24, 0x9E3779B1),  # A *= a large odd number
        (0x07, 0),  # X = A
        (0x20, machine),  # A = machine
        (0x0C, 0),  # A += X
        (0x94, shards),  # A %= shards
        (0x16, 0),  # return A
    ]
    filters = ct.create_string_buffer(
        b"".join(struct.pack("=HBBI", operation, 0, 0, value) for operation, value in code)
    )
    program = struct.pack("@HP", len(code), ct.addressof(filters))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
