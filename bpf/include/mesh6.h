/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IPv6 that other hosts send carried in IPv6: clients' packets for machines here,
 * and answers on their way back to a client. As mesh_deliver.h and mesh_return.h;
 * included by mesh_tc.c only. */
#ifndef FLYEBPF_MESH6_H
#define FLYEBPF_MESH6_H

#include "mesh6_packet.h"
#include "mesh_deliver.h"
#include "mesh_return.h"

inline int mesh6_to_slot(struct mesh *m)
{
	__u32 ifindex = m->slot->ifindex;

	if (!mesh6_unpack(m, m->slot->mac, m->slot->host_mac))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_IN);
	return bpf_redirect(ifindex, 0);
}

/* What the first one of a later fragment was given, or 0. */
inline struct frag6 *mesh6_frag(struct mesh *m, struct mesh6 *x)
{
	struct frag6 *frag = mesh6_frag_key(m, x) ?
				     map_lookup(fragments6, &x->scratch->key) :
				     0;

	return frag && frag6_is_fresh(frag) ? frag : 0;
}

/* Later fragments follow this one. ifindex: where its client came in, for answers. */
inline bool mesh6_remember(struct mesh *m, struct mesh6 *x, __u32 ifindex)
{
	struct frag6 *frag = &x->scratch->frag;

	if (!mesh6_frag_key(m, x))
		return false;
	__builtin_memset(frag, 0, sizeof(*frag));
	if (m->slot) {
		frag->slot = m->slot_index;
		frag->generation = m->slot->generation;
	}
	frag->ifindex = ifindex;
	frag->seen = clock_seen();
	map_update(fragments6, &x->scratch->key, frag);
	return true;
}

inline int deliver6_fragment(struct mesh *m, struct mesh6 *x)
{
	struct addr daddr;
	struct frag6 *frag = mesh6_frag(m, x);

	if (!frag || frag->slot != m->slot_index ||
	    frag->generation != m->slot->generation)
		return mesh_drop(m, DROP_FRAG_NO_FIRST);
	machine6_addr(&daddr, m->slot);
	if (!mesh6_store_daddr(m, &daddr))
		return mesh_drop(m, DROP_REWRITE);
	return mesh6_to_slot(m);
}

/* The flow of TCP or UDP, or of what an error quotes. Returns a drop reason or 0. */
inline __u32 deliver6_tuple(struct mesh *m, struct mesh6 *x, struct tuple *t,
			    __u32 *how)
{
	if (x->upper.proto == NEXT_ICMP6) {
		if (!mesh6_load_error(m, x, &t->vip, &t->client, &t->proto))
			return DROP_MESH_INNER;
		if (!addr_equal(&t->vip, &mesh6_ip(m)->dst))
			return DROP_ICMP_NO_FLOW;
		t->client_port = m->ports.dest;
		t->vip_port = m->ports.source;
		*how = STEER_READONLY;
	} else {
		if (!mesh6_load_l4(m, x) || !m->port)
			return DROP_MESH_INNER;
		t->vip = mesh6_ip(m)->dst;
		t->client = mesh6_ip(m)->src;
		t->client_port = m->ports.source;
		t->vip_port = m->ports.dest;
		t->proto = x->upper.proto;
		*how = t->proto == IPPROTO_TCP ? tcp_how(m->flags) : 0;
	}
	*how += m->settings->zero; /* as in ip6_settle(): one state from here on */
	return DROP_NONE;
}

/* What the machine sends passes the mesh: the client's MSS limits it. */
inline bool deliver6_mss(struct mesh *m, const struct mesh6 *x)
{
	if (!(m->flags & TH_SYN) ||
	    !(m->settings->mesh_flags & MESH_RETURN_EDGE))
		return true;
	return mss_lower(m->skb, x->upper.at, mesh_mss6(m->settings));
}

inline int deliver6_flow(struct mesh *m, struct mesh6 *x, __u32 vip_index)
{
	struct tuple *tuple = mesh6_tuple(x);
	__u32 how = 0, reason = deliver6_tuple(m, x, tuple, &how);
	__u64 hash = tuple_hash(tuple, m->settings->seed);

	if (reason)
		return mesh_drop(m, reason);
	if (how & STEER_NEW || !mesh_old_flow(m, tuple, hash, how)) {
		if (how & STEER_READONLY)
			return mesh_drop(m, DROP_ICMP_NO_FLOW);
		reason = mesh_new_flow(m, tuple, hash, vip_index, REPLY_IPV6);
		if (reason)
			return mesh_drop(m, reason);
	}
	if ((x->upper.more && !mesh6_remember(m, x, 0)) || !deliver6_mss(m, x) ||
	    !mesh6_rewrite(m, x))
		return mesh_drop(m, DROP_REWRITE);
	return mesh6_to_slot(m);
}

