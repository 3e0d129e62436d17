/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Clients' packets that an edge sent to a machine of this host. What is a flow
 * at the edge is one here too, so that replies are known and find their way; its
 * ifindex is the number of the edge. In packets and bytes of the service, what
 * comes in is counted at the edge, what goes out is counted here.
 * Included by mesh_tc.c only.
 */
#ifndef FLYEBPF_MESH_DELIVER_H
#define FLYEBPF_MESH_DELIVER_H

#include "mesh_packet.h"

inline void mesh_tuple(const struct mesh *m, struct tuple *t)
{
	t->proto = m->ip.protocol;
	addr_from_ipv4(&t->client, m->ip.saddr);
	addr_from_ipv4(&t->vip, m->ip.daddr);
	t->client_port = m->ports.source;
	t->vip_port = m->ports.dest;
}

/* A flow that is not here yet. The edge has chosen the machine and the port; that
 * replies from there are recognized is what this host has to see to: where they
 * could be other flows', it remembers which. family: as in struct reply_key.
 * Returns a drop reason or 0. */
inline __u32 mesh_new_flow(struct mesh *m, const struct tuple *t, __u64 hash,
			   __u32 vip_index, __u8 family)
{
	struct reply_key key = {
		.slot = m->slot_index,
		.port = m->port,
		.proto = t->proto,
		.family = family,
	};
	struct reply *reply = map_lookup(replies, &key);
	struct flow values = {
		.internal_port = m->port,
		.slot = m->slot_index,
		.ifindex = m->from,
	};
	struct service *service;
	__u32 reason;
	__u64 gens;

	if (!reply) /* not known here yet, or not any more */
		return DROP_NO_SERVICE;
	values.service = reply->service;
	if (reply->flags & REPLY_UNIQUE && reply->port == t->vip_port &&
	    addr_equal(&reply->vip, &t->vip)) {
		gens = generations(m->slot, values.service);
	} else {
		service = service_find(vip_index, t->vip_port, t->proto, &reason);
		if (service)
			values.service = service->id;
		gens = generations(m->slot, values.service);
		if (!reverse_remember(m->settings, t, &values, m->slot, gens))
			return DROP_FLOW_CONFLICT;
	}
	flow_insert(m->settings, t, hash, &values, gens);
	count(COUNT_FLOW_NEW);
	return DROP_NONE;
}

/* Whether the packet is of a flow that goes to this machine; sets the port. */
inline bool mesh_old_flow(struct mesh *m, const struct tuple *t, __u64 hash,
			  __u32 how)
{
	struct flow *f = flow_find(m->settings, t, hash);
	__u8 state;

	if (!f || f->slot != m->slot_index || !flow_slot(f, hash))
		return false;
	m->port = f->internal_port;
	if (how & STEER_READONLY)
		return true;
	state = f->state & FLOW_REPLIED ? FLOW_CONFIRMED : 0;
	if (how & STEER_CLOSING)
		state |= FLOW_CLOSING;
	flow_touch(f, state);
	if (f->ifindex != m->from) /* the client's route moved */
		f->ifindex = m->from;
	return true;
}

/* Whether the client is a VM of this host: no other one sends for it. */
inline bool mesh_client_is_here(const struct mesh *m, const struct tuple *t,
				__u64 hash)
{
	struct flow *f;

	if (!in_alias(m->settings, bpf_ntohl(m->ip.saddr)))
		return false;
	f = flow_find(m->settings, t, hash);
	return f && !is_host_number(f->ifindex) && flow_slot(f, hash);
}

/* What the machine sends to some clients passes the mesh: their MSS limits it. */
inline bool mesh_client_mss(struct mesh *m)
{
	if (!(m->flags & TH_SYN))
		return true;
	if (!(m->settings->mesh_flags & MESH_RETURN_EDGE) &&
	    !in_alias(m->settings, bpf_ntohl(m->ip.saddr)))
		return true;
	return mss_lower(m->skb, m->l4, mesh_mss(m->settings));
}

inline int deliver_l4(struct mesh *m, __u32 vip_index)
{
	struct tuple tuple = {};
	__u32 how = 0, reason;
	__be32 daddr;
	__u64 hash;

	if (!mesh_load_l4(m) || !m->port)
		return mesh_drop(m, DROP_MESH_INNER);
	if (m->ip.protocol == IPPROTO_TCP)
		how = tcp_how(m->flags);
	mesh_tuple(m, &tuple);
	hash = tuple_hash(&tuple, m->settings->seed);
	if (mesh_client_is_here(m, &tuple, hash))
		return mesh_drop(m, DROP_MESH_SOURCE);
	if (how & STEER_NEW || !mesh_old_flow(m, &tuple, hash, how)) {
		reason = mesh_new_flow(m, &tuple, hash, vip_index, 0);
		if (reason)
			return mesh_drop(m, reason);
	}
	daddr = machine_addr(m->slot, m->ip.protocol);
	if (is_fragment(&m->ip)) {
		struct frag_key key = mesh_frag_key(m);
		struct frag frag = {
			.slot = m->slot_index,
			.generation = m->slot->generation,
			.new_addr = daddr,
			.seen = clock_seen(),
		};

		map_update(fragments, &key, &frag);
	}
	if (!mesh_client_mss(m) || !mesh_rewrite_l4(m, daddr, m->port))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_IN);
	return mesh_to_slot(m, m->slot);
}

