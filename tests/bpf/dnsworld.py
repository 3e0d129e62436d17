# SPDX-License-Identifier: Apache-2.0
"""Names in the map, the server that has to say the same, and queries as frames."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv6Address

from scapy.layers.inet import UDP
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import NAME_ADDRESSES
from flyebpf.dns import wire
from flyebpf.dns.wire import Answer, Type, name_of
from flyebpf.drivers.map_names import raw_key, value_of
from flyebpf.model.namehash import name_hash
from flyebpf.model.rows import NameRow
from tests import packets6 as p6
from tests.bpf.fast import SK_BUFF, Fast
from tests.bpf.rig import Rig, mac_bytes

HOST_MAC = "02:00:00:00:05:03"
CLIENT_PORT = 40_053
RD, CD = 0x0100, 0x0010

NAMES: dict[str, int] = {
    "web.internal": 3,
    "one.internal": 1,
    "eight.internal": NAME_ADDRESSES,
    "ams.web.internal": 2,
    "x.internal": 2,
    "00000000000010.vm.web.internal": 1,
    "1.2.3.version.kv._metadata.web.internal": 2,
    "web.flycast": 1,
    f"{'a' * 63}.vm.{'b' * 63}.internal": 5,
}
"""Names of the network of machines 1 to 3, and how many addresses each has."""


def addresses(name: str, network: int = p6.NETWORK) -> tuple[bytes, ...]:
    """The addresses of a name."""
    first = 0x1000 + 16 * list(NAMES).index(name)
    return tuple(
        IPv6Address(p6.sixpn(network, p6.HOST, first + i)).packed for i in range(NAMES[name])
    )


def row(name: str, network: int = p6.NETWORK, of: tuple[bytes, ...] = ()) -> NameRow:
    wired = name_of(name)
    return NameRow(network, name_hash(wired), wired, of or addresses(name, network))


def enter(rig: Rig, *rows: NameRow) -> None:
    for found in rows:
        rig.maps["names"].update(raw_key(found.key), value_of(found.addresses))


def build(rig: Rig) -> None:
    """All names, and a host port."""
    enter(rig, *(row(name) for name in NAMES))
    rig.settings.host_port = rig.ifindex["lan0"]
    rig.settings.host_mac[:] = mac_bytes(HOST_MAC)
    rig.write_settings()


KNOWN = {name_of(name): addresses(name) for name in NAMES}


def server(message: bytes) -> bytes | None:
    """What the server's codec makes of a query for one of the names; None for
    all that the program has to pass on."""
    query = wire.parse(message)
    if not isinstance(query, wire.Query) or query.version > 0 or query.klass != wire.IN:
        return None
    found = KNOWN.get(query.name)
    if found is None or query.type != Type.AAAA:
        return None
    apex = name_of(query.name.split(b".")[-1].decode("latin-1"))
    answer = Answer(wire.Rcode.NOERROR, apex, Type.AAAA, found)
    return wire.build(query, answer, wire.room(query, False))


def query(
    name: str | bytes = "web.internal",
    *,
    id: int = 0x1234,
    flags: int = RD,
    type: int = Type.AAAA,
    klass: int = 1,
    edns: bytes | None = None,
) -> bytes:
    """A query as clients send it. ``edns``: an OPT record, see :func:`opt`."""
    wired = name_of(name) if isinstance(name, str) else name
    counts = (1, 0, 0, int(edns is not None))
    head = b"".join(number.to_bytes(2, "big") for number in (id, flags, *counts))
    return head + wired + type.to_bytes(2, "big") + klass.to_bytes(2, "big") + (edns or b"")


def opt(size: int = 1232, *, do: bool = False, version: int = 0, options: bytes = b"") -> bytes:
    ttl = version << 16 | (0x8000 if do else 0)
    fixed = b"\0" + b"".join(v.to_bytes(n, "big") for v, n in ((41, 2), (size, 2), (ttl, 4)))
    return fixed + len(options).to_bytes(2, "big") + options


def option(length: int, code: int = 10) -> bytes:
    return code.to_bytes(2, "big") + length.to_bytes(2, "big") + bytes(range(length))


def asked(message: bytes, number: int = 1, **ip: object) -> Packet:
    """The query of machine ``number`` as a frame."""
    fields = {"dst": p6.NAMESERVER, "sport": CLIENT_PORT, "dport": 53, **ip}
    return p6.udp(number, message, **fields)


_FRAME = bytes(asked(b""))


def raw(message: bytes) -> bytes:
    """The same frame for machine 1, made without scapy: for many of them."""
    length = (8 + len(message)).to_bytes(2, "big")
    ports = CLIENT_PORT.to_bytes(2, "big") + (53).to_bytes(2, "big")
    return _FRAME[:18] + length + _FRAME[20:54] + ports + length + b"\1\1" + message


def fast(rig: Rig, number: int) -> Fast:
    """``dns`` on the interface of a machine."""
    context = bytearray(SK_BUFF)
    struct.pack_into("=I", context, 40, rig.ifindex[f"vm{number}"])
    return Fast(rig, "dns", bytes(context))


def answered(message: bytes, number: int = 1) -> bytes:
    """The frame that machine ``number`` gets, with this message."""
    frame = p6.from_gateway(number, src=p6.NAMESERVER) / UDP(sport=53, dport=CLIENT_PORT)
    return bytes(frame / Raw(message))


def passed(frame: Packet | bytes) -> bytes:
    """The frame as the host's stack gets it."""
    return mac_bytes(HOST_MAC) + bytes(frame)[6:]


def mutated(rng: random.Random, message: bytes) -> bytes:
    """The message with some of its bytes changed, added or taken away."""
    data = bytearray(message)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 | 1:
                special = (0, 1, 63, 64, 0xC0, 0xFF, rng.randrange(256))
                data[at : at + 1] = bytes([rng.choice(special)])
            case 2:
                del data[at : at + rng.randint(1, 8)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 4:
                data += rng.randbytes(rng.randint(1, 16))
            case _:
                del data[at:]
    return bytes(data)
