# SPDX-License-Identifier: Apache-2.0
"""VMs: namespaces that look from both sides as a VM's network would.

The host sees an interface whose other end it does not control. The VM sees
``eth0`` with its two addresses, a gateway, ``/etc/hosts``, ``/etc/resolv.conf``
and its environment (contract, section 1).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from typing import Any

from flyebpf.api.client import path
from flyebpf.errors import (
    ConflictError,
    FlyebpfError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from flyebpf.lab import addressing, hosts, net, process, topology
from flyebpf.lab.state import Host, Lab, Paths, Vm, save

GUARD_PATIENCE = 10.0  # seconds for the daemon to guard a new interface
INTERFACE_PREFIX = "vm-"
SIXPN_PREFIX = 112  # what a machine has of its network, in bits
MAX_NAME = 15 - len(INTERFACE_PREFIX)  # of an interface (IFNAMSIZ)


def add(
    where: Paths,
    lab: Lab,
    *,
    host: str,
    app: str,
    name: str | None = None,
    region: str | None = None,
    group: str | None = None,
    command: Sequence[str] = (),
) -> Vm:
    """A new VM of ``app``, registered with its host, running ``command``.

    When a step fails, what the earlier ones did is undone.
    """
    node = hosts.find(lab, host)
    if not process.alive(node.daemon):
        raise UnavailableError(
            f"the daemon of {host} is not running", f"Start it: flyebpf lab daemon start {host}"
        )
    chosen = choose_name(lab, app, name)
    vm = Vm(
        name=chosen,
        host=host,
        app=app,
        namespace=f"{lab.name}-{chosen}",
        interface=INTERFACE_PREFIX + chosen,
        mac=new_mac(),
    )
    net.check_free(vm.namespace)
    check_unused(vm)
    lab.vms[vm.name] = vm
    lab.ledger.namespaces.append(vm.namespace)
    lab.ledger.directories.append(str(net.NETNS_CONFIG / vm.namespace))
    save(where, lab)
    try:
        build(where, lab, vm, node, {"region": region, "group": group})
        if command:
            start(where, lab, vm, command)
    except BaseException:
        with contextlib.suppress(FlyebpfError):
            remove(where, lab, vm.name, forced=True)
        raise
    return vm


def check_unused(vm: Vm) -> None:
    directory = net.NETNS_CONFIG / vm.namespace
    if directory.exists():
        raise ConflictError(
            f"{directory} exists already, and this lab did not make it",
            "Delete it, or give the VM another --name.",
        )


def choose_name(lab: Lab, app: str, name: str | None) -> str:
    taken = lab.namespaces()
    if name is None:
        stem = app[: MAX_NAME - 3].rstrip("-")
        return next(
            candidate for number in range(1, 1000) if (candidate := f"{stem}{number}") not in taken
        )
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{MAX_NAME - 1}}}", name):
        raise InvalidError(
            f"{name!r} cannot be a VM's name",
            f"Use up to {MAX_NAME} lower-case letters, digits and dashes, first a letter: "
            f"the host's interface is called {INTERFACE_PREFIX}NAME.",
        )
    if name in taken:
        raise ConflictError(f"the lab has a node {name!r} already", "Give another --name.")
    return name


def new_mac() -> str:
    """Random, unicast, locally administered."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))


def build(where: Paths, lab: Lab, vm: Vm, host: Host, options: dict[str, str | None]) -> None:
    where.vm(vm.name).mkdir(mode=0o755, parents=True, exist_ok=True)
    net.add_namespace(vm.namespace)
    plug(vm, host)
    given = {key: value for key, value in options.items() if value is not None}
    body = {"interface": vm.interface, "mac": vm.mac, "name": vm.name, **given}
    adopt(where, lab, vm, hosts.api(host).post(path("apps", vm.app, "machines"), body))
    write_files(vm, host)
    save(where, lab)
    configure(vm)
    wait_guarded(vm, host)


def plug(vm: Vm, host: Host) -> None:
    """The link between host and VM, down.

    GRO gives eth0 the receive path that XDP redirects need; the daemon looks
    for that when it learns of the machine.
    """
    net.add_veth(host.namespace, vm.interface, vm.namespace, "eth0", vm.mac)
    net.offload(vm.namespace, "eth0", gro=True)


def adopt(where: Paths, lab: Lab, vm: Vm, machine: dict[str, Any]) -> None:
    """What the daemon says about the machine."""
    vm.machine = machine["id"]
    vm.private_ip = machine["private_ip"]
    vm.services_ip = machine["services_ip"]
    vm.mtu = machine["mtu"]
    save(where, lab)


