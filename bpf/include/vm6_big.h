/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is too long for the mesh: the VM is told (RFC 4443, 3.2), by its gateway,
 * the one router that it knows. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM6_BIG_H
#define FLYEBPF_VM6_BIG_H

#include "icmp6_big.h"
#include "vm6_packet.h"

/* Of a packet; of a train, of each segment. */
inline __u32 vm6_wire_length(const struct vm6 *p)
{
	__u32 header = sizeof(struct udphdr);
	__u8 doff;

	/* What follows the packet in its frame would be sent as well. */
	if (!p->skb->gso_size)
		return p->skb->len - IP6_AT;
	if (p->upper.proto == IPPROTO_TCP &&
	    !bpf_skb_load_bytes(p->skb, p->upper.at + 12, &doff, sizeof(doff)))
		header = (doff >> 4) * 4;
	return p->upper.at - IP6_AT + header + p->skb->gso_size;
}

/* The quoted packet's sum. If its checksum is still to be filled in, that will
 * happen within the quote, and what it covers will then sum up to the inverse of
 * what stands in its place now. */
inline bool quote_sum(const struct vm6 *p, const void *quote, const void *end,
		      __be16 in_place, __u64 *sum)
{
	__u32 before = p->upper.at - IP6_AT;

	if (quote + BIG_QUOTE > end)
		return false;
	*sum = (__u16)~in_place;
	if (p->partial) {
		if (before > DIFF_MAX)
			return false;
		*sum = big_sum(quote, before, *sum);
		return true;
	}
	*sum = big_quote_sum(quote);
	return true;
}

/* Errors are not answered (RFC 4443, 2.4 e), nor is what could not be quoted. */
inline bool big_may_answer(const struct vm6 *p)
{
	return p->skb->len >= IP6_AT + BIG_QUOTE &&
	       !(vm6_is_icmp(p) && p->type < ICMP6_ECHO) &&
	       (!p->partial || p->upper.proto == IPPROTO_TCP ||
		p->upper.proto == IPPROTO_UDP);
}

/* Ethernet, IPv6 and ICMPv6 before the quote. */
inline void big_headers(const struct vm6 *p, struct ip6 *ip,
			const struct addr *asker, __u32 mtu, __u64 sum)
{
	struct icmp6 *icmp = (void *)(ip + 1);
	struct ethhdr *eth = (void *)ip - IP6_AT;

	eth->h_proto = bpf_htons(ETH_P_IPV6);
	ip->version = bpf_htonl(6U << 28);
	ip->length = bpf_htons(sizeof(*icmp) + BIG_QUOTE);
	ip->next = NEXT_ICMP6;
	ip->hop_limit = BIG_HOP_LIMIT;
	ip->dst = *asker;
	vm6_turn(p, ip);
	big_icmp(ip, icmp, mtu, sum);
}

/* Always ends the packet: counted as DROP_TOO_BIG whether or not it is answered.
 * mtu: what fits. */
inline int vm6_too_big(const struct vm6 *p, __u32 mtu)
{
	struct __sk_buff *skb = p->skb;
	struct addr asker = p->ip->src;
	__be16 in_place = 0;
	struct ip6 *ip;
	__u64 sum;

	count_drop(DROP_TOO_BIG, skb->len);
	if (!big_may_answer(p) || !icmp_may_send(ICMP_OF_VM(p->slot_index)))
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb,
			       p->upper.at +
				       (p->upper.proto == IPPROTO_TCP ? 16 : 6),
			       &in_place, sizeof(in_place)) ||
	    bpf_skb_change_tail(skb, IP6_AT + BIG_QUOTE, 0) ||
	    bpf_skb_change_head(skb, BIG_HEADERS, 0) ||
	    bpf_skb_pull_data(skb, IP6_AT + BIG_HEADERS + BIG_QUOTE))
		return TC_ACT_SHOT;
	ip = ip6_header(skb);
	if (!ip || !quote_sum(p, (void *)ip + BIG_HEADERS,
			      (void *)(long)skb->data_end, in_place, &sum))
		return TC_ACT_SHOT;
	big_headers(p, ip, &asker, mtu, sum);
	count(COUNT_TOO_BIG);
	return bpf_redirect(skb->ifindex, 0);
}

#endif
