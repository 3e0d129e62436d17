/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMPv6 (RFC 4443) at the edge, as edge_icmp.h. Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE6_ICMP_H
#define FLYEBPF_EDGE6_ICMP_H

#include "edge6_packet.h"

/* Turn an echo request into its reply, in place. That addresses change places
 * changes no checksum. */
inline void echo6_answer(struct frame6 *f, struct icmp6 *icmp)
{
	struct ethhdr *eth = f->data;
	struct ip6 *ip = f->ip;
	struct addr client = ip->src;
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	ip->src = ip->dst;
	ip->dst = client;
	ip->hop_limit = ECHO_TTL;
	csum_apply(&icmp->checksum, csum_delta2(bpf_htons(ICMP6_ECHO << 8),
						bpf_htons(ICMP6_ECHO_REPLY << 8)));
	icmp->type = ICMP6_ECHO_REPLY;
}

/* The ports of what an error quotes: TCP or UDP right behind the header or, where a
 * machine's datagram was too long, behind its fragment header. Sets proto. */
inline struct ports *quoted6_ports(const struct frame6 *f, struct ip6 *quoted,
				   __u8 *proto)
{
	struct extension *fragment = (void *)(quoted + 1);
	struct ports *ports = (void *)fragment;

	*proto = quoted->next;
	if (*proto == NEXT_FRAGMENT) {
		ports = (void *)fragment + FRAGMENT_SIZE;
		if ((void *)ports > f->end ||
		    fragment->offset & bpf_htons(0xfff8))
			return 0;
		*proto = fragment->next;
	}
	if ((void *)(ports + 2) > f->end ||
	    (void *)(ports + 2) > f->l4 + f->l4_room ||
	    (*proto != IPPROTO_TCP && *proto != IPPROTO_UDP))
		return 0;
	return ports;
}

/* The flow of the packet that an error quotes: one that a machine sent as the VIP.
 * Sets f->ports to the quoted ones. Returns a reason or 0. */
inline __u32 icmp6_quoted(struct frame6 *f, struct icmp6 *icmp,
			  const struct settings *s, struct tuple *tuple)
{
	struct ip6 *quoted = (void *)(icmp + 1);

	if ((void *)(quoted + 1) > f->end ||
	    f->l4_room < sizeof(*icmp) + sizeof(*quoted) + 8 ||
	    bpf_ntohl(quoted->version) >> 28 != 6)
		return DROP_BAD_L4_HEADER;
	f->ports = quoted6_ports(f, quoted, &tuple->proto);
	/* Nobody outside sees what is sent to a VM: such a quote is made up. */
	if (!f->ports || !addr_equal(&quoted->src, &f->ip->dst) ||
	    bad_source6(s, &quoted->dst))
		return DROP_ICMP_NO_FLOW;
	tuple->client = quoted->dst;
	tuple->vip = quoted->src;
	tuple->client_port = f->ports->dest;
	tuple->vip_port = f->ports->source;
	return DROP_NONE;
}

/* The quoted packet as the machine itself sent it, and the error to the machine.
 * The quoted L4 checksum stays, as in icmp_error_rewrite. */
inline bool icmp6_rewrite(struct frame6 *f, const struct addr *daddr, __be16 port)
{
	struct icmp6 *icmp = f->l4;
	struct ip6 *quoted = (void *)(icmp + 1);
	struct ports *ports = f->ports;

	if ((void *)(quoted + 1) > f->end || (void *)(ports + 1) > f->end)
		return false;
	/* twice: of the quoted packet and of the pseudo-header */
	csum_apply(&icmp->checksum, 2 * csum_delta_addr(&quoted->src, daddr) +
					    csum_delta2(ports->source, port));
	quoted->src = *daddr;
	ports->source = port;
	rewrite6_ip(f->ip, daddr);
	return true;
}

/* What is not an error about a machine's packet ends here: returns a verdict, or 0
 * with `tuple` filled. */
inline int edge6_icmp(struct frame6 *f, const struct settings *s, __u32 vip_index,
		      struct tuple *tuple)
{
	struct icmp6 *icmp = f->l4;
	struct vip *vip = map_lookup(vips, &vip_index);
	__u32 reason;

	if (f->upper.more)
		return drop6(DROP_ICMP_FRAGMENT, f);
	if ((void *)(icmp + 1) > f->end || f->l4_room < sizeof(*icmp))
		return drop6(DROP_BAD_L4_HEADER, f);
	if (!vip || !(vip->flags & VIP_ALLOCATED))
		return drop6(DROP_VIP_UNALLOCATED, f);
	if (icmp->type == ICMP6_ECHO && icmp->code == 0) {
		echo6_answer(f, icmp);
		count(COUNT_ECHO);
		return XDP_TX;
	}
	if (!icmp6_is_error(icmp->type))
		return drop6(DROP_ICMP_TYPE, f);
	reason = icmp6_quoted(f, icmp, s, tuple);
	return reason ? drop6(reason, f) : 0;
}

#endif
