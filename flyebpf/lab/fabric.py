# SPDX-License-Identifier: Apache-2.0
"""The network that only hosts and members of etcd are on: a bridge that the
router's namespace holds. The router itself has no address there, so nothing is
forwarded between it and the outside."""

from __future__ import annotations

from flyebpf.lab import addressing, net

BRIDGE = "fabric"
INTERFACE = "fabric"  # its end in a host


def create(router: str) -> None:
    # A port forwards at once: no spanning tree, and nobody learns of groups.
    net.batch(
        router,
        f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {BRIDGE} addrgenmode none",
        f"link set {BRIDGE} up",
    )


def port(node: str) -> str:
    """The bridge's port that leads to a node."""
    return f"{node}-{INTERFACE}"


def connect(router: str, namespace: str, node: str, address: str) -> None:
    """Put a node on it, as ``fabric`` with this address."""
    net.add_veth(router, port(node), namespace, INTERFACE)
    net.batch(
        router,
        f"link set {port(node)} master {BRIDGE} addrgenmode none",
        f"link set {port(node)} up",
    )
    net.batch(
        namespace,
        f"address add {address}/{addressing.FABRIC.prefixlen} dev {INTERFACE}",
        f"link set {INTERFACE} up",
    )
