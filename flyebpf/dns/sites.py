# SPDX-License-Identifier: Apache-2.0
"""Networks and hosts: what many machines' addresses depend on."""

from __future__ import annotations

from flyebpf.model.index import Index
from flyebpf.model.records import Host, Network, Presence
from flyebpf.model.sixpn import HOST_BIT


class Sites:
    """``epoch`` is another number after every change: whatever was made from
    machines' addresses before is not valid after it."""

    def __init__(self) -> None:
        self.epoch = 0
        self._networks: dict[str, int] = {}
        self._claims = Index()  # networks by number
        self._idents: dict[int, str] = {}  # and the one that has it
        self._hosts: dict[str, Host] = {}
        self._hosts_by_number: dict[int, str] = {}
        self._present: set[str] = set()

    def put(self, record: Network | Host | Presence) -> None:
        if isinstance(record, Presence):
            if record.host in self._present:  # it was only renewed
                return
            self._present.add(record.host)
        elif isinstance(record, Network):
            if self._networks.get(record.ident) == record.number:
                return
            self.remove(Network.kind, record.ident)
            self._networks[record.ident] = record.number
            self._claims.add(record.number, record.ident)
            self._settle(record.number)
        else:
            if self._hosts.get(record.name) == record:
                return
            self.remove(Host.kind, record.name)
            self._hosts[record.name] = record
            self._hosts_by_number[record.number] = record.name
        self.epoch += 1

    def remove(self, kind: str, id: str) -> None:
        if kind == Presence.kind:
            self._present.discard(id)
        elif kind == Network.kind:
            number = self._networks.pop(id, None)
            if number is not None:
                self._claims.discard(number, id)
                self._settle(number)
        elif (host := self._hosts.pop(id, None)) is not None:
            self._hosts_by_number.pop(host.number, None)
        self.epoch += 1

    def _settle(self, number: int) -> None:
        """Of networks that claim one number the first by name has it, as in the
        plan: the others' machines are not in it."""
        claims = self._claims[number]
        if claims and 0 < number < HOST_BIT:
            self._idents[number] = claims[0]
        else:
            self._idents.pop(number, None)

    def networks(self) -> int:
        return len(self._networks)

    def number(self, network: str | None) -> int | None:
        """The number of a network by its id; None where another one has it."""
        number = self._networks.get(network or "", 0)
        return number if self._idents.get(number) == network else None

    def network_ident(self, number: int) -> str | None:
        """The id of the network of a number."""
        return self._idents.get(number)

    def host(self, name: str) -> Host | None:
        return self._hosts.get(name)

    def region_of(self, number: int) -> str:
        """The region of a host's number; empty for an unknown one."""
        host = self._hosts.get(self._hosts_by_number.get(number, ""))
        return host.region if host else ""

    def answers(self, host: Host) -> bool:
        """Whether machines of a host are given in answers. When nobody is
        present it is the store that is in trouble, not every host."""
        return not host.drained and (not self._present or host.name in self._present)
