# SPDX-License-Identifier: Apache-2.0
"""A small world of names, and questions about it through the whole codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename

from flyebpf.dns import wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.view import View
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Host,
    Latency,
    Machine,
    MachineState,
    Network,
    WireguardPeer,
)
from flyebpf.model.sixpn import HOST_BIT, machine_address, peer_prefix
from tests import records

HOSTS = {"h1": "ams", "h2": "ams", "h3": "fra", "h4": "lhr", "h5": "nrt"}
NETWORKS = {"acme/default": 1, "acme/lab": 2, "globex/default": 3}
ALICE = Asker(1, HOST_BIT | 1, 500)
"""A machine of acme/default on h1 (ams)."""
MALLORY = Asker(3, HOST_BIT | 1, 501)
"""One of globex/default."""


def host_number(name: str) -> int:
    return HOST_BIT | int(name[1:])


def host(name: str, **values: Any) -> Host:
    return Host(name, host_number(name), HOSTS[name], "172.16.0.0/20", **values)


def machine(number: int, app: str = "web", host: str = "h1", **values: Any) -> Machine:
    """Machine ``number`` in the region of its host."""
    values = {"region": HOSTS[host], "number": number, **values}
    return records.machine(number, app=app, host=host, **values)


def at(number: int, host: str = "h1", network: int = 1) -> str:
    """The address of machine ``number``."""
    return machine_address(network, host_number(host), number)


ID = "{:014x}".format
"""The id of machine ``number``."""


def nibbles(address: str) -> str:
    """The reverse name of an address."""
    return str(dns.reversename.from_address(address)).rstrip(".")


def flycast(network: int, number: int) -> str:
    return f"fdaa:0:{network}:0:1::{number}"


def peer(name: str, number: int, network: str = "acme/default", host: str = "h1") -> WireguardPeer:
    org, _, own = network.partition("/")
    prefix = peer_prefix(NETWORKS[network], host_number(host), number)
    return WireguardPeer(org, own, name, host, f"key of {name}", prefix)


STOPPED = MachineState.STOPPED
WORLD: tuple[AnyRecord, ...] = (
    *(host(name) for name in HOSTS),
    *(Network(*name.split("/"), number) for name, number in NETWORKS.items()),
    Latency("h1", "ams", {"ams": 90, "fra": 8_000, "lhr": 5_000}),
    Latency("h2", "ams", {"ams": 80, "fra": 8_200, "lhr": 5_100}),
    App("web", "acme"),
    machine(16, metadata={"role": "primary", "version": "1.2.3"}),
    machine(17, host="h2", group="worker", metadata={"role": "replica"}),
    machine(18, host="h3", metadata={"role": "replica", "app.kubernetes": "Yes"}),
    machine(19, host="h4", state=STOPPED, group="cron"),
    App("db", "acme"),
    machine(30, app="db", host="h3", state=STOPPED),
    App("empty", "acme"),
    App("lab-app", "acme", "lab"),
    machine(40, app="lab-app", host="h1"),
    App("secret", "globex"),
    machine(50, app="secret", host="h1", metadata={"role": "primary"}),
    Address(flycast(1, 1), "web", AddressKind.PRIVATE_V6, network="default", org="acme"),
    Address(flycast(3, 1), "web", AddressKind.PRIVATE_V6, network="default", org="globex"),
    Address(flycast(3, 2), "secret", AddressKind.PRIVATE_V6, network="default", org="globex"),
    Address("203.0.113.1", "web", AddressKind.V4),
    peer("laptop", 1),
    peer("Desk.Top", 2),
    peer("interactive-1", 3),
    peer("spy", 4, network="globex/default"),
)


def view(*records: AnyRecord) -> View:
    made = View()
    for record in records or WORLD:
        made.put(record)
    return made


@dataclass
class Reply:
    """``data``: of the answer section, as text; ``message``: all of it."""

    message: dns.message.Message
    size: int

    @property
    def rcode(self) -> str:
        return dns.rcode.to_text(self.message.rcode())

    @property
    def data(self) -> list[str]:
        return [rdata.to_text() for rrset in self.message.answer for rdata in rrset]

    @property
    def truncated(self) -> bool:
        return bool(self.message.flags & dns.flags.TC)

    @property
    def soa(self) -> str:
        """Of whom the negative answer's SOA is."""
        owners = [str(r.name) for r in self.message.authority if r.rdtype == dns.rdatatype.SOA]
        return owners[0] if owners else ""

    @property
    def text(self) -> str:
        """The strings of one TXT record, joined."""
        (rrset,) = self.message.answer
        (rdata,) = rrset
        return b"".join(rdata.strings).decode()


def question(name: str, type: str = "AAAA", **values: Any) -> bytes:
    """A query as a client sends it; ``values`` as of ``dns.message.make_query``."""
    return bytes(dns.message.make_query(name, type, **values).to_wire())


def reply(message: bytes) -> Reply:
    return Reply(dns.message.from_wire(message), len(message))


def ask(
    view: View, name: str, type: str = "AAAA", asker: Asker = ALICE, *, tcp: bool = True
) -> Reply:
    """What a client with EDNS gets. Fails where the name is not ours."""
    query = wire.parse(question(name, type, use_edns=0, payload=4096))
    assert isinstance(query, wire.Query)
    found = zone.answer(view, query, asker)
    assert found is not None, f"{name} is not ours"
    return reply(wire.build(query, found, wire.room(query, tcp)))
