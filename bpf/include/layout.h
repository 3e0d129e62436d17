/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Everything that the programs and userspace both read or write in maps.
 *
 * These structs are the authority. flyebpf/bpf/layout.py mirrors them with
 * ctypes; the loader compares sizes and field offsets of both at load, and so
 * does a test. Addresses are 16 bytes in network order, IPv4 mapped
 * (::ffff:a.b.c.d), so that one map and one path serve both families. Ports
 * are in network order, everything else in host order.
 */
#ifndef FLYEBPF_LAYOUT_H
#define FLYEBPF_LAYOUT_H

#include <linux/types.h>

struct addr {
	union {
		__u8 byte[16];
		__be32 word[4];
		__u64 quad[2];
	};
};

#define MAX_POOLS 16
#define MAX_POOLS6 8
#define MAX_UPLINKS 8

/* A pool of Anycast IPv4 addresses. The `vips` array holds one entry for each
 * of its addresses, from vip_base on, in order. */
struct pool {
	__u32 prefix;	/* host order */
	__u32 mask;	/* host order */
	__u32 vip_base; /* index of the pool's first address in `vips` */
	__u32 flags;	/* POOL_* */
};

#define POOL_SHARED 1 /* TCP is the proxy's, whoever has the address */

/* A pool of Anycast IPv6 addresses, of which the first `size` can be given out:
 * they have their entries in `vips` from vip_base on, in order. */
struct pool6 {
	struct addr prefix; /* no bits outside of mask */
	struct addr mask;
	__u32 vip_base;
	__u32 size;
};

/* The one entry of `settings`. */
struct settings {
	struct pool pool[MAX_POOLS];
	__u32 pool_count;
	__u32 private_prefix; /* cluster's private IPv4 pool, host order */
	__u32 private_mask;
	__u32 alias_prefix; /* what a VM's address looks like to another VM
			     * that it reaches through a VIP, host order;
			     * same mask as private */
	__u32 uplink[MAX_UPLINKS]; /* ifindexes */
	__u32 uplink_count;
	__u32 flow_buckets; /* of `flows` and `reverse`, a power of two */
	__u64 seed; /* hashes flow tuples, for buckets and Maglev; secret, one
		     * for all hosts of a cluster */
	__u32 host;	  /* this host's number, top bit set; 0: none yet */
	__u32 mesh_mtu;	  /* longest IPv6 packet that the mesh takes; 0: no mesh */
	__u32 mesh_flags; /* MESH_* */
	__u32 peers;	  /* ifindex of the users' WireGuard device, or 0 */
	__u32 vm_buckets; /* of `vm_slots`, a power of two */
	__u32 host_port;  /* ifindex where the host's own services take packets of
			   * private networks, or 0 */
	__u8 host_mac[6]; /* its MAC */
	__u16 pad;
	struct pool6 pool6[MAX_POOLS6];
	__u32 pool6_count;
	__u32 zero; /* always; the verifier does not know */
	__be32 proxy; /* what machines see as this host's proxy; 0: it has none */
	__u32 pad2;
};

#define MESH_RETURN_EDGE 1 /* replies to clients leave where they came in */
#define MESH_ETHERNET 2	   /* plain underlay: the devices have Ethernet headers */

/* hosts[number]: another host of the cluster. ifindex: the mesh device that
 * leads there; a device with Ethernet headers needs next_hop too. */
struct host {
	struct addr next_hop; /* on the plain underlay; else zero */
	__u32 ifindex;
	__u32 pad;
};

/* Key of `sixpn`: a machine of this host by the fields of its 6PN address, host
 * order. The value is its slot. */
struct sixpn_key {
	__u32 network;
	__u32 machine;
};

/* Key of `names`: a name that machines of a network may ask for. Its network is
 * in the key as it is, so two names of different networks are never one key,
 * whatever their hashes; see dns_name.h for the hash. */
struct name_key {
	__u32 network;
	__u32 pad;
	__u64 hash[2];
};

/* What a name is answered with. sum: of all its records as the answer has them,
 * in 16-bit words as they stand in memory, folded. */
