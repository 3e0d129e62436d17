/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The edge's IPv6 packet: parsing, rewriting. Included by edge_xdp.c only. */
#ifndef FLYEBPF_EDGE6_PACKET_H
#define FLYEBPF_EDGE6_PACKET_H

#include "edge_mesh.h"
#include "ip6.h"

struct frame6 {
	void *data;
	void *end;
	struct ip6 *ip;
	struct upper upper;  /* set by frame6_check */
	void *l4;	     /* set by frame6_settle */
	__u32 l4_room;	     /* bytes from l4 to the end of the IP packet */
	struct ports *ports; /* set by l4_check6; of an error, the quoted ones */
	struct onward onward;
};

#define FRAME_MAX 0x3fff /* bytes: more than any frame has */

inline int drop6(__u32 reason, const struct frame6 *f)
{
	count_drop(reason, f->end - f->data);
	return XDP_DROP;
}

inline __u32 length6(const struct ip6 *ip)
{
	return sizeof(*ip) + bpf_ntohs(ip->length);
}

/* As ip6_walk. Returns a drop reason or 0. */
inline __u32 frame6_walk(struct xdp_md *ctx, struct frame6 *f)
{
	struct upper *upper = &f->upper;
	struct extension header;
	__u32 reason;

#pragma clang loop unroll(disable)
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (upper->later || !ip6_is_extension(upper->proto))
			break;
		if (bpf_xdp_load_bytes(ctx, upper->at, &header, sizeof(header)))
			return DROP_IPV6_HEADER;
		reason = ip6_step(&header, upper);
		if (reason)
			return reason;
	}
	if (!upper->later && ip6_is_extension(upper->proto))
		return DROP_IPV6_HEADER;
	return DROP_NONE;
}

/* What a packet for the pools must be; as frame_check_ipv4. Extension headers are
 * skipped, not obeyed. Returns a drop reason or 0. */
inline __u32 frame6_check(struct xdp_md *ctx, struct frame6 *f,
			  const struct settings *s)
{
	struct ethhdr *eth = f->data;
	struct ip6 *ip = f->ip;
	__u32 length = bpf_ntohs(ip->length);
	__u32 room = f->end - (void *)(ip + 1);

	if ((eth->h_dest[0] | eth->h_source[0]) & 1)
		return DROP_GROUP_MAC;
	if (bpf_ntohl(ip->version) >> 28 != 6)
		return DROP_IPV6_HEADER;
	if (length > room)
		return DROP_TRUNCATED;
	if (bad_source6(s, &ip->src))
		return DROP_BAD_SOURCE;
	if (ip->hop_limit <= 1)
		return DROP_TTL;
	f->upper.at = IP6_END;
	f->upper.end = IP6_END + length;
	f->upper.proto = ip->next;
	if (!ip6_is_extension(ip->next))
		return DROP_NONE;
	return frame6_walk(ctx, f);
}

/* Where the upper layer is. Returns a drop reason or 0. */
inline __u32 frame6_settle(struct frame6 *f, const struct settings *s)
{
	struct upper *upper = &f->upper;

	ip6_settle(upper, s);
	unfold(upper->at);
	if (upper->at > FRAME_MAX)
		return DROP_IPV6_HEADER;
	f->l4 = f->data + upper->at;
	f->l4_room = upper->end - upper->at;
	return DROP_NONE;
}

/* As l4_check. A datagram without a checksum is none (RFC 8200, 8.1). */
inline __u32 l4_check6(struct frame6 *f, __u32 *how)
{
	const bool is_tcp = f->upper.proto == IPPROTO_TCP;
	struct tcphdr *tcp = f->l4;
	struct udphdr *udp = f->l4;

	if (f->l4_room < (is_tcp ? sizeof(*tcp) : sizeof(*udp)))
		return f->upper.more ? DROP_FRAG_TINY : DROP_BAD_L4_HEADER;
	f->ports = f->l4;
	if (is_tcp) {
		if ((void *)(tcp + 1) > f->end)
			return DROP_TRUNCATED;
		*how = tcp_how(tcp_flags(tcp));
		return tcp_check(tcp, f->l4_room);
	}
	if ((void *)(udp + 1) > f->end)
		return DROP_TRUNCATED;
	if (!udp->check)
		return DROP_BAD_L4_HEADER;
	return udp_check(udp, f->l4_room, f->upper.more);
}

/* Key of the fragments of a datagram; false: it has no fragment header. */
inline bool frame6_frag_key(struct xdp_md *ctx, const struct frame6 *f,
			    struct frag6_key *key)
{
	key->src = f->ip->src;
	key->dst = f->ip->dst;
	return f->upper.fragment &&
	       !bpf_xdp_load_bytes(ctx, f->upper.fragment_at + FRAGMENT_ID,
				   &key->id, sizeof(key->id));
}

/* New destination, one hop less. */
inline void rewrite6_ip(struct ip6 *ip, const struct addr *daddr)
{
	ip->dst = *daddr;
	ip->hop_limit--;
}

/* New destination and port; as rewrite_l4. */
inline bool rewrite6_l4(struct frame6 *f, const struct addr *daddr, __be16 port)
{
	__u64 delta = csum_delta_addr(&f->ip->dst, daddr);
	struct tcphdr *tcp = f->l4;
	struct udphdr *udp = f->l4;

	if (f->upper.proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > f->end)
			return false;
		csum_apply(&tcp->check, delta + csum_delta2(tcp->dest, port));
		tcp->dest = port;
	} else {
		if ((void *)(udp + 1) > f->end)
			return false;
		csum_apply_nonzero(&udp->check,
				   delta + csum_delta2(udp->dest, port));
		udp->dest = port;
	}
	rewrite6_ip(f->ip, daddr);
	return true;
}

#endif
