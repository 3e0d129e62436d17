/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IPv6 at the edge: the same decisions as for IPv4, and the same tables. A machine
 * gets a client's packet at its 6PN address. Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE6_H
#define FLYEBPF_EDGE6_H

#include "edge6_answer.h"
#include "edge6_icmp.h"

/* The machine is known; as edge_remote. */
inline int edge6_remote(struct frame6 *f, const struct settings *s,
			const struct target *to, __be16 port)
{
	return edge_onward(&f->onward, s, to, port, length6(f->ip),
			   f->end - f->data);
}

/* A later fragment follows its first one. */
inline int edge6_fragment(struct xdp_md *ctx, struct frame6 *f,
			  const struct settings *s)
{
	struct frag6_key key = {};
	struct frag6 *frag = 0;
	struct slot *slot;
	struct addr daddr;

	if (frame6_frag_key(ctx, f, &key))
		frag = map_lookup(fragments6, &key);
	slot = frag ? get_slot(frag->slot) : 0;
	if (!slot || !(slot->flags & SLOT_LIVE) ||
	    !frag6_is_fresh(frag) ||
	    frag->generation != frag6_generation(slot, frag->service))
		return drop6(DROP_FRAG_NO_FIRST, f);
	if (slot->flags & SLOT_REMOTE) {
		struct target to = { .slot = slot, .service = frag->service };

		return edge6_remote(f, s, &to, 0);
	}
	count_in(frag->service, length6(f->ip), false);
	machine6_addr(&daddr, slot);
	rewrite6_ip(f->ip, &daddr);
	return deliver(ctx, f->data, slot);
}

inline bool edge6_remember_fragment(struct xdp_md *ctx, const struct frame6 *f,
				    const struct target *to)
{
	struct frag6_key key = {};
	struct frag6 frag = {
		.slot = to->slot_index,
		.generation = frag6_generation(to->slot, to->service),
		.service = to->service,
		.seen = clock_seen(),
	};

	if (!frame6_frag_key(ctx, f, &key))
		return false;
	map_update(fragments6, &key, &frag);
	return true;
}

/* TCP and UDP: the flow. Returns a drop reason or 0. */
inline __u32 edge6_l4(struct frame6 *f, struct tuple *tuple, __u32 *how)
{
	__u32 reason;

	*how = 0;
	reason = l4_check6(f, how);
	if (reason)
		return reason;
	tuple->client = f->ip->src;
	tuple->vip = f->ip->dst;
	tuple->client_port = f->ports->source;
	tuple->vip_port = f->ports->dest;
	tuple->proto = f->upper.proto;
	return DROP_NONE;
}

/* To the machine of the flow, an error (icmp) as what it quotes says. */
inline int edge6_flow(struct xdp_md *ctx, struct frame6 *f, const struct settings *s,
		      const struct target *to, bool icmp)
{
	struct addr daddr;

	if (f->upper.more && !edge6_remember_fragment(ctx, f, to))
		return drop6(DROP_REWRITE, f);
	if (to->slot->flags & SLOT_REMOTE)
		return edge6_remote(f, s, to, icmp ? 0 : to->internal_port);
	count_in(to->service, length6(f->ip), to->new_flow);
	machine6_addr(&daddr, to->slot);
	if (!(icmp ? icmp6_rewrite(f, &daddr, to->internal_port) :
		     rewrite6_l4(f, &daddr, to->internal_port)))
		return drop6(DROP_REWRITE, f);
	return deliver(ctx, f->data, to->slot);
}

/* TCP, UDP, and errors about them. */
inline int edge6_steer(struct xdp_md *ctx, struct frame6 *f,
		       const struct settings *s, __u32 vip_index)
{
	const bool icmp = f->upper.proto == NEXT_ICMP6;
	__u32 reason = DROP_NONE, how = STEER_READONLY;
	struct tuple tuple = {};
	struct target to = {};
	int verdict = 0;

	if (icmp)
		verdict = edge6_icmp(f, s, vip_index, &tuple);
	else
		reason = edge6_l4(f, &tuple, &how);
	if (verdict)
		return verdict;
	if (reason)
		return drop6(reason, f);
	reason = steer(s, &tuple, vip_index, ctx->ingress_ifindex, how, &to);
	/* who has no private network has no address for it either */
	if (!reason && !(to.slot->flags & SLOT_REMOTE) && !to.slot->network)
		reason = DROP_NO_BACKEND;
	if (!reason)
		return edge6_flow(ctx, f, s, &to, icmp);
	if (reason == DROP_NEEDS_PROXY && s->proxy && !f->upper.more) {
		count(COUNT_PROXY); /* a process of this host */
		return XDP_PASS;
	}
	if (icmp)
		return drop6(DROP_ICMP_NO_FLOW, f);
	if (reason == DROP_NO_BACKEND && f->upper.proto == IPPROTO_TCP &&
	    !f->upper.more)
		return edge6_reset(ctx, f);
	return drop6(reason, f);
}

/* A packet for an address of the pools. Returns a verdict or EDGE_*. */
inline int edge6_vip(struct xdp_md *ctx, struct frame6 *f, const struct settings *s,
		     __u32 vip_index)
{
	__u32 reason = frame6_check(ctx, f, s);

	if (reason)
		return drop6(reason, f);
	if (f->upper.later)
		return edge6_fragment(ctx, f, s);
	reason = frame6_settle(f, s);
	if (reason)
		return drop6(reason, f);
	if (f->upper.proto != IPPROTO_TCP && f->upper.proto != IPPROTO_UDP &&
	    f->upper.proto != NEXT_ICMP6)
		return drop6(DROP_PROTO, f);
	return edge6_steer(ctx, f, s, vip_index);
}

inline int edge6_encapsulate(struct xdp_md *ctx, struct frame6 *f,
			     const struct settings *s)
{
	f->ip->hop_limit--;
	return edge_carry(ctx, s, &f->onward, NEXT_IPV6, length6(f->ip),
			  f->end - f->data, *(struct ethhdr *)f->data);
}

/* Addresses of machines and of the mesh mean nothing outside of it. */
inline int edge_ipv6(struct xdp_md *ctx, struct frame6 *f)
{
	struct settings *s;
	__u32 vip_index;
	int verdict;

	f->ip = f->data + IP6_AT;
	if ((void *)(f->ip + 1) > f->end)
		return XDP_PASS;
	if (in_sixpn(&f->ip->src) || in_sixpn(&f->ip->dst))
		return drop6(DROP_MESH_OUTSIDE, f);
	s = get_settings();
	if (!s || !s->flow_buckets) /* not written yet: nothing is ours */
		return XDP_PASS;
	vip_index = pool6_index(s, &f->ip->dst);
	if (vip_index == NOT_IN_POOLS)
		return XDP_PASS;
	verdict = edge6_vip(ctx, f, s, vip_index);
	if (verdict == EDGE_MESH)
		return edge6_encapsulate(ctx, f, s);
	if (verdict == EDGE_TOO_BIG)
		return edge6_too_big(ctx, f, s);
	return verdict;
}

#endif
