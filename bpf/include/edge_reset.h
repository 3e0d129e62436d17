/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A TCP segment for a service that has no usable machine is answered with a
 * reset, so that the client learns at once (RFC 9293, 3.10.7.1). Included by
 * edge_xdp.c only. */
#ifndef FLYEBPF_EDGE_RESET_H
#define FLYEBPF_EDGE_RESET_H

#include "edge_answer.h"

struct reset_frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

inline void reset_tcp(struct tcphdr *tcp, const struct tcphdr *seen,
		      __u32 payload)
{
	__u8 flags = tcp_flags(seen);

	__builtin_memset(tcp, 0, sizeof(*tcp));
	tcp->source = seen->dest;
	tcp->dest = seen->source;
	tcp->doff = 5;
	tcp->rst = 1;
	if (flags & TH_ACK) {
		tcp->seq = seen->ack_seq;
		return;
	}
	payload += !!(flags & TH_SYN) + !!(flags & TH_FIN);
	tcp->ack = 1;
	tcp->ack_seq = bpf_htonl(bpf_ntohl(seen->seq) + payload);
}

/* Always ends the packet: counted as DROP_NO_BACKEND whether or not a reset
 * could be made of it. */
inline int edge_reset(struct xdp_md *ctx, struct frame *frame)
{
	struct ethhdr *eth = frame->data;
	struct tcphdr *tcp = frame->l4;
	struct reset_frame answer, *out;
	__u32 length = frame->end - frame->data;

	count_drop(DROP_NO_BACKEND, length);
	if ((void *)(tcp + 1) > frame->end || tcp_flags(tcp) & TH_RST)
		return XDP_DROP;
	answer_eth(&answer.eth, eth);
	answer_ip(&answer.ip, frame->ip, IPPROTO_TCP, sizeof(answer.tcp));
	reset_tcp(&answer.tcp, tcp, frame->l4_room - tcp->doff * 4);
	answer.tcp.check = csum_fold(
		csum_words(&answer.tcp, sizeof(answer.tcp)) +
		csum_words(&answer.ip.saddr, 8) + bpf_htons(IPPROTO_TCP) +
		bpf_htons(sizeof(answer.tcp)));
	if (bpf_xdp_adjust_tail(ctx, (int)sizeof(answer) - (int)length))
		return XDP_DROP;
	out = (void *)(long)ctx->data;
	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*out = answer;
	count(COUNT_RST);
	return XDP_TX;
}

#endif
