/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is too long for the mesh: the VM is told (RFC 4443, 3.2), by its gateway,
 * the one router that it knows. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM6_BIG_H
#define FLYEBPF_VM6_BIG_H

#include "icmp_limit.h"
#include "vm6_packet.h"

#define BIG_HOP_LIMIT 64
#define BIG_HEADERS (sizeof(struct ip6) + sizeof(struct icmp6))
/* As much as the smallest MTU has room for (RFC 4443, 2.4 c). */
#define BIG_QUOTE (1280 - BIG_HEADERS)
#define DIFF_MAX 512 /* what bpf_csum_diff takes at once, on Linux 6.1 */

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

inline __u64 big_sum(const void *data, __u32 size, __u64 sum)
{
	return sum + (__u32)bpf_csum_diff(0, 0, (void *)data, size, 0);
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
	*sum = big_sum(quote, DIFF_MAX, 0);
	*sum = big_sum(quote + DIFF_MAX, DIFF_MAX, *sum);
	*sum = big_sum(quote + 2 * DIFF_MAX, BIG_QUOTE - 2 * DIFF_MAX, *sum);
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
			const struct addr *asker, __u64 sum)
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
	icmp->type = ICMP6_TOO_BIG;
	icmp->code = 0;
	icmp->rest = bpf_htonl(p->settings->mesh_mtu);
	sum += vm6_pseudo(ip, sizeof(*icmp) + BIG_QUOTE);
	icmp->checksum = csum_fold(sum + bpf_htons(ICMP6_TOO_BIG << 8) +
				   (__u64)icmp->rest);
}

/* Always ends the packet: counted as DROP_TOO_BIG whether or not it is answered. */
inline int vm6_too_big(const struct vm6 *p)
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
	big_headers(p, ip, &asker, sum);
	count(COUNT_TOO_BIG);
	return bpf_redirect(skb->ifindex, 0);
}

#endif