/* The machine's number and port are what the edge put into the outer address. */
inline int mesh6_deliver(struct mesh *m, struct mesh6 *x, __u32 machine)
{
	__u32 vip_index = pool6_index(m->settings, &mesh6_ip(m)->dst);

	m->slot = mesh_slot(m, 0, machine);
	if (!m->slot || !m->slot->network)
		return mesh_drop(m, DROP_MESH_MACHINE);
	if (vip_index == NOT_IN_POOLS || bad_source6(m->settings, &mesh6_ip(m)->src))
		return mesh_drop(m, DROP_MESH_INNER);
	if (x->upper.later)
		return deliver6_fragment(m, x);
	return deliver6_flow(m, x, vip_index);
}

/* Where the client of a later fragment came in, or 0. */
inline __u32 return6_fragment(struct mesh *m, struct mesh6 *x)
{
	struct frag6 *frag = mesh6_frag(m, x);

	return frag ? frag->ifindex : 0;
}

/* Where the client of an answer came in, of an error that of the packet that it
 * quotes; or 0 and the reason. */
inline __u32 return6_flow(struct mesh *m, struct mesh6 *x, __u32 *reason)
{
	struct mesh_header *ip = mesh6_ip(m);
	struct tuple *t = mesh6_tuple(x);
	__u32 came_in;
	__u8 state = 0;

	*reason = DROP_MESH_INNER;
	if (x->upper.proto == NEXT_ICMP6) {
		if (!mesh6_load_error(m, x, &t->client, &t->vip,
				      &t->proto) ||
		    !addr_equal(&t->client, &ip->dst) ||
		    !addr_equal(&t->vip, &ip->src))
			return 0;
		t->client_port = m->ports.source;
		t->vip_port = m->ports.dest;
	} else {
		if (!mesh6_load_l4(m, x))
			return 0;
		t->client = ip->dst;
		t->vip = ip->src;
		t->client_port = m->ports.dest;
		t->vip_port = m->ports.source;
		t->proto = x->upper.proto;
		state = return_state(m->flags);
	}
	state += m->settings->zero; /* as in ip6_settle() */
	*reason = DROP_MESH_NO_FLOW;
	came_in = return_tuple(m, t, state);
	if (came_in && x->upper.more)
		mesh6_remember(m, x, came_in);
	return came_in;
}

/* Over IPv6 nothing goes back to a client that has not asked here. */
inline int mesh6_return(struct mesh *m, struct mesh6 *x)
{
	const __u8 none[ETH_ALEN] = {}; /* the kernel writes them */
	const struct settings *s = m->settings;
	struct mesh_header *ip = mesh6_ip(m);
	__u32 ifindex, reason = DROP_MESH_NO_FLOW;

	if (pool6_index(s, &ip->src) == NOT_IN_POOLS ||
	    bad_source6(s, &ip->dst))
		return mesh_drop(m, DROP_MESH_INNER);
	ifindex = x->upper.later ? return6_fragment(m, x) :
				   return6_flow(m, x, &reason);
	if (!ifindex)
		return mesh_drop(m, reason);
	reason = reply6_route(m->skb, s, &ip->src, &ip->dst, &ifindex);
	if (reason)
		return mesh_drop(m, reason);
	if (!mesh6_unpack(m, none, none))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_RETURN);
	return send_uplink(ifindex);
}

/* machine: as in the outer destination; 0 is the host itself. */
inline int mesh6(struct mesh *m, __u32 machine)
{
	struct mesh6 x = {};
	__u32 zero = 0;

	x.scratch = map_lookup(mesh_scratch, &zero);
	if (!x.scratch)
		return mesh_drop(m, DROP_REWRITE);
	if (!mesh6_load(m, &x) ||
	    (!x.upper.later && x.upper.proto != IPPROTO_TCP &&
	     x.upper.proto != IPPROTO_UDP && x.upper.proto != NEXT_ICMP6))
		return mesh_drop(m, DROP_MESH_INNER);
	if (machine)
		return mesh6_deliver(m, &x, machine);
	return m->port ? mesh_drop(m, DROP_MESH_FORM) : mesh6_return(m, &x);
}

#endif
