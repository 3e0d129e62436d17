/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Clients' packets for a machine of another host: carried there as they came
 * but for the TTL. Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE_MESH_H
#define FLYEBPF_EDGE_MESH_H

#include "edge_answer.h"
#include "icmp_limit.h"
#include "mesh_header.h"

/* Not verdicts: what is left to be done, once for all kinds of packets, because
 * everything is inlined and each call would be one more copy. */
#define EDGE_MESH (-2)
#define EDGE_TOO_BIG (-3)

struct mesh_frame {
	struct ethhdr eth;
	struct mesh_header header;
} __attribute__((packed));

/* Of a packet that is too long: its longest IP header and 8 bytes (RFC 792). */
#define QUOTE_SIZE 68

struct too_big_frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct icmphdr icmp;
	__be32 quote[QUOTE_SIZE / 4];
} __attribute__((packed));

#define TOO_BIG_HEADERS (sizeof(struct too_big_frame) - QUOTE_SIZE)

/* The machine is known. port: where it listens, 0 for what has no ports; length:
 * of the packet. Returns a verdict or EDGE_*. */
inline int edge_onward(struct onward *onward, const struct settings *s,
		       const struct target *to, __be16 port, __u32 length,
		       __u32 frame_length)
{
	if (!s->mesh_mtu) {
		count_drop(DROP_NO_HOST, frame_length);
		return XDP_DROP;
	}
	if (!mesh_fits(s, length))
		return EDGE_TOO_BIG;
	count_in(to->service, length, to->new_flow);
	onward->host = to->slot->host;
	onward->machine = to->slot->machine;
	onward->port = port;
	return EDGE_MESH;
}

inline int edge_remote(struct frame *frame, const struct settings *s,
		       const struct target *to, __be16 port)
{
	return edge_onward(&frame->onward, s, to, port,
			   bpf_ntohs(frame->ip->tot_len),
			   frame->end - frame->data);
}

/* Put the header before a packet of `length` bytes, its hop counted, and hand it
 * on. next: NEXT_*; eth: of the frame. */
inline int edge_carry(struct xdp_md *ctx, const struct settings *s,
		      const struct onward *onward, __u8 next, __u32 length,
		      __u32 frame_length, struct ethhdr eth)
{
	int padding = frame_length - sizeof(struct ethhdr) - length;
	struct mesh_frame *out;

	/* There could be more of it than the mesh takes. */
	if ((padding > 0 && bpf_xdp_adjust_tail(ctx, -padding)) ||
	    bpf_xdp_adjust_head(ctx, -(int)sizeof(out->header))) {
		count_drop(DROP_REWRITE, frame_length);
		return XDP_DROP;
	}
	out = (void *)(long)ctx->data;
	if ((void *)(out + 1) > (void *)(long)ctx->data_end) {
		count_drop(DROP_REWRITE, frame_length);
		return XDP_DROP;
	}
	eth.h_proto = bpf_htons(ETH_P_IPV6);
	out->eth = eth;
	mesh_header(&out->header, s, next, length, onward->host, onward->machine,
		    onward->port);
	return hand_to_tc(ctx, onward->host, COUNT_MESH_OUT);
}

inline int edge_encapsulate(struct xdp_md *ctx, struct frame *frame,
			    const struct settings *s)
{
	__u32 length = bpf_ntohs(frame->ip->tot_len);

	rewrite_ip(frame->ip, frame->ip->daddr);
	return edge_carry(ctx, s, &frame->onward, NEXT_IPV4, length,
			  frame->end - frame->data,
			  *(struct ethhdr *)frame->data);
}

/* The headers before the quote, which is in its place already. */
inline void too_big_headers(struct too_big_frame *out, const struct ethhdr *eth,
			    const struct iphdr *ip, __u32 mtu)
{
	answer_eth(&out->eth, eth);
	answer_ip(&out->ip, ip, IPPROTO_ICMP, sizeof(out->icmp) + QUOTE_SIZE);
	out->icmp.type = ICMP_DEST_UNREACH;
	out->icmp.code = ICMP_FRAG_NEEDED;
	out->icmp.checksum = 0;
	out->icmp.rest = bpf_htonl(mtu); /* RFC 1191, section 4 */
	out->icmp.checksum = csum_fold((__u32)bpf_csum_diff(
		0, 0, (__be32 *)&out->icmp, sizeof(out->icmp) + QUOTE_SIZE, 0));
}

/* Always ends the packet. Senders that do not forbid fragments are told too:
 * the edge makes none. No errors about errors, and about later fragments
 * (RFC 1122, 3.2.2). */
inline int edge_too_big(struct xdp_md *ctx, struct frame *frame,
			const struct settings *s)
{
	int length = frame->end - frame->data;
	const int quoted = sizeof(struct ethhdr) + QUOTE_SIZE;
	struct ethhdr eth = *(struct ethhdr *)frame->data;
	struct too_big_frame *out;
	struct iphdr ip = *frame->ip;

	count_drop(DROP_TOO_BIG, length);
	if (ip.protocol == IPPROTO_ICMP || is_later_fragment(&ip) ||
	    length < quoted || !icmp_may_send(ICMP_OF_EDGE))
		return XDP_DROP;
	if (bpf_xdp_adjust_tail(ctx, quoted - length) ||
	    bpf_xdp_adjust_head(ctx, -(int)(TOO_BIG_HEADERS - sizeof(eth))))
		return XDP_DROP;
	out = (void *)(long)ctx->data;
	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	too_big_headers(out, &eth, &ip, s->mesh_mtu - sizeof(struct mesh_header));
	count(COUNT_TOO_BIG);
	return XDP_TX;
}

#endif
