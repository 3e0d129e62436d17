# SPDX-License-Identifier: Apache-2.0
"""What the lab is made of, kept in one JSON file that is replaced atomically.

Beside the nodes it holds a ledger of what was created. An entry is written
before its object is made, so that ``lab down`` finds everything of a lab whose
making was interrupted at any point, and nothing that is not the lab's.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyebpf.errors import ConflictError, InvalidError, NotFoundError, UnavailableError

STATE_FILE = "lab.json"
STATE_VERSION = 2
DEFAULT_NAME = "fly"


@dataclass(slots=True)
class Process:
    """A process that the lab started: leader of its own session.

    ``started`` (clock ticks after boot, from /proc/PID/stat) tells it from a
    later process with the same pid.
    """

    pid: int
    started: int


@dataclass(slots=True)
class Client:
    name: str
    namespace: str
    address: str


@dataclass(slots=True)
class Host:
    """``number`` counts from 1 and decides the host's addresses."""

    name: str
    number: int
    namespace: str
    address: str
    region: str
    pool: str
    socket: str
    daemon: Process | None = None
    fabric: str = ""  # its address among hosts; "" in a lab without a cluster


@dataclass(slots=True)
class Member:
    """A member of the etcd cluster."""

    name: str
    number: int
    namespace: str
    address: str
    process: Process | None = None


@dataclass(slots=True)
class Vm:
    """``interface`` is the host's side of its link; the VM's own is ``eth0``."""

    name: str
    host: str
    app: str
    namespace: str
    interface: str
    mac: str
    machine: str = ""
    private_ip: str = ""
    services_ip: str = ""
    sixpn: str = ""
    mtu: int = 0  # what its eth0 is to have; 0: as it is
    environment: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    command: list[str] = field(default_factory=list)  # what runs in it when it is started


@dataclass(slots=True)
class Ledger:
    """What exists because of the lab."""

    namespaces: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)  # outside the lab's own


@dataclass(slots=True)
class Lab:
    """``store``: "sqlite" (a cluster of its own for each host) or "etcd" (one for
    all). ``underlay``: "none", "wireguard" or "plain". ``proxy``: "none" or "envoy"."""

    name: str
    router: str = ""
    complete: bool = False
    store: str = "sqlite"
    underlay: str = "none"
    proxy: str = "none"
    clients: dict[str, Client] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    vms: dict[str, Vm] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def namespaces(self) -> dict[str, str]:
        """Every node's network namespace, by the node's name."""
        nodes: list[Client | Member | Host | Vm] = []
        nodes += self.clients.values()
        nodes += self.members.values()
        nodes += self.hosts.values()
        nodes += self.vms.values()
        return {"router": self.router, **{node.name: node.namespace for node in nodes}}


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the lab's files are."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / STATE_FILE

    def host(self, name: str) -> Path:
        return self.root / name

    def member(self, name: str) -> Path:
        return self.root / name

    def vm(self, name: str) -> Path:
        return self.root / "vms" / name


def paths(name: str | None = None) -> Paths:
    """From FLYEBPF_LAB_DIR, else /run/flyebpf-lab (with the name if not default)."""
    chosen = os.environ.get("FLYEBPF_LAB_DIR")
    if chosen:
        return Paths(Path(chosen).absolute())
    lab = name or lab_name()
    return Paths(Path("/run/flyebpf-lab" if lab == DEFAULT_NAME else f"/run/flyebpf-lab-{lab}"))


def lab_name() -> str:
    """From FLYEBPF_LAB_NAME; the first part of every namespace's name."""
    name = os.environ.get("FLYEBPF_LAB_NAME") or DEFAULT_NAME
    if not (name.isascii() and name.isalnum() and len(name) <= 16):
        raise InvalidError(
            f"FLYEBPF_LAB_NAME={name!r} cannot be a lab's name",
            "Use up to 16 letters and digits.",
        )
    return name


def load(where: Paths) -> Lab:
    """The lab's state. NotFoundError when there is no lab."""
    try:
        text = where.state.read_text()
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no lab in {where.root}", "Bring one up: flyebpf lab up"
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"the lab's state {where.state} cannot be read: {error.strerror}", _help(error)
        ) from error
    return decode(text, where.state)


def decode(text: str, origin: Path) -> Lab:
    try:
        body = json.loads(text)
        version = body.pop("version")
        if version != STATE_VERSION:
            raise ValueError(f"its version is {version}, this program's is {STATE_VERSION}")
        return Lab(
            **{
                **body,
                "clients": {key: Client(**value) for key, value in body["clients"].items()},
                "members": {key: _member(value) for key, value in body["members"].items()},
                "hosts": {key: _host(value) for key, value in body["hosts"].items()},
                "vms": {key: _vm(value) for key, value in body["vms"].items()},
                "ledger": Ledger(**body["ledger"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnavailableError(
            f"the lab's state {origin} cannot be read: {error}",
            "Take the lab down with the version of flyebpf that brought it up.",
        ) from error


def save(where: Paths, lab: Lab) -> None:
    """Replace the state file; a reader sees the old or the new one, whole."""
    body = {"version": STATE_VERSION, **dataclasses.asdict(lab)}
    draft = where.root / f".{STATE_FILE}.{os.getpid()}"
    draft.write_text(json.dumps(body, indent=1) + "\n")
    draft.replace(where.state)


@contextmanager
def locked(where: Paths) -> Iterator[None]:
    """One command at a time changes the lab; the others wait."""
    try:
        descriptor = os.open(where.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no lab in {where.root}", "Bring one up: flyebpf lab up"
        ) from None
    except PermissionError as error:
        raise UnavailableError(f"{where.root}: {error.strerror}", "Run it with sudo.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create_directory(where: Paths) -> None:
    """Make the lab's folder; ConflictError when there is one already."""
    try:
        where.root.mkdir(mode=0o755, parents=True)
    except FileExistsError:
        raise ConflictError(
            f"{where.root} exists already and is not a lab's folder: it has no {STATE_FILE}",
            "Set FLYEBPF_LAB_DIR to a folder that does not exist. `flyebpf lab down` says what "
            "to do when it was a lab's.",
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"{where.root} cannot be made: {error.strerror}", _help(error)
        ) from error


def _help(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "Run it with sudo."
    return "Set FLYEBPF_LAB_DIR to a folder that can be made."


def _host(body: dict[str, Any]) -> Host:
    return Host(**{**body, "daemon": _process(body["daemon"])})


def _member(body: dict[str, Any]) -> Member:
    return Member(**{**body, "process": _process(body["process"])})


def _vm(body: dict[str, Any]) -> Vm:
    return Vm(**{**body, "process": _process(body["process"])})


def _process(body: dict[str, int] | None) -> Process | None:
    return Process(**body) if body else None
