# SPDX-License-Identifier: Apache-2.0
"""What a machine sees of the platform: environment, hosts and resolver files
(contract, section 1)."""

from __future__ import annotations

from flyebpf.config import DaemonConfig
from flyebpf.model import names, sixpn
from flyebpf.model.records import App, Deployment, Machine, Network
from flyebpf.ops.cluster import require_host
from flyebpf.ops.transact import Tx, sound
from flyebpf.store.base import Store


def environment(store: Store, config: DaemonConfig, id: str) -> dict[str, str]:
    """The machine's environment variables. ``PRIMARY_REGION`` is empty when the
    app has not been deployed or names none."""
    tx = Tx(store)
    machine = tx.require(Machine, names.machine_id(id))
    deployment = tx.get(Deployment, machine.app)
    return {
        "FLY_APP_NAME": machine.app,
        "FLY_MACHINE_ID": machine.id,
        "FLY_REGION": machine.region,
        "FLY_PRIVATE_IP": _sixpn_address(tx, machine),
        "FLY_PROCESS_GROUP": machine.group,
        "PRIMARY_REGION": deployment.primary_region if deployment else "",
    }


def hosts_file(store: Store, config: DaemonConfig, id: str) -> str:
    """The machine's ``/etc/hosts``."""
    tx = Tx(store)
    machine = tx.require(Machine, names.machine_id(id))
    lines = (
        ("127.0.0.1", "localhost"),
        ("::1", "localhost ip6-localhost ip6-loopback"),
        (_sixpn_address(tx, machine), "fly-local-6pn"),
        (machine.services_ip, "fly-global-services"),
        (machine.private_ip, machine.id),
    )
    return "".join(f"{address}\t{hosts}\n" for address, hosts in lines)


def resolv_conf(store: Store, config: DaemonConfig, id: str) -> str:
    """The machine's ``/etc/resolv.conf``."""
    Tx(store).require(Machine, names.machine_id(id))
    return f"nameserver {sixpn.NAMESERVER}\n"


def _sixpn_address(tx: Tx, machine: Machine) -> str:
    app = tx.require(App, machine.app)
    network = tx.require(Network, f"{app.org}/{app.network}")
    host = require_host(tx, machine.host)
    with sound(f"machine {machine.id}, of its host or of its network"):
        return sixpn.machine_address(network.number, host.number, machine.number)
