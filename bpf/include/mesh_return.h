/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Replies that a machine's host sent back to the edge that the client came in
 * at, which is this host: to a VM of it, or out over an uplink.
 * Included by mesh_tc.c only. */
#ifndef FLYEBPF_MESH_RETURN_H
#define FLYEBPF_MESH_RETURN_H

#include "mesh_packet.h"

/* The client's flow, as far as the sender is the host of its machine: where the
 * client came in, or 0. state: FLOW_* that the packet adds. */
inline __u32 return_tuple(const struct mesh *m, const struct tuple *tuple,
			  __u8 state)
{
	__u64 hash = tuple_hash(tuple, m->settings->seed);
	struct flow *f = flow_find(m->settings, tuple, hash);
	struct slot *slot = f ? flow_slot(f, hash) : 0;

	if (!slot || !(slot->flags & SLOT_REMOTE) || slot->host != m->from)
		return 0;
	if (state)
		flow_touch(f, state);
	return f->ifindex;
}

/* FLOW_* that an answer adds; flags: of TCP */
inline __u8 return_state(__u8 flags)
{
	return FLOW_REPLIED | (flags & (TH_FIN | TH_RST) ? FLOW_CLOSING : 0);
}

inline __u32 return_flow(const struct mesh *m)
{
	struct tuple tuple = { .proto = m->ip.protocol };

	addr_from_ipv4(&tuple.client, m->ip.daddr);
	addr_from_ipv4(&tuple.vip, m->ip.saddr);
	tuple.client_port = m->ports.dest;
	tuple.vip_port = m->ports.source;
	return return_tuple(m, &tuple, return_state(m->flags));
}

/* Where the client came in, or 0. */
inline __u32 return_fragment(const struct mesh *m)
{
	struct frag_key key = mesh_frag_key(m);
	struct frag *frag = map_lookup(fragments, &key);

	return frag && frag_is_fresh(frag) ? frag->ifindex : 0;
}

inline void return_remember(const struct mesh *m, __u32 ifindex)
{
	struct frag_key key = mesh_frag_key(m);
	struct frag frag = { .ifindex = ifindex, .seen = clock_seen() };

	map_update(fragments, &key, &frag);
}

/* To the VM behind an alias. */
inline int return_vm(struct mesh *m, __u32 came_in)
{
	__be32 daddr = from_alias(m->settings, m->ip.daddr);
	__u32 *index = vm_slot_of(m->settings, came_in);
	struct slot *client = index ? get_slot(*index) : 0;
	bool stored;

	if (!client || client->private_ip != daddr || !(client->flags & SLOT_LIVE))
		return mesh_drop(m, DROP_MESH_NO_FLOW);
	if (is_later_fragment(&m->ip))
		stored = mesh_store_daddr(m, daddr);
	else
		stored = mesh_rewrite_l4(m, daddr, m->ports.dest);
	if (!stored)
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_RETURN);
	return mesh_to_slot(m, client);
}

inline int return_uplink(struct mesh *m, __u32 came_in)
{
	const __u8 none[ETH_ALEN] = {}; /* the kernel writes them */
	__u32 ifindex = came_in;
	__u32 reason = reply_route(m->skb, m->settings, m->ip.saddr, m->ip.daddr,
				   &ifindex);

	if (reason)
		return mesh_drop(m, reason);
	if (!mesh_decapsulate(m) || !mesh_store_eth(m, none, none, ETH_P_IP))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_RETURN);
	return send_uplink(ifindex);
}

/* Of ICMP, machines' hosts send back errors alone, and whole. */
inline bool return_is_error(const struct mesh *m)
{
	struct icmphdr icmp;

	return !is_fragment(&m->ip) && m->l4_room >= sizeof(icmp) &&
	       !bpf_skb_load_bytes(m->skb, m->l4, &icmp, sizeof(icmp)) &&
	       icmp_is_error(icmp.type);
}

inline int mesh_return(struct mesh *m)
{
	const struct settings *s = m->settings;
	const __u32 client = bpf_ntohl(m->ip.daddr);
	const bool alias = in_alias(s, client);
	__u32 came_in = 0;

	if (pool_index(s, bpf_ntohl(m->ip.saddr)) == NOT_IN_POOLS ||
	    (!alias && bad_source(s, client)))
		return mesh_drop(m, DROP_MESH_INNER);
	if (m->ip.protocol == IPPROTO_ICMP) {
		if (alias || !return_is_error(m))
			return mesh_drop(m, DROP_MESH_INNER);
	} else if (m->ip.protocol != IPPROTO_TCP && m->ip.protocol != IPPROTO_UDP) {
		return mesh_drop(m, DROP_MESH_INNER);
	} else if (is_later_fragment(&m->ip)) {
		came_in = return_fragment(m);
	} else {
		if (!mesh_load_l4(m))
			return mesh_drop(m, DROP_MESH_INNER);
		came_in = return_flow(m);
		if (is_fragment(&m->ip))
			return_remember(m, came_in);
	}
	return alias ? return_vm(m, came_in) : return_uplink(m, came_in);
}

#endif
