/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of every VM's interface, after dns: what a VM sends to public IPv6
 * addresses.
 *
 * That is an answer to a client of a service, which leaves with the VIP as its
 * source, or it ends here: VMs have no public IPv6 address of their own. A program
 * of its own, so that vm_tc, which all packets pass, stays small.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "vm6_send.h"

inline int vm6_public(struct vm6 *p)
{
	struct answer6 answer = {};
	__u32 reason;

	/* It is delivered to one address, and only from there it is answered. */
	if (p->from != FROM_OWN ||
	    (bpf_ntohl(p->ip->src.word[3]) & 0xffff) != SIXPN_SUFFIX)
		return tc_drop(p->skb, DROP_IPV6);
	reason = answer6_of(p, &answer);
	if (!reason)
		reason = answer.fault;
	if (!reason && p->ip->hop_limit <= 1)
		reason = DROP_TTL;
	return reason ? tc_drop(p->skb, reason) : vm6_send(p, &answer);
}

int vm6_tc(struct __sk_buff *skb)
{
	struct vm6 p = { .skb = skb };
	__u32 *index, reason;

	p.settings = get_settings();
	index = p.settings ? vm_slot_of(p.settings, skb->ifindex) : 0;
	p.slot = index ? get_slot(*index) : 0;
	if (!p.slot || p.slot->ifindex != skb->ifindex)
		return tc_drop(skb, DROP_UNKNOWN_VM);
	p.slot_index = *index;
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return tc_drop(skb, DROP_ETHERTYPE);
	/* vm_tc has seen to this; nothing may depend on a filter's order */
	reason = vm6_load(&p);
	if (reason)
		return tc_drop(skb, reason);
	ip6_settle(&p.upper, p.settings);
	p.type += p.settings->zero;
	if (bad_source6(p.settings, &p.ip->dst)) /* no client has such an address */
		return tc_drop(skb, DROP_IPV6);
	return vm6_public(&p);
}
