/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* An IPv6 packet from a VM: who it is from, and what it is. Included by vm_tc.c
 * only. */
#ifndef FLYEBPF_VM6_PACKET_H
#define FLYEBPF_VM6_PACKET_H

#include "csum.h"
#include "ip6.h"
#include "packet.h"
#include "sixpn.h"
#include "tc.h"

#define FROM_OWN 0    /* the machine's own /112 */
#define FROM_LINK 1   /* fe80::/64: as the machine's kernel makes them up */
#define FROM_NOBODY 2 /* ::, before the machine has an address (RFC 4861) */

struct vm6 {
	struct __sk_buff *skb;
	const struct settings *settings;
	const struct slot *slot; /* the sender's */
	__u32 slot_index;
	struct ip6 *ip; /* in the frame: until that is changed */
	struct upper upper;
	__u8 from; /* FROM_* */
	__u8 type; /* of ICMPv6 */
	__u8 code;
	__u8 partial; /* not 0: its checksum is still to be filled in */
	__be16 sport; /* of UDP */
	__be16 dport;
};

/* MACs in a frame, a slot or a message are at even offsets at least. */
inline bool mac_is(const void *mac, const void *other)
{
	return *(__u32 *)mac == *(__u32 *)other &&
	       *(__u16 *)(mac + 4) == *(__u16 *)(other + 4);
}

inline void mac_set(void *mac, const void *from)
{
	*(__u32 *)mac = *(__u32 *)from;
	*(__u16 *)(mac + 4) = *(__u16 *)(from + 4);
}

inline __u32 vm6_source(struct vm6 *p)
{
	const struct addr *src = &p->ip->src;

	if (sixpn_is_of(src, p->slot)) {
		p->from = FROM_OWN;
		return DROP_NONE;
	}
	if (ip6_is_zero(src)) {
		p->from = FROM_NOBODY;
		return DROP_NONE;
	}
	p->from = FROM_LINK;
	if (src->word[0] != bpf_htonl(0xfe800000) || src->word[1] ||
	    ip6_is_gateway(src))
		return DROP_SPOOFED_IP;
	return DROP_NONE;
}

/* The first bytes of the upper layer, most often by direct access. */
inline bool vm6_peek(const struct vm6 *p, void *to, __u32 size)
{
	void *data = (void *)(long)p->skb->data;

	if (p->upper.at != IP6_END ||
	    data + IP6_END + size > (void *)(long)p->skb->data_end)
		return !bpf_skb_load_bytes(p->skb, p->upper.at, to, size);
	__builtin_memcpy(to, data + IP6_END, size);
	return true;
}

/* The upper layer's header has to be there whole (RFC 7112): what cannot be
 * looked at does not pass. Returns a drop reason or 0. */
inline __u32 vm6_upper(struct vm6 *p)
{
	__u8 proto = p->upper.proto;
	__u32 size = proto == IPPROTO_TCP ? sizeof(struct tcphdr) : 8;
	union {
		struct icmp6 icmp;
		struct ports ports;
	} head;

	if (p->upper.later || (proto != IPPROTO_TCP && proto != IPPROTO_UDP &&
			       proto != NEXT_ICMP6))
		return DROP_NONE;
	if (p->upper.at + size > p->upper.end)
		return p->upper.fragment ? DROP_FRAG_TINY : DROP_BAD_L4_HEADER;
	if (proto == IPPROTO_TCP)
		return DROP_NONE;
	if (!vm6_peek(p, &head, 4))
		return DROP_TRUNCATED;
	if (proto == IPPROTO_UDP) {
		p->sport = head.ports.source;
		p->dport = head.ports.dest;
	} else {
		p->type = head.icmp.type;
		p->code = head.icmp.code;
	}
	return DROP_NONE;
}

/* Returns a drop reason or 0. */
inline __u32 vm6_load(struct vm6 *p)
{
	const struct ethhdr *eth;
	__u32 reason;

	p->ip = ip6_load(p->skb);
	if (!p->ip)
		return DROP_TRUNCATED;
	eth = (void *)p->ip - IP6_AT;
	if (!mac_is(eth->h_source, p->slot->mac))
		return DROP_SPOOFED_MAC;
	if (p->skb->vlan_present || eth->h_proto != bpf_htons(ETH_P_IPV6))
		return DROP_ETHERTYPE;
	reason = ip6_measure(p->skb, p->ip, &p->upper);
	if (!reason)
		reason = vm6_source(p);
	if (!reason && ip6_is_extension(p->upper.proto))
		reason = ip6_walk(p->skb, &p->upper);
	return reason ? reason : vm6_upper(p);
}

inline bool vm6_is_syn(const struct vm6 *p)
{
	__u8 flags;

	return p->upper.proto == IPPROTO_TCP && !p->upper.later &&
	       !bpf_skb_load_bytes(p->skb, p->upper.at + 13, &flags,
				   sizeof(flags)) &&
	       flags & TH_SYN;
}

inline bool vm6_is_icmp(const struct vm6 *p)
{
	return p->upper.proto == NEXT_ICMP6 && !p->upper.later;
}

/* The frame goes back to the machine, from its gateway. */
inline void vm6_turn(const struct vm6 *p, struct ip6 *ip)
{
	struct ethhdr *eth = (void *)ip - IP6_AT;

	mac_set(eth->h_dest, p->slot->mac);
	mac_set(eth->h_source, p->slot->host_mac);
	ip6_gateway(&ip->src);
}

#endif
