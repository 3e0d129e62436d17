/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Headers of what the edge answers a client itself, as the VIP. Included by
 * edge_xdp.c only. */
#ifndef FLYEBPF_EDGE_ANSWER_H
#define FLYEBPF_EDGE_ANSWER_H

#include "edge_rewrite.h"

inline void answer_eth(struct ethhdr *eth, const struct ethhdr *seen)
{
	__builtin_memcpy(eth->h_dest, seen->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, seen->h_dest, ETH_ALEN);
	eth->h_proto = seen->h_proto;
}

/* length: of what follows the header, bytes */
inline void answer_ip(struct iphdr *ip, const struct iphdr *seen, __u8 proto,
		      __u32 length)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(sizeof(*ip) + length);
	ip->frag_off = bpf_htons(0x4000); /* DF */
	ip->ttl = 64;
	ip->protocol = proto;
	ip->saddr = seen->daddr;
	ip->daddr = seen->saddr;
	ip->check = csum_fold(csum_words(ip, sizeof(*ip)));
}

#endif
