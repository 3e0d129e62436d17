/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Neighbour and router messages of a VM (RFC 4861). Nobody else is on its link:
 * every address but its own is behind its gateway, and the answer comes from
 * here. Nothing of this ever goes to another machine. Included by vm_tc.c only.
 */
#ifndef FLYEBPF_VM6_ND_H
#define FLYEBPF_VM6_ND_H

#include "vm6_packet.h"
#include "vm_arp.h"

#define ND_OPTIONS_MAX 3 /* link-layer address, nonce, and one more */
#define ND_SOURCE_MAC 1
#define ND_TARGET_MAC 2
#define ND_HOP_LIMIT 255

/* router, solicited, override (RFC 4861, 4.4) */
#define ND_ADVERT_FLAGS 0xe0000000

struct nd_option {
	__u8 type;
	__u8 length; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
};

/* A solicitation or advertisement; a router solicitation has no target and its
 * options there. */
struct nd {
	struct icmp6 icmp;
	struct addr target;
	struct nd_option option[ND_OPTIONS_MAX];
};
#define ND_FIXED (sizeof(struct icmp6) + sizeof(struct addr))
#define ND_ANSWER (ND_FIXED + sizeof(struct nd_option))

/* Whatever it says of link-layer addresses is the machine's own. Takes as many
 * units of 8 bytes as the message has room for; what is not there is zero.
 * Returns a drop reason or 0. */
inline __u32 nd_check_options(const struct vm6 *p, const struct nd_option *option,
			      __u32 units)
{
	__u32 inside = 0; /* units of an option that still follow its first */

#pragma unroll
	for (__u32 i = 0; i < ND_OPTIONS_MAX; i++) {
		if (i >= units)
			return DROP_NONE;
		if (inside) {
			inside--;
			continue;
		}
		if (!option[i].length || option[i].length > units - i)
			return DROP_BAD_L4_HEADER;
		inside = option[i].length - 1;
		if ((option[i].type == ND_SOURCE_MAC ||
		     option[i].type == ND_TARGET_MAC) &&
		    (inside || !mac_equal(option[i].mac, p->slot->mac)))
			return DROP_SPOOFED_ND;
	}
	return DROP_NONE;
}

/* The message, whole and sound (RFC 4861, 6.1 and 7.1). Returns a drop reason
 * or 0. */
inline __u32 nd_load(const struct vm6 *p, struct nd *nd)
{
	/* 64 bits: of a copy the verifier would not know the bounds */
	__u64 length = p->upper.end - p->upper.at;
	__u32 fixed = p->type == ICMP6_ROUTER_SOLICIT ? sizeof(struct icmp6) :
							ND_FIXED;
	__u64 sum;

	if (length < fixed || length > fixed + sizeof(nd->option) || length % 8 ||
	    p->code || p->ip->hop_limit != ND_HOP_LIMIT)
		return DROP_BAD_L4_HEADER;
	unfold(length); /* Linux 6.1 forgets what it knew of a value on the stack */
	if (!length || length > sizeof(*nd) ||
	    bpf_skb_load_bytes(p->skb, p->upper.at, nd, length))
		return DROP_TRUNCATED;
	sum = (__u32)bpf_csum_diff(0, 0, (void *)nd, sizeof(*nd), 0);
	if (csum_fold(sum + ip6_pseudo(p->ip, length, NEXT_ICMP6)))
		return DROP_BAD_L4_HEADER;
	if (p->type == ICMP6_ROUTER_SOLICIT)
		return nd_check_options(p, (void *)&nd->target,
					(length - fixed) / 8);
	return nd_check_options(p, nd->option, (length - fixed) / 8);
}

/* ff02::1:ffXX:XXXX, the last three bytes those of the address (RFC 4291). */
inline bool nd_is_group_of(const struct addr *group, const struct addr *target)
{
	return group->word[0] == bpf_htonl(0xff020000) && !group->word[1] &&
	       group->word[2] == bpf_htonl(1) &&
	       group->word[3] == (target->word[3] | bpf_htonl(0xff000000));
}

/* The frame becomes the answer. */
inline int nd_answer(const struct vm6 *p, const struct nd *nd)
{
	struct __sk_buff *skb = p->skb;
	struct addr asker;
	struct nd *out;
	struct ip6 *ip;

	if (bpf_skb_change_tail(skb, IP6_END + ND_ANSWER, 0) ||
	    bpf_skb_pull_data(skb, IP6_END + ND_ANSWER))
		return tc_drop(p->skb, DROP_REWRITE);
	ip = ip6_header(skb);
	if (!ip)
		return tc_drop(p->skb, DROP_REWRITE);
	out = (void *)(ip + 1);
	if ((void *)out + ND_ANSWER > (void *)(long)skb->data_end)
		return tc_drop(p->skb, DROP_REWRITE);
	asker = ip->src;
	ip->version = bpf_htonl(6U << 28);
	ip->length = bpf_htons(ND_ANSWER);
	ip->dst = asker;
	vm6_turn(p, ip);
	out->icmp.type = ICMP6_ADVERT;
	out->icmp.code = 0;
	out->icmp.checksum = 0;
	out->icmp.rest = bpf_htonl(ND_ADVERT_FLAGS);
	out->target = nd->target;
	out->option[0].type = ND_TARGET_MAC;
	out->option[0].length = 1;
	__builtin_memcpy(out->option[0].mac, p->slot->host_mac, ETH_ALEN);
	out->icmp.checksum = csum_fold(
		ip6_pseudo(ip, ND_ANSWER, NEXT_ICMP6) +
		(__u32)bpf_csum_diff(0, 0, (void *)out, ND_ANSWER, 0));
	return bpf_redirect(skb->ifindex, 0);
}

/* Heard, and nobody is there for whom it matters. */
inline int nd_end(void)
{
	count(COUNT_ND);
	return TC_ACT_SHOT;
}

inline int nd_solicit(const struct vm6 *p, const struct nd *nd)
{
	const struct addr *target = &nd->target;
	const struct addr *dst = &p->ip->dst;

	if (ip6_is_multicast(target) || ip6_is_zero(target))
		return tc_drop(p->skb, DROP_BAD_L4_HEADER);
	if (!nd_is_group_of(dst, target) &&
	    (!addr_equal(dst, target) || p->from == FROM_NOBODY))
		return tc_drop(p->skb, DROP_SPOOFED_ND);
	/* It only wants to know that nobody has its address (RFC 4862). */
	if (p->from == FROM_NOBODY || sixpn_is_of(target, p->slot))
		return nd_end();
	if (ip6_is_link_local(target) && !ip6_is_gateway(target))
		return tc_drop(p->skb, DROP_LINK_LOCAL);
	count(COUNT_ND);
	return nd_answer(p, nd);
}

inline int vm6_nd(const struct vm6 *p)
{
	struct nd nd = {};
	__u32 reason;

	if (p->upper.extended || p->type == ICMP6_ROUTER_ADVERT ||
	    p->type == ICMP6_REDIRECT)
		return tc_drop(p->skb, DROP_ND_TYPE);
	reason = nd_load(p, &nd);
	if (reason)
		return tc_drop(p->skb, reason);
	if (p->type == ICMP6_SOLICIT)
		return nd_solicit(p, &nd);
	if (p->type == ICMP6_ADVERT && !sixpn_is_of(&nd.target, p->slot) &&
	    (!ip6_is_link_local(&nd.target) || ip6_is_gateway(&nd.target)))
		return tc_drop(p->skb, DROP_SPOOFED_ND);
	return nd_end();
}

#endif
