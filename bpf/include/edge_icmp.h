/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMP at the edge: echoes answered here, errors sent to the machine whose
 * packet they quote. Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE_ICMP_H
#define FLYEBPF_EDGE_ICMP_H

#include "edge_rewrite.h"

#define ECHO_TTL 64

/* Turn an echo request into its reply (RFC 792), in place. */
inline void echo_answer(struct frame *frame, struct icmphdr *icmp)
{
	struct ethhdr *eth = frame->data;
	struct iphdr *ip = frame->ip;
	__be32 saddr = ip->saddr;
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	ip->saddr = ip->daddr;
	ip->daddr = saddr;
	csum_apply(&ip->check, csum_delta2(bpf_htons(ip->ttl << 8),
					   bpf_htons(ECHO_TTL << 8)));
	ip->ttl = ECHO_TTL;
	csum_apply_nonzero(&icmp->checksum,
			   csum_delta2(bpf_htons(ICMP_ECHO << 8),
				       bpf_htons(ICMP_ECHOREPLY << 8)));
	icmp->type = ICMP_ECHOREPLY;
}

/* The quoted packet is one that a machine sent as the VIP: make it what the
 * machine itself sent, and address the error to it. The quoted L4 checksum
 * stays: senders look at addresses and ports only. A machine of another host
 * gets the error as it is: its host does this. Returns a reason or 0;
 * DROP_NEEDS_PROXY where the VIP's end is the proxy. */
inline __u32 icmp_error_rewrite(struct frame *frame, struct icmphdr *icmp,
				const struct settings *s, __u32 vip_index,
				struct target *to)
{
	struct iphdr *ip = frame->ip, *quoted = (void *)(icmp + 1);
	struct tuple tuple = {};
	struct ports *ports;
	__u64 delta;
	__be32 addr;
	__u16 check;
	__u32 reason, header;

	if ((void *)(quoted + 1) > frame->end)
		return DROP_BAD_L4_HEADER;
	header = quoted->ihl * 4;
	if (quoted->version != 4 || header < sizeof(*quoted))
		return DROP_BAD_L4_HEADER;
	ports = (void *)quoted + header;
	if ((void *)(ports + 2) > frame->end ||
	    frame->l4_room < sizeof(*icmp) + header + 8)
		return DROP_BAD_L4_HEADER;
	/* Nobody outside sees what is sent to a VM: such a quote is made up. */
	if (quoted->saddr != ip->daddr || is_later_fragment(quoted) ||
	    bad_source(s, bpf_ntohl(quoted->daddr)) ||
	    (quoted->protocol != IPPROTO_TCP && quoted->protocol != IPPROTO_UDP))
		return DROP_ICMP_NO_FLOW;
	tuple.proto = quoted->protocol;
	addr_from_ipv4(&tuple.client, quoted->daddr);
	addr_from_ipv4(&tuple.vip, quoted->saddr);
	tuple.client_port = ports->dest;
	tuple.vip_port = ports->source;
	reason = steer(s, &tuple, vip_index, 0, STEER_READONLY, to);
	if (reason)
		return reason == DROP_NEEDS_PROXY ? reason : DROP_ICMP_NO_FLOW;
	if (to->slot->flags & SLOT_REMOTE)
		return DROP_NONE;
	addr = machine_addr(to->slot, quoted->protocol);
	check = quoted->check;
	csum_apply(&quoted->check, csum_delta4(quoted->saddr, addr));
	delta = csum_delta4(quoted->saddr, addr) +
		csum_delta2(check, quoted->check) +
		csum_delta2(ports->source, to->internal_port);
	csum_apply(&icmp->checksum, delta);
	quoted->saddr = addr;
	ports->source = to->internal_port;
	rewrite_ip(ip, addr);
	return DROP_NONE;
}

#endif
