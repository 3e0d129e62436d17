/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A machine's answer over IPv6 becomes its VIP's, and leaves. Included by vm6_tc.c
 * only. */
#ifndef FLYEBPF_VM6_SEND_H
#define FLYEBPF_VM6_SEND_H

#include "mesh_send.h"
#include "mss.h"
#include "route.h"
#include "tc_rewrite.h"
#include "vm6_answer.h"
#include "vm6_big.h"
#include "vm6_offload.h"

/* Source address, in place, and one hop less. Nothing was changed before the
 * checksums were. */
inline bool send6_source(struct vm6 *p, const struct addr *vip)
{
	p->ip = ip6_header(p->skb);
	if (!p->ip)
		return false;
	p->ip->src = *vip;
	p->ip->hop_limit--;
	return true;
}

/* The quoted packet as the client sent it. */
inline bool send6_quote(struct vm6 *p, struct answer6 *a, __u64 delta)
{
	const __u32 at = p->upper.at, quoted = at + sizeof(struct icmp6);

	delta = 2 * delta + csum_delta2(a->key.internal_port, a->to.port);
	return !bpf_l4_csum_replace(p->skb, at + 2, 0, fold32(delta),
				    BPF_F_PSEUDO_HDR) &&
	       !bpf_skb_store_bytes(p->skb,
				    quoted + __builtin_offsetof(struct ip6, dst),
				    &a->to.vip, sizeof(a->to.vip), 0) &&
	       !bpf_skb_store_bytes(p->skb, quoted + sizeof(struct ip6) + DEST_PORT,
				    &a->to.port, sizeof(a->to.port), 0);
}

/* The packet as the client should see it. */
inline bool send6_rewrite(struct vm6 *p, struct answer6 *a)
{
	__u64 delta = csum_delta_addr(&p->ip->src, &a->to.vip);

	if (a->to.kind == ANSWER_L4 &&
	    !tc_rewrite_l4(p->skb, p->upper.at, p->upper.proto, delta, SOURCE_PORT,
			   a->key.internal_port, a->to.port))
		return false;
	if (a->to.kind == ANSWER_ICMP && !send6_quote(p, a, delta))
		return false;
	return send6_source(p, &a->to.vip);
}

/* Back to the edge that the client came in at. */
inline int send6_mesh(struct vm6 *p, __u32 host)
{
	__u32 reason = mesh_encapsulate(p->skb, p->settings, NEXT_IPV6,
					p->upper.end - IP6_AT, host, 0, 0);

	if (reason)
		return tc_drop(p->skb, reason);
	count(COUNT_MESH_RETURN);
	return mesh_send(p->skb, p->settings, host);
}

/* Whether it goes back to the edge rather than out here. */
inline bool send6_by_mesh(const struct vm6 *p, struct answer6 *a)
{
	return is_host_number(a->to.ifindex) &&
	       p->settings->mesh_flags & MESH_RETURN_EDGE;
}

/* Whether it may leave, and where; ifindex: as in struct flow, and then of the
 * uplink. Returns a drop reason or 0. */
inline __u32 send6_check(struct vm6 *p, struct answer6 *a, __u32 *ifindex)
{
	__u32 reason = vm6_check_offload(p);

	if (reason)
		return reason;
	p->partial += p->settings->zero; /* as in ip6_settle() */
	if (a->to.kind == ANSWER_ICMP && p->partial)
		return DROP_BAD_L4_HEADER; /* the quote's part of it is not seen */
	if (send6_by_mesh(p, a))
		return p->settings->mesh_mtu ? DROP_NONE : DROP_NO_HOST;
	return reply6_route(p->skb, p->settings, &a->to.vip, &p->ip->dst, ifindex);
}

inline int vm6_send(struct vm6 *p, struct answer6 *a)
{
	const __u32 fits = p->settings->mesh_mtu - sizeof(struct mesh_header);
	const bool by_mesh = send6_by_mesh(p, a);
	__u32 ifindex = a->to.ifindex;
	__u32 reason = send6_check(p, a, &ifindex);

	if (reason)
		return tc_drop(p->skb, reason);
	if (by_mesh && vm6_wire_length(p) > fits)
		return vm6_too_big(p, fits);
	count_out(a->to.service, p->upper.end - IP6_AT);
	if (p->upper.more && !p->upper.later)
		answer6_remember(p, a);
	/* What the client sends passes the mesh: the machine's MSS limits it. */
	if (a->syn && is_host_number(a->to.ifindex)) {
		if (!mss_lower(p->skb, p->upper.at, mesh_mss6(p->settings)))
			return tc_drop(p->skb, DROP_REWRITE);
		p->ip = ip6_header(p->skb);
		if (!p->ip)
			return tc_drop(p->skb, DROP_REWRITE);
	}
	if (!send6_rewrite(p, a))
		return tc_drop(p->skb, DROP_REWRITE);
	return by_mesh ? send6_mesh(p, ifindex) : send_uplink(ifindex);
}

#endif
