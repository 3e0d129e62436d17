# SPDX-License-Identifier: Apache-2.0
"""What of the mesh follows from the configuration and from the host as it is."""

from __future__ import annotations

from dataclasses import replace

from flyebpf.config import DaemonConfig
from flyebpf.drivers.netlink_mesh import WIREGUARD_OVERHEAD, MeshNetlink
from flyebpf.drivers.nft import Mesh
from flyebpf.errors import UnavailableError
from flyebpf.model.records import PEERS_PORT
from flyebpf.plan.mesh import peers_device


def with_mtu(config: DaemonConfig) -> DaemonConfig:
    """The configuration with the mesh's MTU in it: where it says none, what the
    interface with this host's endpoint leaves. Raises UnavailableError where
    there is no such interface."""
    mesh = config.mesh
    if mesh.underlay == "none" or mesh.mtu:
        return config
    netlink = MeshNetlink()
    try:
        found = netlink.underlay_mtu(mesh.endpoint)
    finally:
        netlink.close()
    if found is None:
        raise UnavailableError(
            f"no interface of this host has the address {mesh.endpoint} of mesh.endpoint",
            "Correct it; where others reach this host at an address that is translated, "
            "set mesh.mtu too.",
        )
    overhead = WIREGUARD_OVERHEAD if mesh.underlay == "wireguard" else 0
    return replace(config, mesh=replace(mesh, mtu=found - overhead))


def fence(config: DaemonConfig) -> Mesh:
    """What the nftables rules are to know of the mesh. A plain underlay may
    carry other things too, which are not our business."""
    mesh = config.mesh
    ports = (mesh.port, mesh.port + PEERS_PORT) if mesh.endpoint else (0, 0)
    users = peers_device(mesh)
    if mesh.underlay != "wireguard":
        return Mesh((users,), ports)
    return Mesh((f"{mesh.interface}0", f"{mesh.interface}1", users), ports)
