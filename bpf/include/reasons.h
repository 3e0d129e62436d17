/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Why a packet was dropped: one list for the programs, the metrics, the CLI
 * and docs/drops.md. flyebpf/model/reasons.py mirrors it and a test compares
 * the two. Numbers are an ABI of the pinned `drops` map: append, never reuse.
 */
#ifndef FLYEBPF_REASONS_H
#define FLYEBPF_REASONS_H

enum drop_reason {
	DROP_NONE = 0,

	/* From the uplink. */
	DROP_TRUNCATED = 1,	  /* shorter than its headers say */
	DROP_BAD_IP_HEADER = 2,	  /* impossible version, lengths or (VM) checksum */
	DROP_BAD_SOURCE = 3,	  /* source no client can have */
	DROP_PRIVATE_DST = 4,	  /* addressed to a VM's private address */
	DROP_VIP_UNALLOCATED = 5, /* pool address that no app owns */
	DROP_NO_SERVICE = 6,	  /* allocated address, nothing on this port */
	DROP_NO_BACKEND = 7,	  /* service without a usable machine */
	DROP_PROTO = 8,		  /* not TCP, UDP or ICMP */
	DROP_TTL = 9,		  /* TTL used up */
	DROP_FRAG_NO_FIRST = 10,  /* fragment whose first one was not seen */
	DROP_FRAG_TINY = 11,	  /* first fragment without the whole L4 header */
	DROP_BAD_L4_HEADER = 12,  /* L4 length or offset impossible, or port 0 */
	DROP_ICMP_TYPE = 13,	  /* ICMP that is neither echo nor an error */
	DROP_ICMP_NO_FLOW = 14,	  /* ICMP error that quotes no flow of ours */
	DROP_REDIRECT = 15,	  /* machine's interface refused the packet */
	DROP_REWRITE = 16,	  /* packet could not be rewritten */
	DROP_NEEDS_PROXY = 17,	  /* service belongs to a proxy that is not there */
	DROP_ICMP_FRAGMENT = 18,  /* fragment of an ICMP message */
	DROP_GROUP_MAC = 19,	  /* one address's packet in a frame to or from many */
	DROP_MESH_OUTSIDE = 20,	  /* an address of the mesh or 6PN, but not from the mesh */
	DROP_TOO_BIG = 21,	  /* longer than the mesh takes; the sender is told */
	DROP_NO_HOST = 22,	  /* machine's host is not in the mesh */

	/* From a VM. */
	DROP_UNKNOWN_VM = 32,	     /* interface that belongs to no machine */
	DROP_SPOOFED_MAC = 33,	     /* source MAC is not the machine's */
	DROP_SPOOFED_IP = 34,	     /* source address is not the machine's */
	DROP_SPOOFED_ARP = 35,	     /* ARP sender is not the machine */
	DROP_ETHERTYPE = 36,	     /* neither IPv4, IPv6 nor ARP */
	DROP_IPV6 = 37,		     /* IPv6 that no rule lets through */
	DROP_VM_TO_HOST = 38,	     /* the host's own services */
	DROP_VM_TO_PRIVATE = 39,     /* another VM's private address */
	DROP_VM_NOT_PUBLIC = 40,     /* destination that is not public */
	DROP_VM_NO_ROUTE = 41,	     /* no way out over an uplink */
	DROP_REPLY_NO_FLOW = 42,     /* fly-global-services packet, no flow, no service */
	DROP_REPLY_AMBIGUOUS = 43,   /* no flow, and several addresses it could come from */
	DROP_REPLY_CLIENT_GONE = 44, /* reply to a VM that is no longer there */
	DROP_VM_MULTICAST = 45,	     /* multicast or broadcast */
	DROP_VM_FRAGMENT = 46,	     /* fragment of a reply without its first one */
	DROP_FLOW_CONFLICT = 47,     /* two VIPs of a machine, one client tuple */
	DROP_IPV6_HEADER = 48,	     /* IPv6 header or extension headers impossible */
	DROP_SPOOFED_ND = 49,	     /* neighbour message with another's address or MAC */
	DROP_ND_TYPE = 50,	     /* router or neighbour message that is not a VM's to send */
	DROP_SIXPN_NETWORK = 51,     /* 6PN address of another network */
	DROP_SIXPN_MACHINE = 52,     /* 6PN address of no machine */
	DROP_SIXPN_HOST = 53,	     /* 6PN address of no host */
	DROP_SIXPN_ADDRESS = 54,     /* fdaa:: address that is nobody's */
	DROP_LINK_LOCAL = 55,	     /* link-local address that is not the gateway's */
	DROP_NOT_FOR_VM = 56,	     /* about to be delivered to a machine it is not for */
	DROP_DNS_LIMIT = 57,	     /* more queries than a machine may send */

	/* From the mesh. */
	DROP_MESH_FORM = 64,	     /* not in the form in which hosts send */
	DROP_MESH_SOURCE = 65,	     /* sender is no host or machine of the mesh */
	DROP_MESH_NOT_HERE = 66,     /* for another host */
	DROP_MESH_MACHINE = 67,	     /* for a machine that is not here */
	DROP_MESH_NETWORK = 68,	     /* from another network */
	DROP_MESH_INNER = 69,	     /* what it carries is not what hosts send */
	DROP_MESH_NO_FLOW = 70,	     /* carried reply to a client that is not here */
	DROP_PEER_SOURCE = 71,	     /* user's peer with a source that is not its own */

	/* From the host itself. */
	DROP_HOST_SOURCE = 80, /* into private networks, but no answer of a service */

	DROP_REASON_MAX = 128
};

#endif
