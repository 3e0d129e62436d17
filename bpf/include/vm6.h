/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IPv6 from a VM. Included by vm_tc.c only.
 *
 * Extension headers never open anything: what stays on the link is taken only
 * without them, and a machine of the same network could be reached as well
 * without them. Later fragments go where their addresses say. */
#ifndef FLYEBPF_VM6_H
#define FLYEBPF_VM6_H

#include "vm6_nd.h"
#include "vm6_sixpn.h"

/* Who listens to which groups (RFC 3810): with nobody else on the link, nobody
 * has to know. Everything else to groups has nobody to reach. */
inline int vm6_multicast(const struct vm6 *p)
{
	if (!vm6_is_icmp(p) || p->upper.fragment)
		return tc_drop(p->skb, DROP_VM_MULTICAST);
	if (p->type == ICMP6_MLD_QUERY)
		return tc_drop(p->skb, DROP_ND_TYPE);
	if (p->type != ICMP6_MLD_REPORT && p->type != ICMP6_MLD_DONE &&
	    p->type != ICMP6_MLD2_REPORT)
		return tc_drop(p->skb, DROP_VM_MULTICAST);
	return nd_end();
}

/* The gateway answers a ping, and is nothing more. */
inline int vm6_link_local(struct vm6 *p)
{
	struct icmp6 *icmp;
	struct ip6 *ip;

	if (!ip6_is_gateway(&p->ip->dst) || p->upper.extended ||
	    !vm6_is_icmp(p) || p->type != ICMP6_ECHO || p->code)
		return tc_drop(p->skb, DROP_LINK_LOCAL);
	if (p->from == FROM_NOBODY)
		return tc_drop(p->skb, DROP_SPOOFED_IP);
	if (bpf_skb_pull_data(p->skb, IP6_END + sizeof(*icmp)))
		return tc_drop(p->skb, DROP_REWRITE);
	ip = ip6_header(p->skb);
	if (!ip)
		return tc_drop(p->skb, DROP_REWRITE);
	icmp = (void *)(ip + 1);
	if ((void *)(icmp + 1) > (void *)(long)p->skb->data_end)
		return tc_drop(p->skb, DROP_REWRITE);
	ip->dst = ip->src;
	ip->hop_limit = BIG_HOP_LIMIT;
	vm6_turn(p, ip);
	icmp->type = ICMP6_ECHO_REPLY;
	csum_apply(&icmp->checksum, csum_delta2(bpf_htons(ICMP6_ECHO << 8),
						bpf_htons(ICMP6_ECHO_REPLY << 8)));
	count(COUNT_ECHO);
	return bpf_redirect(p->skb->ifindex, 0);
}

inline int vm6(struct __sk_buff *skb, const struct settings *settings,
	       const struct slot *slot, __u32 slot_index)
{
	struct vm6 p = {
		.skb = skb,
		.settings = settings,
		.slot = slot,
		.slot_index = slot_index,
	};
	__u32 reason = vm6_load(&p);
	const struct ethhdr *eth;

	if (reason)
		return tc_drop(skb, reason);
	if (vm6_is_icmp(&p) && p.type >= ICMP6_ROUTER_SOLICIT &&
	    p.type <= ICMP6_REDIRECT)
		return vm6_nd(&p);
	if (ip6_is_multicast(&p.ip->dst))
		return vm6_multicast(&p);
	eth = (void *)p.ip - IP6_AT;
	if (eth->h_dest[0] & 1)
		return tc_drop(skb, DROP_VM_MULTICAST);
	if (in_sixpn(&p.ip->dst))
		return vm6_sixpn(&p);
	if (ip6_is_link_local(&p.ip->dst))
		return vm6_link_local(&p);
	return TC_ACT_UNSPEC; /* an answer to a client, or nothing: vm6_tc.c */
}

#endif