def move(where: Paths, lab: Lab, name: str, target: str) -> Vm:
    """Take a VM to another host, as a live migration would: what runs in it goes
    on, with the addresses that it gets there."""
    vm, host = find(lab, name), hosts.find(lab, target)
    if vm.host == target:
        raise ConflictError(f"{name} is on {target} already", "Name another host.")
    net.delete_link(lab.hosts[vm.host].namespace, vm.interface)
    plug(vm, host)
    body = {"host": target, "interface": vm.interface}
    vm.host = target
    adopt(where, lab, vm, hosts.api(host).post(path("machines", vm.machine, "move"), body))
    write_files(vm, host)
    save(where, lab)
    configure(vm)
    wait_guarded(vm, host)
    return vm


def configure(vm: Vm) -> None:
    """The VM's own side, as its image would set it up.

    No IPv6 address is made up: the VM has the one that it is given, which
    nobody else can have, so it need not look for another owner first.
    """
    net.batch(
        vm.namespace,
        "link set eth0 addrgenmode none",
        *([f"link set eth0 mtu {vm.mtu}"] if vm.mtu else []),
        f"address add {vm.private_ip}/32 dev eth0",
        f"address add {vm.services_ip}/32 dev eth0",
        f"address add {vm.sixpn}/{SIXPN_PREFIX} dev eth0 nodad",
        "link set eth0 up",
        f"route add {addressing.GATEWAY} dev eth0 scope link src {vm.private_ip}",
        f"route add default via {addressing.GATEWAY} dev eth0 src {vm.private_ip}",
        f"route add default via {addressing.GATEWAY6} dev eth0 src {vm.sixpn}",
    )


def write_files(vm: Vm, host: Host) -> None:
    """What `ip netns exec` mounts over the machine's own files."""
    api = hosts.api(host)
    files = api.get(path("machines", vm.machine, "hosts"))
    vm.environment = api.get(path("machines", vm.machine, "environment"))["environment"]
    vm.sixpn = vm.environment["FLY_PRIVATE_IP"]
    directory = net.NETNS_CONFIG / vm.namespace
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    (directory / "hosts").write_text(files["hosts"])
    (directory / "resolv.conf").write_text(files["resolv_conf"])


def wait_guarded(vm: Vm, host: Host) -> None:
    """The daemon puts its programs on the interface, and only then sets it up."""
    deadline = time.monotonic() + GUARD_PATIENCE
    while not net.is_up(host.namespace, vm.interface):
        if time.monotonic() > deadline:
            problems = hosts.api(host).get("/v1/status")["problems"]
            found = [f"{p['object']}: {p['message']}" for p in problems]
            raise UnavailableError(
                f"{host.name} did not set {vm.interface} up within {GUARD_PATIENCE:g} s",
                "Its status: " + ("; ".join(found) or "no problem reported"),
            )
        time.sleep(0.02)


def environment(vm: Vm) -> dict[str, str]:
    return {**os.environ, "PATH": net.tool_path(), **vm.environment}


def start(where: Paths, lab: Lab, vm: Vm, command: Sequence[str]) -> None:
    """Run ``command`` in the VM, detached; its output goes to the VM's log."""
    log = where.vm(vm.name) / "log"
    vm.command = list(command)
    launch(where, lab, vm)
    assert vm.process is not None
    # A command that does not exist ends at once; that is worth an error.
    if process.wait_gone(vm.process, 0.1):
        raise UnavailableError(
            f"{command[0]} ended at once in {vm.name}; the end of its output:\n{process.tail(log)}"
        )


def launch(where: Paths, lab: Lab, vm: Vm) -> None:
    """Run the VM's command, as a machine that boots would."""
    env = {**environment(vm), "PYTHONPATH": net.python_path(), "PYTHONUNBUFFERED": "1"}
    log = where.vm(vm.name) / "log"
    vm.process = process.start(net.exec_argv(vm.namespace, vm.command), env, log)
    save(where, lab)


def find(lab: Lab, name: str) -> Vm:
    vm = lab.vms.get(name)
    if vm is None:
        raise NotFoundError(
            f"the lab has no VM {name!r}", f"Its VMs: {', '.join(sorted(lab.vms)) or 'none'}."
        )
    return vm


def remove(where: Paths, lab: Lab, name: str, *, forced: bool = False) -> None:
    """Unregister and delete. ``forced``: also when its daemon does not answer."""
    vm = find(lab, name)
    host = lab.hosts[vm.host]
    process.stop(vm.process)
    if vm.machine:
        try:
            hosts.api(host).delete(path("machines", vm.machine))
        except FlyebpfError as error:
            if error.code != "not_found" and not forced:
                raise
    net.delete_link(host.namespace, vm.interface)
    net.delete_namespace(vm.namespace)
    directory = net.NETNS_CONFIG / vm.namespace
    topology.remove_directory(directory, lambda _line: None)
    shutil.rmtree(where.vm(vm.name), ignore_errors=True)
    del lab.vms[vm.name]
    lab.ledger.namespaces.remove(vm.namespace)
    lab.ledger.directories.remove(str(directory))
    save(where, lab)
