# SPDX-License-Identifier: Apache-2.0
"""Bringing a lab up and taking it down: clients, the router, etcd, hosts."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from flyebpf.errors import ConflictError, FlyebpfError, NotFoundError
from flyebpf.lab import addressing, etcd, fabric, hosts, net, process, routes, state
from flyebpf.lab.state import Client, Host, Lab, Paths, save

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `lab up` shall make. The words are those of :class:`Lab`."""

    hosts: int = 1
    clients: int = 1
    store: str = "sqlite"
    underlay: str = "none"
    proxy: str = "none"


def up(where: Paths, name: str, wanted: Wanted, say: Say) -> Lab:
    """Everything but VMs. On failure what was made is removed again. The lab
    counts as one once :func:`finish` was called."""
    state.create_directory(where)
    lab = Lab(
        name=name,
        router=f"{name}-router",
        store=wanted.store,
        underlay=wanted.underlay,
        proxy=wanted.proxy,
    )
    try:
        with state.locked(where):
            save(where, lab)
            say("router")
            create_router(where, lab)
            for number in range(1, wanted.clients + 1):
                create_client(where, lab, new_client(name, number), say)
            if wanted.store == "etcd":
                create_etcd(where, lab, say)
            for number in range(1, wanted.hosts + 1):
                create_host(where, lab, new_host(where, lab, number), say)
            announce(lab)
            say(f"{', '.join(lab.hosts)}    starting {daemons(lab)}")
            hosts.start_daemons(where, lab, list(lab.hosts.values()), say)
    except BaseException as error:
        # The logs would go with the lab: they are in the error's message.
        with contextlib.suppress(OSError):  # nobody may be reading any more
            say(f"{reason(error)}; removing what was made")
        down(where, lambda _line: None)
        raise
    return lab


def daemons(lab: Lab) -> str:
    return "its daemon" if len(lab.hosts) == 1 else "their daemons"


def announce(lab: Lab) -> None:
    """Each pool is routed to the hosts that have it."""
    for pool in sorted({host.pool for host in lab.hosts.values()}):
        nodes = [host for host in lab.hosts.values() if host.pool == pool]
        routes.put(lab, IPv4Network(pool), nodes)
        routes.put(lab, hosts.pool6(lab, nodes[0]), nodes)
    if lab.proxy != "none":
        routes.put(lab, addressing.SHARED, list(lab.hosts.values()))


def finish(where: Paths, lab: Lab) -> None:
    """All that was asked for is there."""
    lab.complete = True
    save(where, lab)


def reason(error: BaseException) -> str:
    """Why something ended early, in a word."""
    return "failed" if isinstance(error, Exception) else "was interrupted"


def new_client(lab: str, number: int) -> Client:
    link = addressing.client_link(number)
    return Client(f"client{number}", f"{lab}-client{number}", str(link.node))


def new_host(where: Paths, lab: Lab, number: int) -> Host:
    """Hosts with one store have one Anycast pool; else each has its own."""
    name = f"host{number}"
    together = lab.store == "etcd"
    return Host(
        name=name,
        number=number,
        namespace=f"{lab.name}-{name}",
        address=str(addressing.host_link(number).node),
        region=addressing.region(number),
        pool=str(addressing.ANYCAST if together else addressing.anycast_pool(number)),
        socket=str(where.host(name) / "api.sock"),
        fabric=str(addressing.fabric_address(number)) if together else "",
    )


def create_router(where: Paths, lab: Lab) -> None:
    net.check_free(lab.router)
    lab.ledger.namespaces.append(lab.router)
    save(where, lab)
    net.add_namespace(lab.router)
    net.sysctl(
        lab.router,
        ipv4__ip_forward="1",
        ipv6__conf__all__forwarding="1",
        ipv4__fib_multipath_hash_policy="1",  # by ports too: flows are spread
        ipv6__fib_multipath_hash_policy="1",
    )
    if lab.store == "etcd":
        fabric.create(lab.router)


def create_etcd(where: Paths, lab: Lab, say: Say) -> None:
    """The members are all known before the first starts: each is told of all."""
    for number in range(1, addressing.ETCD_MEMBERS + 1):
        member = etcd.new_member(lab.name, number)
        say(f"{member.name}    {member.address}")
        etcd.create(where, lab, member)
    for member in lab.members.values():
        etcd.start(where, lab, member)
    etcd.wait_healthy(where, lab)