#define NAME_ADDRESSES 8
struct name {
	__u32 count;
	__u32 sum;
	struct addr addr[NAME_ADDRESSES];
};

/* dns_limits[slot]: what a machine may still ask. */
struct dns_limit {
	__u32 seen; /* jiffies >> 4 when `left` was last filled up */
	__u32 left;
};

/* The one entry of `dns_scratch` (per CPU): a query, with room behind it for
 * reads that the verifier has to know the bounds of, and the end of its answer. */
#define DNS_QUERY_MAX 236 /* bytes of a message */
#define DNS_TAIL_WORDS 59 /* NAME_ADDRESSES records and OPT */
struct dns_scratch {
	__u8 front[4]; /* so that the name is aligned to 8 bytes */
	__u8 query[348];
	__u32 tail[DNS_TAIL_WORDS];
	__u32 pad;
};

/* Key of `proxy_ports`: the proxies may open connections to this TCP port of a
 * machine of this host. The value means nothing. */
struct proxy_port_key {
	__u32 slot;
	__be16 port;
	__u16 pad;
};

/* Key of `binds` (LPM trie): TCP ports of an address that the proxy serves.
 * prefixlen counts from addr on: of a whole address 128 and the leading bits of the
 * port that the entry fixes, of a pool those of the address. The zero address is
 * any one of a shared pool. */
struct bind_key {
	__u32 prefixlen;
	__be32 addr[4];
	__be16 port;
	__u16 pad;
};

/* Value of `binds`: BIND_*, or a listener of the proxy's: `proxy_sockets` has two
 * sockets of each, for IPv4 at 2 * listener, for IPv6 after that. */
#define BIND_NOBODY 1000 /* of a pool: nothing answers here */
#define BIND_SHARED 1001 /* of a shared pool: ask for the zero address */
#define PROXY_LISTENERS 128
#define PROXY_WAITING 127 /* no listener: its sockets take nothing, see steer_sklookup.c */

/* icmp_limit[0], per CPU: how many errors the edge may still send; icmp_limit[1 +
 * slot]: how many to that machine. */
struct icmp_limit {
	__u32 seen; /* jiffies >> 4 when `left` was last filled up */
	__u32 left;
};

/* vips[i]: one Anycast address. Zero: nobody owns it. Written whole. */
#define VIP_ALLOCATED 1 /* an app owns it: ICMP echo is answered */
#define VIP_RANGES 2	/* it has entries in `service_ranges` */
struct vip {
	__u32 flags;
	__u32 pad;
};