inline int deliver_fragment(struct mesh *m)
{
	struct frag_key key = mesh_frag_key(m);
	struct frag *frag = map_lookup(fragments, &key);

	if (!frag || frag->slot != m->slot_index ||
	    frag->generation != m->slot->generation || !frag_is_fresh(frag))
		return mesh_drop(m, DROP_FRAG_NO_FIRST);
	if (!mesh_store_daddr(m, frag->new_addr))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_IN);
	return mesh_to_slot(m, m->slot);
}

struct error {
	struct icmphdr icmp;
	struct iphdr ip; /* the quoted one's */
};

/* The quoted packet as the machine itself sent it; ports: as quoted. */
inline bool error_rewrite(struct mesh *m, struct error *e, __u32 ports_at,
			  __be16 port, __be32 addr)
{
	__u16 check = e->ip.check;
	__u64 delta;

	csum_apply(&e->ip.check, csum_delta4(e->ip.saddr, addr));
	delta = csum_delta4(e->ip.saddr, addr) + csum_delta2(check, e->ip.check) +
		csum_delta2(port, m->port);
	csum_apply(&e->icmp.checksum, delta);
	e->ip.saddr = addr;
	return !bpf_skb_store_bytes(m->skb, m->l4, e, sizeof(*e), 0) &&
	       !bpf_skb_store_bytes(m->skb, ports_at, &m->port, sizeof(m->port), 0);
}

/* An ICMP error about what the machine sent as a VIP, as icmp_error_rewrite. */
inline int deliver_icmp(struct mesh *m)
{
	struct tuple tuple = {};
	struct ports ports;
	struct error e;
	__u32 header;
	__be32 addr;

	if (is_fragment(&m->ip) || m->l4_room < sizeof(e) + 8 ||
	    bpf_skb_load_bytes(m->skb, m->l4, &e, sizeof(e)) ||
	    !icmp_is_error(e.icmp.type))
		return mesh_drop(m, DROP_MESH_INNER);
	header = e.ip.ihl * 4;
	if (e.ip.version != 4 || header < sizeof(e.ip) ||
	    m->l4_room < sizeof(e.icmp) + header + 8 ||
	    bpf_skb_load_bytes(m->skb, m->l4 + sizeof(e.icmp) + header, &ports,
			       sizeof(ports)))
		return mesh_drop(m, DROP_MESH_INNER);
	tuple.proto = e.ip.protocol;
	addr_from_ipv4(&tuple.client, e.ip.daddr);
	addr_from_ipv4(&tuple.vip, e.ip.saddr);
	tuple.client_port = ports.dest;
	tuple.vip_port = ports.source;
	if (e.ip.saddr != m->ip.daddr || is_later_fragment(&e.ip) ||
	    !mesh_old_flow(m, &tuple, tuple_hash(&tuple, m->settings->seed),
			   STEER_READONLY))
		return mesh_drop(m, DROP_ICMP_NO_FLOW);
	addr = machine_addr(m->slot, e.ip.protocol);
	if (!error_rewrite(m, &e, m->l4 + sizeof(e.icmp) + header, ports.source,
			   addr) ||
	    !mesh_store_daddr(m, addr))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_MESH_IN);
	return mesh_to_slot(m, m->slot);
}

/* The machine's number and port are what the edge put into the outer address. */
inline int mesh_deliver(struct mesh *m, __u32 machine)
{
	const struct settings *s = m->settings;
	__u32 vip_index, source;

	m->slot = mesh_slot(m, 0, machine);
	if (!m->slot)
		return mesh_drop(m, DROP_MESH_MACHINE);
	vip_index = pool_index(s, bpf_ntohl(m->ip.daddr));
	source = bpf_ntohl(m->ip.saddr);
	if (vip_index == NOT_IN_POOLS || (!in_alias(s, source) && bad_source(s, source)))
		return mesh_drop(m, DROP_MESH_INNER);
	if (is_later_fragment(&m->ip))
		return deliver_fragment(m);
	if (m->ip.protocol == IPPROTO_TCP || m->ip.protocol == IPPROTO_UDP)
		return deliver_l4(m, vip_index);
	if (m->ip.protocol == IPPROTO_ICMP)
		return deliver_icmp(m);
	return mesh_drop(m, DROP_MESH_INNER);
}

#endif