def create_client(where: Paths, lab: Lab, client: Client, say: Say) -> None:
    say(f"{client.name}  {client.address}")
    net.check_free(client.namespace)
    lab.clients[client.name] = client
    lab.ledger.namespaces.append(client.namespace)
    save(where, lab)
    number = int(client.name.removeprefix("client"))
    link, link6 = addressing.client_link(number), addressing.client_link6(number)
    net.add_namespace(client.namespace)
    net.add_veth(lab.router, client.name, client.namespace, "eth0")
    net.batch(
        lab.router,
        f"address add {link.router}/{link.prefixlen} dev {client.name}",
        f"address add {link6.router}/{link6.prefixlen} dev {client.name} nodad",
        f"link set {client.name} up",
    )
    net.batch(
        client.namespace,
        f"address add {link.node}/{link.prefixlen} dev eth0",
        f"address add {link6.node}/{link6.prefixlen} dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {link.router}",
        f"route add default via {link6.router}",
    )


def create_host(where: Paths, lab: Lab, host: Host, say: Say) -> None:
    say(f"{host.name}    {host.address}, Anycast {host.pool}, region {host.region}")
    hosts.create(where, lab, host)


def down(where: Paths, say: Say) -> bool:
    """Remove all that the ledger lists, then the folder. False: no lab."""
    if not where.root.exists():
        return False
    if not where.state.exists():
        remove_unborn(where)
        return True
    with state.locked(where):
        lab = state.load(where)
        stop_processes(lab, say)
        for namespace in lab.ledger.namespaces:
            if ended := process.end_all(net.processes(namespace)):
                say(f"ended {ended} more processes in {namespace}")
        for path in lab.ledger.mounts:
            if net.unmount(path):
                say(f"unmounted {path}")
        for namespace in lab.ledger.namespaces:
            if net.delete_namespace(namespace):
                say(f"deleted the network namespace {namespace} and its links")
        for directory in lab.ledger.directories:
            remove_directory(Path(directory), say)
        shutil.rmtree(where.root)
        say(f"deleted {where.root}")
    return True


def stop_processes(lab: Lab, say: Say) -> None:
    for vm in lab.vms.values():
        if process.stop(vm.process):
            say(f"stopped the command of {vm.name}")
    for host in lab.hosts.values():
        if process.stop(host.daemon):
            say(f"stopped the daemon of {host.name}")
    for member in lab.members.values():
        if process.stop(member.process):
            say(f"stopped {member.name}")


def remove_directory(directory: Path, say: Say) -> None:
    if not directory.exists():
        return
    shutil.rmtree(directory)
    say(f"deleted {directory}")
    if directory.parent == net.NETNS_CONFIG and not any(directory.parent.iterdir()):
        # `ip netns` needs no empty folder; the first VM may have made it.
        directory.parent.rmdir()


def remove_unborn(where: Paths) -> None:
    """A folder whose state was never written holds nothing of a lab."""
    drafts = list(where.root.glob(f".{state.STATE_FILE}.*"))
    if len(drafts) != len(list(where.root.iterdir())):
        raise ConflictError(
            f"{where.root} is not a lab's folder: it has no {state.STATE_FILE}",
            "Nothing was removed. Set FLYEBPF_LAB_DIR to the lab's folder. If it is the lab's and "
            f"{state.STATE_FILE} was lost: end the lab's daemons (pgrep -af {where.root}), delete "
            "its namespaces (ip netns list, ip netns delete NAME), unmount "
            f"{where.root}/*/bpffs and delete {where.root}.",
        )
    shutil.rmtree(where.root)


def existing(where: Paths) -> Lab | None:
    """The lab that is up, or None."""
    try:
        return state.load(where)
    except NotFoundError:
        return None


def check_complete(lab: Lab) -> None:
    if not lab.complete:
        raise FlyebpfError(
            "the lab is there in parts only: bringing it up was interrupted",
            "Take it down and bring it up again: flyebpf lab down, flyebpf lab up",
        )


def check_whole(lab: Lab) -> None:
    """Raises where a node's namespace is gone: somebody else deleted it."""
    gone = [name for name, namespace in lab.namespaces().items() if not net.exists(namespace)]
    if gone:
        raise FlyebpfError(
            f"parts of the lab are gone: the network namespaces of {', '.join(gone)}",
            "Take it down and bring it up again: flyebpf lab down, flyebpf lab up",
        )
