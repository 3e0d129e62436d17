# SPDX-License-Identifier: Apache-2.0
"""Machines."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Handler, Route, items, page
from flyebpf.errors import InvalidError
from flyebpf.model.health import MachineChecks
from flyebpf.model.records import App, Host, Machine, MachineState, Network
from flyebpf.ops import machines, moves, power

ONE = "/v1/machines/{machine}"
GRACE = 5.0  # seconds, over what the commands may take
LONGEST = 240.0  # seconds that an answer may take


def list_all(call: Call) -> object:
    store, app = call.store, call.query.get("app")
    lookup = views.Lookup(store) if app else views.Lookup(store, App, Network, Host, MachineChecks)
    found = machines.list_all(store, app)
    return page([views.machine(record, lookup, call.backend) for record in found])


def add(call: Call) -> object:
    body = dict(call.body)
    interface, mac = body.pop("interface"), body.pop("mac")
    record = machines.add(
        call.store,
        call.backend.config,
        call.path["app"],
        interface=interface,
        mac=mac,
        **body,
    )
    return _view(call, record)


def get(call: Call) -> object:
    return _view(call, machines.get(call.store, call.path["machine"]))


def remove(call: Call) -> object:
    return _view(call, machines.remove(call.store, call.path["machine"]))


def move(call: Call) -> object:
    store, config, machine = call.store, call.backend.config, call.path["machine"]
    return _view(call, moves.move(store, config, machine, **call.body))


def setting_state(state: MachineState) -> Handler:
    """Answers when the machine's host has done it, where it has commands for that."""

    def handler(call: Call) -> object:
        config = call.backend.config.machines
        record = power.request(call.store, call.path["machine"], state)
        if record.state is not state:
            patience = config.timeout + (0 if state is MachineState.STARTED else config.drain)
            record = power.settled(call.store, record.id, min(patience + GRACE, LONGEST))
        return _view(call, record)

    return handler


def setting_cordoned(cordoned: bool) -> Handler:
    def handler(call: Call) -> object:
        store, machine = call.store, call.path["machine"]
        return _view(call, machines.set_cordoned(store, machine, cordoned))

    return handler


def change_metadata(call: Call) -> object:
    store, machine = call.store, call.path["machine"]
    to_set, to_unset = call.body.get("set", {}), call.body.get("unset", [])
    if bool(to_set) == bool(to_unset):
        raise InvalidError("body: give either 'set' or 'unset'", "Send two requests for both.")
    if to_set:
        return _view(call, machines.set_metadata(store, machine, to_set))
    return _view(call, machines.unset_metadata(store, machine, to_unset))


def environment(call: Call) -> object:
    backend = call.backend
    values = machines.environment(call.store, backend.config, call.path["machine"])
    return {"environment": values}


def host_files(call: Call) -> object:
    store, config, machine = call.store, call.backend.config, call.path["machine"]
    return {
        "hosts": machines.hosts_file(store, config, machine),
        "resolv_conf": machines.resolv_conf(store, config, machine),
    }


def _view(call: Call, record: Machine) -> object:
    return views.machine(record, views.Lookup(call.store), call.backend)


def _action(verb: str, summary: str, handler: Handler) -> Route:
    return Route("POST", f"{ONE}/{verb}", f"machines_{verb}", summary, handler, ref("Machine"))


ROUTES = (
    Route(
        "GET",
        "/v1/machines",
        "machines_list",
        "All machines.",
        list_all,
        items("Machine"),
        query={"app": string("Only this app's.")},
    ),
    Route(
        "POST",
        "/v1/apps/{app}/machines",
        "machines_add",
        "Register a VM of this host, behind an interface.",
        add,
        ref("Machine"),
        body=ref("MachineAdd"),
        status=201,
    ),
    Route("GET", ONE, "machines_get", "One machine.", get, ref("Machine")),
    Route(
        "DELETE",
        ONE,
        "machines_remove",
        "Forget a machine; answers what it was.",
        remove,
        ref("Machine"),
    ),
    _action("start", "Start it, or say that it runs.", setting_state(MachineState.STARTED)),
    _action("stop", "Stop it, or say that it is stopped.", setting_state(MachineState.STOPPED)),
    _action(
        "suspend", "Suspend it, or say that it is suspended.", setting_state(MachineState.SUSPENDED)
    ),
    _action("cordon", "Give it no new flows.", setting_cordoned(True)),
    _action("uncordon", "Give it new flows again.", setting_cordoned(False)),
    Route(
        "POST",
        f"{ONE}/move",
        "machines_move",
        "Say that it is behind another interface, here or on another host.",
        move,
        ref("Machine"),
        body=ref("MachineMove"),
    ),
    Route(
        "PATCH",
        f"{ONE}/metadata",
        "machines_metadata",
        "Set or unset metadata.",
        change_metadata,
        ref("Machine"),
        body=ref("MetadataChange"),
    ),
    Route(
        "GET",
        f"{ONE}/environment",
        "machines_environment",
        "The environment variables that the machine gets.",
        environment,
        ref("Environment"),
    ),
    Route(
        "GET",
        f"{ONE}/hosts",
        "machines_hosts",
        "The machine's /etc/hosts and /etc/resolv.conf.",
        host_files,
        ref("HostFiles"),
    ),
)
