/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IPv6 (RFC 8200): the header in place, by direct access, and a bounded walk over
 * extension headers, in tc programs and in XDP. Lengths and offsets are in host
 * order, header contents in network order.
 */
#ifndef FLYEBPF_IP6_H
#define FLYEBPF_IP6_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include "addr.h"
#include "reasons.h"

struct ip6 {
	__be32 version; /* 4 bits; then class and label */
	__be16 length;	/* of what follows the header */
	__u8 next;
	__u8 hop_limit;
	struct addr src;
	struct addr dst;
};
#define IP6_AT sizeof(struct ethhdr)
#define IP6_END (IP6_AT + sizeof(struct ip6))

#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_OPTIONS 60
#define NEXT_ICMP6 58

#define ICMP6_UNREACHABLE 1 /* the first of the errors that quote a packet, */
#define ICMP6_TOO_BIG 2
#define ICMP6_PARAMETER 4 /* and the last one (RFC 4443, 3) */
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_MLD_QUERY 130
#define ICMP6_MLD_REPORT 131
#define ICMP6_MLD_DONE 132
#define ICMP6_ROUTER_SOLICIT 133
#define ICMP6_ROUTER_ADVERT 134
#define ICMP6_SOLICIT 135
#define ICMP6_ADVERT 136
#define ICMP6_REDIRECT 137
#define ICMP6_MLD2_REPORT 143

struct icmp6 {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

#define IP6_FRAME_MAX 0xfffff /* bytes: more than any frame has */

/* What an extension header begins with. */
struct extension {
	__u8 next;
	__u8 length; /* in units of 8 bytes, without the first one */
	union {
		__be16 offset; /* of a fragment, and its flags */
		struct {
			__u8 type;
			__u8 left; /* segments of a route */
		};
	};
};
#define FRAGMENT_ID 4 /* offset in a fragment header */
#define FRAGMENT_SIZE 8

/* What the extension headers lead to. */
struct upper {
	__u32 at;  /* offset in the frame */
	__u32 fragment_at; /* of the fragment header, if there is one */
	__u32 end; /* of the packet in the frame, without Ethernet's padding */
	__u8 proto;
	bool extended; /* there are extension headers */
	/* 0 or 1, and no bool, see ip6_settle() */
	__u8 fragment; /* has such a header, be it a whole packet (RFC 6946) */
	__u8 more;     /* and others come after it */
	__u8 later; /* not the first fragment: only `at` and `end` say anything */
};

/* The header, or 0 if it is not in the linear part of the frame. Gone with the
 * next helper that changes the frame. */
inline struct ip6 *ip6_header(const struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;

	return data + IP6_END > (void *)(long)skb->data_end ? 0 : data + IP6_AT;
}

/* The header, or 0 if the frame is too short for one. */
inline struct ip6 *ip6_load(struct __sk_buff *skb)
{
	struct ip6 *ip = ip6_header(skb);

	if (ip || bpf_skb_pull_data(skb, IP6_END))
		return ip;
	return ip6_header(skb);
}

/* Where the packet ends. A train of segments (skb->gso_size) may be longer than
 * its length field can say. Returns a drop reason or 0. */
inline __u32 ip6_measure(const struct __sk_buff *skb, const struct ip6 *ip,
			 struct upper *upper)
{
	__u32 length = bpf_ntohs(ip->length);

	if (bpf_ntohl(ip->version) >> 28 != 6)
		return DROP_IPV6_HEADER;
	upper->proto = ip->next;
	upper->at = IP6_END;
	upper->end = skb->gso_size ? skb->len : IP6_END + length;
	return upper->end > skb->len ? DROP_TRUNCATED : DROP_NONE;
}

#define EXTENSIONS_MAX 6

inline bool ip6_is_extension(__u8 next)
{
	return next == NEXT_HOP_BY_HOP || next == NEXT_ROUTING ||
	       next == NEXT_FRAGMENT || next == NEXT_OPTIONS;
}

/* One extension header, at upper->at. Returns a drop reason or 0. */
inline __u32 ip6_step(const struct extension *header, struct upper *upper)
{
	__u32 size = 8;

	if (upper->proto == NEXT_FRAGMENT) {
		if (upper->fragment)
			return DROP_IPV6_HEADER;
		upper->fragment = 1;
		upper->fragment_at = upper->at;
		upper->more = !!(header->offset & bpf_htons(1));
		upper->later = !!(header->offset & bpf_htons(0xfff8));
	} else {
		size += header->length * 8;
		/* The first one, if any; and nobody here routes by source. */
		if (upper->proto == NEXT_HOP_BY_HOP ? upper->extended :
		    upper->proto == NEXT_ROUTING    ? header->left :
						      0)
			return DROP_IPV6_HEADER;
	}
	upper->proto = header->next;
	upper->at += size;
	upper->extended = true;
	return upper->at > upper->end ? DROP_IPV6_HEADER : DROP_NONE;
}

/* From the fixed header to the upper layer's, or to where a later fragment's
 * data begin. Returns a drop reason or 0. */
inline __u32 ip6_walk(struct __sk_buff *skb, struct upper *upper)
{
	struct extension header;
	__u32 reason;

#pragma clang loop unroll(disable)
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (upper->later || !ip6_is_extension(upper->proto))
			return DROP_NONE;
		if (bpf_skb_load_bytes(skb, upper->at, &header, sizeof(header)))
			return DROP_IPV6_HEADER;
		reason = ip6_step(&header, upper);
		if (reason)
			return reason;
	}
	return upper->later || !ip6_is_extension(upper->proto) ?
		       DROP_NONE :
		       DROP_IPV6_HEADER;
}

/* From the walk, or past it, come many states of the verifier, each of which it
 * would follow to the end. What it cannot know is one. */
inline void ip6_settle(struct upper *upper, const struct settings *s)
{
	upper->at = (upper->at + s->zero) & IP6_FRAME_MAX;
	upper->end = (upper->end + s->zero) & IP6_FRAME_MAX;
	upper->fragment_at = (upper->fragment_at + s->zero) & IP6_FRAME_MAX;
	upper->proto += s->zero;
	upper->fragment += s->zero;
	upper->more += s->zero;
	upper->later += s->zero;
}

/* fe80::1: every machine's gateway, on its own link. */
inline bool ip6_is_gateway(const struct addr *a)
{
	return a->word[0] == bpf_htonl(0xfe800000) && !a->word[1] &&
	       !a->word[2] && a->word[3] == bpf_htonl(1);
}

inline void ip6_gateway(struct addr *a)
{
	a->word[0] = bpf_htonl(0xfe800000);
	a->word[1] = 0;
	a->word[2] = 0;
	a->word[3] = bpf_htonl(1);
}

/* fe80::/10 (RFC 4291, 2.5.6), of which only fe80::/64 is in use. */
inline bool ip6_is_link_local(const struct addr *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

inline bool ip6_is_multicast(const struct addr *a)
{
	return a->byte[0] == 0xff;
}

inline bool icmp6_is_error(__u8 type)
{
	return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER;
}

/* What a checksum covers besides the message (RFC 8200, 8.1): addresses, length
 * and protocol. */
inline __u64 ip6_pseudo(const struct ip6 *ip, __u32 length, __u8 proto)
{
	__u64 sum = (__u64)bpf_htonl(length) + bpf_htonl(proto);

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)ip->src.word[i] + ip->dst.word[i];
	return sum;
}

inline bool ip6_is_zero(const struct addr *a)
{
	return !a->quad[0] && !a->quad[1];
}

#endif
