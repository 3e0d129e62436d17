# SPDX-License-Identifier: Apache-2.0
"""What the lab's hosts run to start and stop their machines (``[machines]``):
``python -m flyebpf.lab.driver FOLDER start|stop|suspend|status MACHINE``.

A VM of the lab runs while the command that it was made with does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flyebpf.errors import FlyebpfError, NotFoundError
from flyebpf.lab import process, state, vms
from flyebpf.lab.state import Lab, Paths, Vm, save


def start(where: Paths, lab: Lab, vm: Vm) -> None:
    """Go on where it was frozen, or begin anew."""
    if vm.process is not None and process.alive(vm.process):
        process.thaw(vm.process)
    elif vm.command:
        vms.launch(where, lab, vm)


def stop(where: Paths, lab: Lab, vm: Vm) -> None:
    if vm.process is not None and process.alive(vm.process):
        process.thaw(vm.process)  # frozen, it would not hear of it
        process.stop(vm.process)
    vm.process = None
    save(where, lab)


def suspend(where: Paths, lab: Lab, vm: Vm) -> None:
    if vm.process is not None:
        process.freeze(vm.process)


def status(where: Paths, lab: Lab, vm: Vm) -> None:
    states = {"up": "started", "paused": "suspended", "ended": "stopped"}
    print(states[process.state(vm.process)])


ACTIONS = {"start": start, "stop": stop, "suspend": suspend, "status": status}


def main(folder: str, action: str, machine: str) -> int:
    where = Paths(Path(folder))
    try:
        with state.locked(where):
            lab = state.load(where)
            ACTIONS[action](where, lab, find(lab, machine))
    except FlyebpfError as error:
        print(error.message)
        return 1
    return 0


def find(lab: Lab, machine: str) -> Vm:
    for vm in lab.vms.values():
        if vm.machine == machine:
            return vm
    raise NotFoundError(f"the lab has no VM that is machine {machine}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
