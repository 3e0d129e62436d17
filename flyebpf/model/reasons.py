# SPDX-License-Identifier: Apache-2.0
"""Why a packet was dropped, and the other counts that the programs keep.

Mirrors ``bpf/include/reasons.h`` and ``enum count`` of ``layout.h``; a test
compares them. The labels are those of metrics, CLI and ``docs/drops.md``.
"""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """A reason's number is its index in the ``drops`` map."""

    NONE = 0
    TRUNCATED = 1
    BAD_IP_HEADER = 2
    BAD_SOURCE = 3
    PRIVATE_DST = 4
    VIP_UNALLOCATED = 5
    NO_SERVICE = 6
    NO_BACKEND = 7
    PROTO = 8
    TTL = 9
    FRAG_NO_FIRST = 10
    FRAG_TINY = 11
    BAD_L4_HEADER = 12
    ICMP_TYPE = 13
    ICMP_NO_FLOW = 14
    REDIRECT = 15
    REWRITE = 16
    NEEDS_PROXY = 17
    ICMP_FRAGMENT = 18
    GROUP_MAC = 19
    MESH_OUTSIDE = 20
    TOO_BIG = 21
    NO_HOST = 22
    UNKNOWN_VM = 32
    SPOOFED_MAC = 33
    SPOOFED_IP = 34
    SPOOFED_ARP = 35
    ETHERTYPE = 36
    IPV6 = 37
    VM_TO_HOST = 38
    VM_TO_PRIVATE = 39
    VM_NOT_PUBLIC = 40
    VM_NO_ROUTE = 41
    REPLY_NO_FLOW = 42
    REPLY_AMBIGUOUS = 43
    REPLY_CLIENT_GONE = 44
    VM_MULTICAST = 45
    VM_FRAGMENT = 46
    FLOW_CONFLICT = 47
    IPV6_HEADER = 48
    SPOOFED_ND = 49
    ND_TYPE = 50
    SIXPN_NETWORK = 51
    SIXPN_MACHINE = 52
    SIXPN_HOST = 53
    SIXPN_ADDRESS = 54
    LINK_LOCAL = 55
    NOT_FOR_VM = 56
    DNS_LIMIT = 57
    MESH_FORM = 64
    MESH_SOURCE = 65
    MESH_NOT_HERE = 66
    MESH_MACHINE = 67
    MESH_NETWORK = 68
    MESH_INNER = 69
    MESH_NO_FLOW = 70
    PEER_SOURCE = 71
    HOST_SOURCE = 80

    @property
    def label(self) -> str:
        """The name in metrics, CLI and documentation."""
        return self.name.lower()


DROP_REASON_MAX = 128