/* Key of `services`: one port. */
struct service_key {
	__u32 vip; /* index in `vips` */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

/* Key of `service_ranges` (LPM trie). prefixlen counts from vip on: 48 + the
 * leading bits of the port that the entry fixes. */
struct service_range_key {
	__u32 prefixlen;
	__be32 vip;
	__u8 proto;
	__u8 pad;
	__be16 port;
};

/* service_states[id]: generation changes when the id's owner does. */
struct service_state {
	__u32 generation;
	__u32 pad;
};

#define SERVICE_REVERSE 1 /* replies need `reverse`: several (VIP, port) share
			   * one (machine, internal port) */
#define SERVICE_PROXY 4	  /* has handlers: belongs to the proxy */
struct service {
	__u32 id;    /* index in `service_stats` */
	__u32 table; /* index in `tables` */
	__be16 internal_port;
	__u16 flags;
	__u32 pad;
};

/* tables[i]: a Maglev table, a run of `maglev`. Written whole (one u64), so
 * that a new table takes effect at once. size 0: no usable machine. */
struct table {
	__u32 start;
	__u32 size;
};

/* slots[i]: a machine. generation changes whenever the slot's owner or its
 * usability for existing flows does, so that a flow never reaches the next
 * owner. State and generation share the first u64. */
#define SLOT_LIVE 1   /* packets may be delivered */
#define SLOT_VIA_TC 2 /* the interface takes no XDP redirect: deliver in tc */
#define SLOT_REMOTE 4 /* on another host: no interface, no MACs, no addresses */
struct slot {
	__u32 generation;
	__u32 flags;
	__u32 ifindex;
	__be32 private_ip;
	__be32 services_ip; /* fly-global-services */
	__u8 mac[6];	    /* the VM's */
	__u8 host_mac[6];   /* its gateway's: the host side of the interface */
	__u64 machine_id;   /* 14 hex digits as a number */
	__u32 network;	    /* the fields of its 6PN address, host order */
	__u32 host;
	__u32 machine;
	__u32 pad[3];
};

/* vm_slots: the slot behind a VM's interface, in the bucket that the low bits of
 * its ifindex name. An array, because every packet of a VM asks. ifindex 0: the
 * way is free. A way is written whole; whoever reads it compares the ifindex with
 * the slot's. */
#define VM_SLOT_WAYS 4
struct vm_slot {
	__u32 ifindex;
	__u32 slot;
};
struct vm_slot_bucket {
	struct vm_slot way[VM_SLOT_WAYS];
};

/* Key of `replies`: where a machine's replies come from. family: 0 for those from
 * its IPv4 addresses, REPLY_IPV6 for those from its 6PN address. */
#define REPLY_IPV6 6
struct reply_key {
	__u32 slot;
	__be16 port; /* internal */
	__u8 proto;
	__u8 family;
};

#define REPLY_UNIQUE 1 /* vip and port are the only ones that lead here; else
			* they are the oldest ones; never set for IPv6, whose
			* replies all have an entry in `reverse` */
struct reply {
	struct addr vip;
	__u32 service; /* index in `service_stats` */
	__be16 port;
	__u16 flags;
};

/* The flow tables are arrays of buckets rather than LRU hashes: an insert
 * costs a few nanoseconds instead of hundreds, so a flood of new tuples cannot
 * slow the machine, and confirmed flows can be preferred to unconfirmed ones.
 * Nothing locks a bucket. `seal` is a hash of the key, the values that never
 * change, and the generations of slot and service as they were: an entry torn
 * by two writers, or whose machine or service has since gone to another owner,
 * does not match its seal and counts as a miss. */
#define FLOW_REPLIED 1	 /* the machine answered */
#define FLOW_CONFIRMED 2 /* and the client went on after that */
#define FLOW_CLOSING 4	 /* FIN or RST seen */
#define FLOW_OWN 8	 /* `reverse` only: the VM's own traffic */

struct flow {
	__u64 seal;
	struct addr client;
	struct addr vip;
	__be16 client_port;
	__be16 vip_port;
	__u8 proto;
	__u8 state;	/* not sealed */
	__be16 internal_port;
	__u32 slot;
	__u32 ifindex; /* where the client's last packet came in: an uplink, a
			* VM's interface or, with the top bit set, the number of
			* the host whose edge sent it over the mesh; not sealed,
			* checked where it is used */
	__u32 service; /* index in `service_stats` and `service_states` */
	__u32 seen;    /* jiffies >> 4 of the last packet; not sealed */
};

/* `reverse`: (client, machine, internal port) to VIP, for services where the
 * flow cannot be found otherwise, and the VM's own TCP connections from a
 * service's port. */
struct reverse {
	__u64 seal;
	struct addr client;
	struct addr vip;
	__be16 client_port;
	__be16 internal_port;
	__u8 proto;
	__u8 state; /* not sealed, but FLOW_OWN */
	__be16 vip_port;
	__u32 slot;
	__u32 service;
	__u32 seen; /* not sealed */
	__u32 ifindex; /* where the client's first packet came in, as in flow */
};

#define FLOW_WAYS 4
struct flow_bucket {
	struct flow way[FLOW_WAYS];
};
struct reverse_bucket {
	struct reverse way[FLOW_WAYS];
};

/* Fragments of one datagram follow its first one (`fragments`, LRU hash). */
struct frag_key {
	__be32 src;
	__be32 dst;
	__be16 id;
	__u8 proto;
	__u8 from_vm; /* 1: src is a VM's address; 2: it came over the mesh */
};
struct frag {
	__u32 slot;
	__u32 generation; /* of the slot, when the first fragment passed */
	__be32 new_addr;  /* replaces dst (to a VM) or src (from one) */
	__u32 ifindex;	  /* where it leaves */
	__u32 service;
	__u32 seen; /* jiffies >> 4 */
};

/* The same for IPv6 (`fragments6`), whose fragments have no other key (RFC 8200,
 * 4.5). */
struct frag6_key {
	struct addr src;
	struct addr dst;
	__be32 id;
	__u32 from_vm; /* as above */
};
struct frag6 {
	struct addr new_addr; /* replaces src (from a VM) */
	__u32 slot;
	__u32 generation; /* see frag6_generation() */
	__u32 ifindex;
	__u32 service;
	__u32 seen;
	__u32 pad;
};

/* The one entry of `mesh_scratch` (per CPU): what a program's stack has no room
 * for. tuple: a struct tuple. */
struct mesh_scratch {
	__u64 tuple[5];
	struct frag6_key key;
	struct frag6 frag;
};

/* Per CPU. */
struct service_stats {
	__u64 in_packets;
	__u64 in_bytes; /* L3 length */
	__u64 out_packets;
	__u64 out_bytes;
	__u64 flows; /* created */
};
struct drop_stats {
	__u64 packets;
	__u64 bytes; /* L2 length */
};

/* Key of `egress_policy` (LPM): where a VM's own packets may go. */
struct policy_key {
	__u32 prefixlen;
	__be32 addr;
};
#define POLICY_ALLOW 0 /* otherwise an enum drop_reason */

/* Other per-CPU counts (`counts`, indexed by enum count). Append only. Packets
 * of known flows are those of `service_stats` less its flows. */
enum count {
	COUNT_ECHO = 1,		/* ICMP echoes answered */
	COUNT_RST = 2,		/* resets sent for want of a machine */
	COUNT_FLOW_NEW = 4,
	COUNT_FLOW_EVICTED = 5, /* a live flow gave way to a new one */
	COUNT_VIA_TC = 6,	/* delivered the slow way */
	COUNT_OWN = 7,		/* the VMs' own packets to the internet */
	COUNT_HAIRPIN = 8,	/* from a VM to a VIP */
	COUNT_ARP = 9,		/* ARP requests answered */
	COUNT_FLOW_REJECTED = 10, /* bucket full of confirmed flows */
	COUNT_MESH_OUT = 11,	/* clients' packets sent to a machine's host */
	COUNT_MESH_IN = 12,	/* and received from an edge */
	COUNT_MESH_RETURN = 13, /* replies sent back to the edge, and from there on */
	COUNT_SIXPN_LOCAL = 14, /* 6PN between machines of this host */
	COUNT_SIXPN_OUT = 15,	/* to a machine of another host */
	COUNT_SIXPN_IN = 16,	/* from one */
	COUNT_ND = 17,		/* neighbour solicitations answered */
	COUNT_TOO_BIG = 18,	/* senders told of a smaller MTU */
	COUNT_ICMP_LIMITED = 19, /* senders not told: rate limit */
	COUNT_MSS = 20,		/* TCP MSS options lowered */
	COUNT_PEER_OUT = 21,	/* 6PN to a user's WireGuard peer */
	COUNT_PEER_IN = 22,	/* from one */
	COUNT_DNS_ANSWER = 23,	/* queries answered by the program at the interface */
	COUNT_DNS_PASSED = 24,	/* packets passed on to the host's DNS server */
	COUNT_HOST_OUT = 25,	/* from the host's services to machines and peers */
	COUNT_PROXY = 26,	/* packets for the proxy of this host */
	COUNT_PROXY_STEERED = 27, /* connections given to it */
	COUNT_PROXY_REFUSED = 28, /* to its addresses, but to no port of a service */
	COUNT_PROXY_AWAY = 29,	/* to a service, while the proxy was not there */
	COUNT_MAX = 32
};

#endif
