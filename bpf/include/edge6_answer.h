/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the edge answers a client over IPv6 itself, as the VIP: a reset where there
 * is no usable machine, packet-too-big. Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE6_ANSWER_H
#define FLYEBPF_EDGE6_ANSWER_H

#include "edge6_packet.h"
#include "edge_reset.h"
#include "icmp6_big.h"

struct reset6_frame {
	struct ethhdr eth;
	struct ip6 ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct big6_frame {
	struct ethhdr eth;
	struct ip6 ip;
	struct icmp6 icmp;
	__be32 quote[BIG_QUOTE / 4];
} __attribute__((packed));

/* length: of what follows the header, bytes */
inline void answer_ip6(struct ip6 *ip, const struct ip6 *seen, __u8 next,
		       __u32 length)
{
	ip->version = bpf_htonl(6U << 28);
	ip->length = bpf_htons(length);
	ip->next = next;
	ip->hop_limit = BIG_HOP_LIMIT;
	ip->src = seen->dst;
	ip->dst = seen->src;
}

/* As edge_reset: always ends the packet, counted as DROP_NO_BACKEND. */
inline int edge6_reset(struct xdp_md *ctx, struct frame6 *f)
{
	struct ethhdr *eth = f->data;
	struct tcphdr *tcp = f->l4;
	struct reset6_frame answer, *out;
	__u32 length = f->end - f->data;

	count_drop(DROP_NO_BACKEND, length);
	if ((void *)(tcp + 1) > f->end || tcp_flags(tcp) & TH_RST)
		return XDP_DROP;
	answer_eth(&answer.eth, eth);
	answer_ip6(&answer.ip, f->ip, IPPROTO_TCP, sizeof(answer.tcp));
	reset_tcp(&answer.tcp, tcp, f->l4_room - tcp->doff * 4);
	answer.tcp.check = csum_fold(
		csum_words(&answer.tcp, sizeof(answer.tcp)) +
		ip6_pseudo(&answer.ip, sizeof(answer.tcp), IPPROTO_TCP));
	if (bpf_xdp_adjust_tail(ctx, (int)sizeof(answer) - (int)length))
		return XDP_DROP;
	out = (void *)(long)ctx->data;
	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*out = answer;
	count(COUNT_RST);
	return XDP_TX;
}

/* As edge_too_big: always ends the packet. Errors are not answered (RFC 4443,
 * 2.4 e), nor is what is too short for the quote. */
inline int edge6_too_big(struct xdp_md *ctx, struct frame6 *f,
			 const struct settings *s)
{
	const int quoted = IP6_AT + BIG_QUOTE;
	int length = f->end - f->data;
	struct ethhdr eth = *(struct ethhdr *)f->data;
	struct big6_frame *out;
	struct ip6 ip = *f->ip;

	count_drop(DROP_TOO_BIG, length);
	if (f->upper.later || f->upper.proto == NEXT_ICMP6 || length < quoted ||
	    !icmp_may_send(ICMP_OF_EDGE))
		return XDP_DROP;
	if (bpf_xdp_adjust_tail(ctx, quoted - length) ||
	    bpf_xdp_adjust_head(ctx, -(int)BIG_HEADERS))
		return XDP_DROP;
	out = (void *)(long)ctx->data;
	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	answer_eth(&out->eth, &eth);
	answer_ip6(&out->ip, &ip, NEXT_ICMP6, sizeof(out->icmp) + BIG_QUOTE);
	big_icmp(&out->ip, &out->icmp, s->mesh_mtu - sizeof(struct mesh_header),
		 big_quote_sum(out->quote));
	count(COUNT_TOO_BIG);
	return XDP_TX;
}

#endif
