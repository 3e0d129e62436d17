# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the mesh and of users' WireGuard peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from flyebpf.api.backend import MeshPeer, MeshStatus, PeerStatus


def mesh(status: MeshStatus | None) -> Iterator[Metric]:
    """One series for each other host and device; none without a mesh."""
    if status is None:
        return
    generation = GaugeMetricFamily(
        "flyebpf_mesh_key_generation",
        "Generation of the WireGuard keys that hosts send with, and the next one, which is "
        "another one while keys are being rotated.",
        labels=("which",),
    )
    generation.add_metric(("current",), status.generation)
    generation.add_metric(("next",), status.next_generation)
    devices = GaugeMetricFamily(
        "flyebpf_mesh_device",
        "Devices of the mesh, by what implements them (none: not there).",
        labels=("interface", "implementation"),
    )
    refused = CounterMetricFamily(
        "flyebpf_mesh_refused_packets",
        "Packets that the kernel's WireGuard refused: their source was not their peer's. "
        "Absent with wireguard-go, which does not count them.",
        labels=("interface",),
    )
    for device in status.devices:
        devices.add_metric((device.interface, device.implementation or "none"), 1)
        if device.refused is not None:
            refused.add_metric((device.interface,), device.refused)
    yield from (generation, devices, refused, *peers(status.peers))


def peers(found: Sequence[MeshPeer]) -> Iterator[Metric]:
    labels = ("host", "interface")
    age = GaugeMetricFamily(
        "flyebpf_mesh_handshake_age_seconds",
        "Since the last WireGuard handshake with a host; above 180 it is cut off. "
        "Absent before the first one.",
        labels=labels,
    )
    size = CounterMetricFamily(
        "flyebpf_mesh_bytes",
        "Bytes of WireGuard's packets from and to a host.",
        labels=(*labels, "direction"),
    )
    rtt = GaugeMetricFamily(
        "flyebpf_mesh_rtt_seconds",
        "Round-trip time to a host over the mesh: median of the last measurements.",
        labels=labels[:1],
    )
    for host, seconds in sorted({peer.host: peer.rtt for peer in found}.items()):
        if seconds is not None:
            rtt.add_metric((host,), seconds)
    for peer in found:
        where = (peer.host, peer.interface)
        if peer.handshake_age is not None:
            age.add_metric(where, peer.handshake_age)
        size.add_metric((*where, "in"), peer.received)
        size.add_metric((*where, "out"), peer.sent)
    yield from (age, size, rtt)


def users(found: Mapping[str, PeerStatus]) -> Iterator[Metric]:
    """In sum: there may be thousands of them, and their names are tenants'."""
    yield GaugeMetricFamily(
        "flyebpf_wireguard_peers", "Users' WireGuard peers that are set up here.", len(found)
    )
    size = CounterMetricFamily(
        "flyebpf_wireguard_bytes",
        "Bytes of WireGuard's packets from and to users' peers that are set up now.",
        labels=("direction",),
    )
    size.add_metric(("in",), sum(peer.received for peer in found.values()))
    size.add_metric(("out",), sum(peer.sent for peer in found.values()))
    yield size