DESCRIPTIONS: dict[DropReason, str] = {
    DropReason.TRUNCATED: "shorter than its headers say",
    DropReason.BAD_IP_HEADER: "impossible version, lengths or (from a VM) checksum",
    DropReason.BAD_SOURCE: "source address that no client can have",
    DropReason.PRIVATE_DST: "came from the uplink for a VM's private address",
    DropReason.VIP_UNALLOCATED: "pool address that no app owns",
    DropReason.NO_SERVICE: "allocated address, but no service on this port",
    DropReason.NO_BACKEND: "the service has no usable machine",
    DropReason.PROTO: "neither TCP, UDP nor ICMP",
    DropReason.TTL: "time to live used up",
    DropReason.FRAG_NO_FIRST: "fragment whose first one was not seen",
    DropReason.FRAG_TINY: "first fragment without the whole TCP or UDP header",
    DropReason.BAD_L4_HEADER: "TCP, UDP or ICMP header impossible, or port 0",
    DropReason.ICMP_TYPE: "ICMP that is neither an echo request nor an error",
    DropReason.ICMP_NO_FLOW: "ICMP error that quotes no flow of this host",
    DropReason.REDIRECT: "the machine's interface did not take the packet",
    DropReason.REWRITE: "the packet could not be rewritten",
    DropReason.NEEDS_PROXY: "the service has handlers and no proxy runs",
    DropReason.ICMP_FRAGMENT: "fragment of an ICMP message",
    DropReason.GROUP_MAC: "broadcast or multicast frame with a packet for one address",
    DropReason.MESH_OUTSIDE: "an address of the mesh or of a private network, from outside",
    DropReason.TOO_BIG: "longer than the mesh takes; the sender is told",
    DropReason.NO_HOST: "the machine's host is not in the mesh",
    DropReason.UNKNOWN_VM: "the interface belongs to no machine",
    DropReason.SPOOFED_MAC: "source MAC is not the machine's",
    DropReason.SPOOFED_IP: "source address is not the machine's",
    DropReason.SPOOFED_ARP: "ARP sender is not the machine",
    DropReason.ETHERTYPE: "neither IPv4, IPv6 nor ARP",
    DropReason.IPV6: "IPv6 that no rule lets through",
    DropReason.VM_TO_HOST: "a VM tried to reach the host's own services",
    DropReason.VM_TO_PRIVATE: "a VM tried to reach a private address of the cluster",
    DropReason.VM_NOT_PUBLIC: "a VM tried to reach an address that is not public",
    DropReason.VM_NO_ROUTE: "no route over an uplink to where the VM's packet goes",
    DropReason.REPLY_NO_FLOW: "sent from fly-global-services without a flow or service",
    DropReason.REPLY_AMBIGUOUS: "reply without a flow, and several addresses could be its source",
    DropReason.REPLY_CLIENT_GONE: "reply to a VM that is no longer there",
    DropReason.VM_MULTICAST: "a VM sent to a multicast or broadcast address",
    DropReason.VM_FRAGMENT: "fragment from a VM whose first one was not seen",
    DropReason.FLOW_CONFLICT: "two flows of one client would look the same to the machine",
    DropReason.IPV6_HEADER: "IPv6 header or extension headers that are impossible",
    DropReason.SPOOFED_ND: "neighbour message with another's address or MAC",
    DropReason.ND_TYPE: "router or neighbour message that no VM has to send",
    DropReason.SIXPN_NETWORK: "a VM tried to reach an address of another private network",
    DropReason.SIXPN_MACHINE: "private network address of no machine",
    DropReason.SIXPN_HOST: "private network address of a host that is not in the mesh",
    DropReason.SIXPN_ADDRESS: "address of the private networks that nobody can have",
    DropReason.LINK_LOCAL: "a VM tried to reach a link-local address that is not its gateway's",
    DropReason.NOT_FOR_VM: "was about to be delivered to a machine that it is not for",
    DropReason.DNS_LIMIT: "a VM sent more DNS queries than it may",
    DropReason.MESH_FORM: "came over the mesh in a form in which no host sends",
    DropReason.MESH_SOURCE: "came over the mesh from no host or machine",
    DropReason.MESH_NOT_HERE: "came over the mesh for another host",
    DropReason.MESH_MACHINE: "came over the mesh for a machine that is not here",
    DropReason.MESH_NETWORK: "came over the mesh from another private network",
    DropReason.MESH_INNER: "came over the mesh and carries what no host sends",
    DropReason.MESH_NO_FLOW: "reply that came back over the mesh to a client that is not here",
    DropReason.PEER_SOURCE: "a user's WireGuard peer sent from an address that is not its own",
    DropReason.HOST_SOURCE: "sent into a private network by the host, and no answer of a service",
}


class Count(IntEnum):
    """A count's number is its index in the ``counts`` map."""

    ECHO = 1
    RST = 2
    FLOW_NEW = 4
    FLOW_EVICTED = 5
    VIA_TC = 6
    OWN = 7
    HAIRPIN = 8
    ARP = 9
    FLOW_REJECTED = 10
    MESH_OUT = 11
    MESH_IN = 12
    MESH_RETURN = 13
    SIXPN_LOCAL = 14
    SIXPN_OUT = 15
    SIXPN_IN = 16
    ND = 17
    TOO_BIG = 18
    ICMP_LIMITED = 19
    MSS = 20
    PEER_OUT = 21
    PEER_IN = 22
    DNS_ANSWER = 23
    DNS_PASSED = 24
    HOST_OUT = 25
    PROXY = 26
    PROXY_STEERED = 27
    PROXY_REFUSED = 28
    PROXY_AWAY = 29


COUNT_MAX = 32
