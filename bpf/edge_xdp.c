/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* XDP on the uplinks: packets for the operator's pools go to machines or their
 * hosts, packets for private addresses go nowhere, everything else is not ours.
 *
 * Reads as a list of decisions: edge_xdp, then edge_l4 or edge_icmp. A reason
 * other than DROP_NONE ends it. Once a packet has been changed it is delivered
 * or dropped, never passed. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "packet.h"
#include "csum.h"
#include "edge_rewrite.h"
#include "edge_icmp.h"
#include "edge_mesh.h"
#include "edge_reset.h"
#include "edge6.h"

inline int drop(__u32 reason, const struct frame *frame)
{
	count_drop(reason, frame->end - frame->data);
	return XDP_DROP;
}

/* The proxy is a process of this host: its packets are the stack's. */
inline int pass_proxy(const struct settings *s, const struct frame *frame)
{
	if (!s->proxy)
		return drop(DROP_NEEDS_PROXY, frame);
	count(COUNT_PROXY);
	return XDP_PASS;
}

/* A later fragment follows its first one (RFC 791; no ports of its own). */
inline int edge_fragment(struct xdp_md *ctx, struct frame *frame,
			 const struct settings *s)
{
	struct frag_key key = frag_key_of(frame->ip, 0);
	struct frag *frag = map_lookup(fragments, &key);
	struct slot *slot = frag ? get_slot(frag->slot) : 0;
	__u32 length = bpf_ntohs(frame->ip->tot_len);

	if (!slot || !(slot->flags & SLOT_LIVE) ||
	    slot->generation != frag->generation || !frag_is_fresh(frag))
		return drop(DROP_FRAG_NO_FIRST, frame);
	if (slot->flags & SLOT_REMOTE) {
		struct target to = { .slot = slot, .service = frag->service };

		return edge_remote(frame, s, &to, 0);
	}
	count_in(frag->service, length, false);
	rewrite_ip(frame->ip, frag->new_addr);
	return deliver(ctx, frame->data, slot);
}

/* TCP and UDP. */
inline int edge_l4(struct xdp_md *ctx, struct frame *frame,
		   const struct settings *s, __u32 vip_index)
{
	struct tuple tuple = { .proto = frame->ip->protocol };
	struct iphdr *ip = frame->ip;
	struct target to = {};
	__be32 new_addr;
	__u32 reason, how = 0;

	reason = l4_check(frame, &how);
	if (reason)
		return drop(reason, frame);
	addr_from_ipv4(&tuple.client, ip->saddr);
	addr_from_ipv4(&tuple.vip, ip->daddr);
	tuple.client_port = frame->ports->source;
	tuple.vip_port = frame->ports->dest;
	reason = steer(s, &tuple, vip_index, ctx->ingress_ifindex, how, &to);
	if (reason == DROP_NO_BACKEND && ip->protocol == IPPROTO_TCP &&
	    !is_fragment(ip))
		return edge_reset(ctx, frame);
	if (reason == DROP_NEEDS_PROXY && !is_fragment(ip))
		return pass_proxy(s, frame);
	if (reason)
		return drop(reason, frame);
	new_addr = machine_addr(to.slot, ip->protocol);
	if (is_fragment(ip))
		remember_fragment(ip, &to, new_addr);
	if (to.slot->flags & SLOT_REMOTE)
		return edge_remote(frame, s, &to, to.internal_port);
	count_in(to.service, bpf_ntohs(ip->tot_len), to.new_flow);
	if (!rewrite_l4(frame, new_addr, to.internal_port))
		return drop(DROP_REWRITE, frame);
	return deliver(ctx, frame->data, to.slot);
}

inline int edge_icmp(struct xdp_md *ctx, struct frame *frame,
		     const struct settings *s, __u32 vip_index)
{
	struct icmphdr *icmp = frame->l4;
	struct vip *vip = map_lookup(vips, &vip_index);
	struct target to = {};
	__u32 reason;

	if (is_fragment(frame->ip))
		return drop(DROP_ICMP_FRAGMENT, frame);
	if ((void *)(icmp + 1) > frame->end || frame->l4_room < sizeof(*icmp))
		return drop(DROP_BAD_L4_HEADER, frame);
	if ((!vip || !(vip->flags & VIP_ALLOCATED)) &&
	    !pool_is_shared(s, vip_index))
		return drop(DROP_VIP_UNALLOCATED, frame);
	if (icmp->type == ICMP_ECHO && icmp->code == 0) {
		echo_answer(frame, icmp);
		count(COUNT_ECHO);
		return XDP_TX;
	}
	if (!icmp_is_error(icmp->type))
		return drop(DROP_ICMP_TYPE, frame);
	reason = icmp_error_rewrite(frame, icmp, s, vip_index, &to);
	if (reason == DROP_NEEDS_PROXY && s->proxy)
		return pass_proxy(s, frame);
	if (reason == DROP_NEEDS_PROXY)
		reason = DROP_ICMP_NO_FLOW;
	if (reason)
		return drop(reason, frame);
	if (to.slot->flags & SLOT_REMOTE)
		return edge_remote(frame, s, &to, 0);
	count_in(to.service, bpf_ntohs(frame->ip->tot_len), false);
	return deliver(ctx, frame->data, to.slot);
}

/* A packet for an address of the pools. Returns a verdict or EDGE_*. */
inline int edge_vip(struct xdp_md *ctx, struct frame *frame,
		    const struct settings *s, __u32 vip_index)
{
	__u32 reason = frame_check_ipv4(frame, s);

	if (reason)
		return drop(reason, frame);
	if (is_later_fragment(frame->ip))
		return edge_fragment(ctx, frame, s);
	if (frame->ip->protocol == IPPROTO_TCP ||
	    frame->ip->protocol == IPPROTO_UDP)
		return edge_l4(ctx, frame, s, vip_index);
	if (frame->ip->protocol == IPPROTO_ICMP)
		return edge_icmp(ctx, frame, s, vip_index);
	return drop(DROP_PROTO, frame);
}

int edge_xdp(struct xdp_md *ctx)
{
	struct frame frame = {
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct settings *s;
	__u32 vip_index;
	int verdict;

	if (frame_has(&frame, ETH_P_IPV6)) {
		struct frame6 six = { .data = frame.data, .end = frame.end };

		return edge_ipv6(ctx, &six);
	}
	if (!frame_has_ipv4(&frame))
		return XDP_PASS;
	s = get_settings();
	if (!s || !s->flow_buckets) /* not written yet: nothing is ours */
		return XDP_PASS;
	vip_index = pool_index(s, bpf_ntohl(frame.ip->daddr));
	if (vip_index == NOT_IN_POOLS) {
		if (in_private(s, bpf_ntohl(frame.ip->daddr)) ||
		    in_alias(s, bpf_ntohl(frame.ip->daddr)))
			return drop(DROP_PRIVATE_DST, &frame);
		return XDP_PASS;
	}
	verdict = edge_vip(ctx, &frame, s, vip_index);
	if (verdict == EDGE_MESH)
		return edge_encapsulate(ctx, &frame, s);
	if (verdict == EDGE_TOO_BIG)
		return edge_too_big(ctx, &frame, s);
	return verdict;
}
