/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* An IPv6 packet that another host sent carried in IPv6: what it is, and changes of
 * it. As mesh_packet.h; included by mesh_tc.c only. */
#ifndef FLYEBPF_MESH6_PACKET_H
#define FLYEBPF_MESH6_PACKET_H

#include "ip6.h"
#include "mesh_packet.h"

/* Offsets in an IPv6 header. */
#define IP6_SRC __builtin_offsetof(struct ip6, src)
#define IP6_DST __builtin_offsetof(struct ip6, dst)

struct mesh6 {
	struct mesh_scratch *scratch;
	struct upper upper;
	__u32 ports_at; /* of an error: offset of the quoted ports in the frame, */
	__u32 quoted;	/* and of the quoted header; else 0 */
};

inline struct tuple *mesh6_tuple(const struct mesh6 *x)
{
	return (void *)x->scratch->tuple;
}

/* The carried header: there is no room for it beside the outer one, whose place it
 * takes. */
inline struct mesh_header *mesh6_ip(struct mesh *m)
{
	return &m->outer;
}

/* The carried header and those behind it. False: no host sends such. */
inline bool mesh6_load(struct mesh *m, struct mesh6 *x)
{
	const __u32 carried = bpf_ntohs(m->outer.length);
	struct mesh_header *ip = mesh6_ip(m);
	__u32 total;

	m->inner = m->l3 + sizeof(struct mesh_header);
	if (bpf_skb_load_bytes(m->skb, m->inner, ip, sizeof(*ip)) ||
	    bpf_ntohl(ip->version) >> 28 != 6)
		return false;
	total = sizeof(*ip) + bpf_ntohs(ip->length);
	if (mesh_is_train(m))
		total = m->skb->len - m->inner;
	else if (total != carried)
		return false;
	x->upper.at = m->inner + sizeof(*ip);
	x->upper.end = m->inner + total;
	x->upper.proto = ip->next_header;
	if (ip6_is_extension(ip->next_header) && ip6_walk(m->skb, &x->upper))
		return false;
	ip6_settle(&x->upper, m->settings);
	return true;
}

/* Ports and flags of TCP or UDP that is not a later fragment. */
inline bool mesh6_load_l4(struct mesh *m, const struct mesh6 *x)
{
	const __u32 room = x->upper.end - x->upper.at;
	struct tcphdr tcp = {};

	if (x->upper.proto == IPPROTO_TCP) {
		if (room < sizeof(tcp) ||
		    bpf_skb_load_bytes(m->skb, x->upper.at, &tcp, sizeof(tcp)) ||
		    tcp_check(&tcp, room))
			return false;
		m->flags = tcp_flags(&tcp);
	} else {
		if (room < sizeof(struct udphdr) ||
		    bpf_skb_load_bytes(m->skb, x->upper.at, &tcp,
				       sizeof(struct udphdr)) ||
		    udp_check((struct udphdr *)&tcp, room,
			      x->upper.more || mesh_is_train(m)))
			return false;
	}
	m->ports.source = tcp.source;
	m->ports.dest = tcp.dest;
	return true;
}

/* What an ICMPv6 error quotes: a TCP or UDP packet, or its first fragment. Sets the
 * ports, and its addresses and protocol. */
inline bool mesh6_load_error(struct mesh *m, struct mesh6 *x, struct addr *src,
			     struct addr *dst, __u8 *proto)
{
	struct extension fragment;
	struct icmp6 head; /* of the message, and then of the quoted header */

	if (x->upper.more ||
	    bpf_skb_load_bytes(m->skb, x->upper.at, &head, sizeof(head)) ||
	    !icmp6_is_error(head.type))
		return false;
	x->quoted = x->upper.at + sizeof(head);
	x->ports_at = x->quoted + sizeof(struct ip6);
	if (x->ports_at > x->upper.end ||
	    bpf_skb_load_bytes(m->skb, x->quoted, &head, sizeof(head)) ||
	    bpf_skb_load_bytes(m->skb, x->quoted + IP6_SRC, src, sizeof(*src)) ||
	    bpf_skb_load_bytes(m->skb, x->quoted + IP6_DST, dst, sizeof(*dst)) ||
	    head.type >> 4 != 6)
		return false;
	*proto = bpf_ntohl(head.rest) >> 8 & 0xff;
	if (*proto == NEXT_FRAGMENT) {
		if (bpf_skb_load_bytes(m->skb, x->ports_at, &fragment,
				       sizeof(fragment)) ||
		    fragment.offset & bpf_htons(0xfff8))
			return false;
		*proto = fragment.next;
		x->ports_at += FRAGMENT_SIZE;
	}
	return x->ports_at + 8 <= x->upper.end &&
	       (*proto == IPPROTO_TCP || *proto == IPPROTO_UDP) &&
	       !bpf_skb_load_bytes(m->skb, x->ports_at, &m->ports,
				   sizeof(m->ports));
}

/* The key in the scratch. */
inline bool mesh6_frag_key(struct mesh *m, const struct mesh6 *x)
{
	struct frag6_key *key = &x->scratch->key;

	key->src = mesh6_ip(m)->src;
	key->dst = mesh6_ip(m)->dst;
	key->from_vm = 2;
	return !bpf_skb_load_bytes(m->skb, x->upper.fragment_at + FRAGMENT_ID,
				   &key->id, sizeof(key->id));
}

/* New destination in the carried header. The hop was the sender's to count. */
inline bool mesh6_store_daddr(struct mesh *m, struct addr *daddr)
{
	return !bpf_skb_store_bytes(m->skb, m->inner + IP6_DST, daddr,
				    sizeof(*daddr), 0);
}

/* TCP and UDP: with their destination port. Of an error the quoted packet too, as
 * the machine itself sent it. */
inline bool mesh6_rewrite(struct mesh *m, const struct mesh6 *x)
{
	struct addr daddr;
	__u64 delta;

	machine6_addr(&daddr, m->slot);
	delta = csum_delta_addr(&mesh6_ip(m)->dst, &daddr);
	if (!x->quoted)
		return tc_rewrite_l4(m->skb, x->upper.at, x->upper.proto, delta,
				     DEST_PORT, m->ports.dest, m->port) &&
		       mesh6_store_daddr(m, &daddr);
	delta = 2 * delta + csum_delta2(m->ports.source, m->port);
	return !bpf_l4_csum_replace(m->skb, x->upper.at + 2, 0, fold32(delta),
				    BPF_F_PSEUDO_HDR) &&
	       !bpf_skb_store_bytes(m->skb, x->quoted + IP6_SRC, &daddr,
				    sizeof(daddr), 0) &&
	       !bpf_skb_store_bytes(m->skb, x->ports_at, &m->port,
				    sizeof(m->port), 0) &&
	       mesh6_store_daddr(m, &daddr);
}

/* Take the outer header off, and put Ethernet's on. */
inline bool mesh6_unpack(struct mesh *m, const __u8 *dest, const __u8 *source)
{
	const int header = -(int)sizeof(struct mesh_header);

	return !bpf_skb_adjust_room(m->skb, header, BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       mesh_store_eth(m, dest, source, ETH_P_IPV6);
}

#endif
