/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The edge's packet: parsing, rewriting, delivery, all by direct access.
 * Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE_REWRITE_H
#define FLYEBPF_EDGE_REWRITE_H

#include "csum.h"
#include "packet.h"
#include "via_tc.h"

/* What goes on to another host. */
struct onward {
	__u32 host;
	__u32 machine;
	__be16 port;
};

struct frame {
	void *data;
	void *end;
	struct iphdr *ip;
	void *l4;	     /* set by frame_check_ipv4 */
	__u32 l4_room;	     /* bytes from l4 to the end of the IP packet */
	struct ports *ports; /* set by l4_check */
	struct onward onward; /* set by edge_remote */
};

/* proto: an Ethertype */
inline bool frame_has(const struct frame *frame, __u16 proto)
{
	struct ethhdr *eth = frame->data;

	return (void *)(eth + 1) <= frame->end && eth->h_proto == bpf_htons(proto);
}

/* Whether it is IPv4 with a whole fixed header, untagged. */
inline bool frame_has_ipv4(struct frame *frame)
{
	struct ethhdr *eth = frame->data;

	frame->ip = (void *)(eth + 1);
	return (void *)(frame->ip + 1) <= frame->end &&
	       eth->h_proto == bpf_htons(ETH_P_IP);
}

/* What a packet for the pools must be. Options are skipped, not obeyed: the
 * VM's own stack decides about them. A frame for many is none for a VIP: every
 * host that hears it would answer, with the group's MAC for its own (RFC 1122,
 * 3.3.6). Returns a drop reason or 0. */
inline __u32 frame_check_ipv4(struct frame *frame, const struct settings *s)
{
	struct ethhdr *eth = frame->data;
	struct iphdr *ip = frame->ip;
	__u32 header = ip->ihl * 4;
	__u32 total = bpf_ntohs(ip->tot_len);
	__u32 room = frame->end - (void *)ip;

	if ((eth->h_dest[0] | eth->h_source[0]) & 1)
		return DROP_GROUP_MAC;
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return DROP_BAD_IP_HEADER;
	if (total > room) /* not ip + total: Linux 6.1 knows no bounds of total */
		return DROP_TRUNCATED;
	if (bad_source(s, bpf_ntohl(ip->saddr)))
		return DROP_BAD_SOURCE;
	if (ip->ttl <= 1)
		return DROP_TTL;
	frame->l4 = (void *)ip + header;
	frame->l4_room = total - header;
	return DROP_NONE;
}

/* The TCP or UDP header; how: STEER_* that follow from its flags. */
inline __u32 l4_check(struct frame *frame, __u32 *how)
{
	bool fragment = is_fragment(frame->ip);
	struct tcphdr *tcp = frame->l4;
	struct udphdr *udp = frame->l4;
	__u32 size = frame->ip->protocol == IPPROTO_TCP ? sizeof(*tcp) :
							  sizeof(*udp);

	if (frame->l4_room < size)
		return fragment ? DROP_FRAG_TINY : DROP_BAD_L4_HEADER;
	frame->ports = frame->l4;
	if (frame->ip->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > frame->end)
			return DROP_TRUNCATED;
		*how = tcp_how(tcp_flags(tcp));
		return tcp_check(tcp, frame->l4_room);
	}
	if ((void *)(udp + 1) > frame->end)
		return DROP_TRUNCATED;
	return udp_check(udp, frame->l4_room, fragment);
}

inline struct frag_key frag_key_of(const struct iphdr *ip, __u8 from_vm)
{
	struct frag_key key = {
		.src = ip->saddr,
		.dst = ip->daddr,
		.id = ip->id,
		.proto = ip->protocol,
		.from_vm = from_vm,
	};

	return key;
}

inline void remember_fragment(const struct iphdr *ip, const struct target *to,
			      __be32 new_addr)
{
	struct frag_key key = frag_key_of(ip, 0);
	struct frag frag = {
		.slot = to->slot_index,
		.generation = to->slot->generation,
		.new_addr = new_addr,
		.service = to->service,
		.seen = clock_seen(),
	};

	map_update(fragments, &key, &frag);
}

/* New destination, one hop less. */
inline void rewrite_ip(struct iphdr *ip, __be32 daddr)
{
	__u64 delta = csum_delta4(ip->daddr, daddr);

	/* TTL is the high byte of its 16-bit word: one less is 0x0100 less */
	delta += csum_delta2(bpf_htons(0x0100), 0);
	csum_apply(&ip->check, delta);
	ip->daddr = daddr;
	ip->ttl--;
}

/* New destination and port. The bounds were checked by l4_check, but the
 * verifier forgets where the two protocols' paths meet. */
inline bool rewrite_l4(struct frame *frame, __be32 daddr, __be16 port)
{
	struct iphdr *ip = frame->ip;
	struct tcphdr *tcp = frame->l4;
	struct udphdr *udp = frame->l4;
	__u64 delta = csum_delta4(ip->daddr, daddr);

	if (ip->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > frame->end)
			return false;
		csum_apply(&tcp->check, delta + csum_delta2(tcp->dest, port));
		tcp->dest = port;
	} else {
		if ((void *)(udp + 1) > frame->end)
			return false;
		csum_apply_udp(&udp->check, delta + csum_delta2(udp->dest, port));
		udp->dest = port;
	}
	rewrite_ip(ip, daddr);
	return true;
}

/* The packet goes on to edge_tc. to: as in struct via_tc; what: COUNT_*. */
inline int hand_to_tc(struct xdp_md *ctx, __u32 to, __u32 what)
{
	struct via_tc *via;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*via))) {
		count_drop(DROP_REDIRECT, (void *)(long)ctx->data_end -
						  (void *)(long)ctx->data);
		return XDP_DROP;
	}
	via = (void *)(long)ctx->data_meta;
	if ((void *)(via + 1) > (void *)(long)ctx->data) {
		count_drop(DROP_REDIRECT, 0);
		return XDP_DROP;
	}
	via->magic = VIA_TC_MAGIC;
	via->to = to;
	count(what);
	return XDP_PASS;
}

/* The frame is rewritten: send it to the machine's interface. */
inline int deliver(struct xdp_md *ctx, struct ethhdr *eth,
		   const struct slot *slot)
{
	__u32 ifindex = slot->ifindex;

	__builtin_memcpy(eth->h_dest, slot->mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, slot->host_mac, ETH_ALEN);
	if (!(slot->flags & SLOT_VIA_TC))
		return bpf_redirect(ifindex, 0);
	return hand_to_tc(ctx, ifindex, COUNT_VIA_TC);
}

#endif
