# SPDX-License-Identifier: Apache-2.0
"""Which networks have machines on which hosts, kept record by record."""

from __future__ import annotations

from flyebpf.model.index import Index
from flyebpf.model.records import AnyRecord, App, Machine


class Seats:
    """Machines and apps may come in any order. Networks are named ``org/name``."""

    def __init__(self) -> None:
        self._networks: dict[str, str] = {}
        self._hosts = Index()  # of an app's machines
        self._machines = Index()  # of an app on a host
        self._apps = Index()  # of a network that have machines on a host

    def add(self, record: AnyRecord) -> None:
        if isinstance(record, Machine):
            self._machines.add((record.host, record.app), record.id)
            self._hosts.add(record.app, record.host)
            if record.app in self._networks:
                self._apps.add((record.host, self._networks[record.app]), record.app)
        elif isinstance(record, App):
            network = self._networks[record.name] = f"{record.org}/{record.network}"
            for host in self._hosts[record.name]:
                self._apps.add((host, network), record.name)

    def discard(self, record: AnyRecord) -> None:
        if isinstance(record, Machine):
            self._machines.discard((record.host, record.app), record.id)
            if (record.host, record.app) not in self._machines:
                self._hosts.discard(record.app, record.host)
                network = self._networks.get(record.app, "")
                self._apps.discard((record.host, network), record.app)
        elif isinstance(record, App):
            network = self._networks.pop(record.name, "")
            for host in self._hosts[record.name]:
                self._apps.discard((host, network), record.name)

    def taken(self, host: str, network: str) -> bool:
        """Whether a host has a machine of a network."""
        return (host, network) in self._apps

    def is_only(self, machine: Machine) -> bool:
        """Whether its host has no other machine of its network."""
        network = self._networks.get(machine.app, "")
        return self._apps.only((machine.host, network), machine.app) and self._machines.only(
            (machine.host, machine.app), machine.id
        )
