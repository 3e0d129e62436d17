/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which packets of a machine to public IPv6 addresses are answers to clients, and
 * what the client has to see. Included by vm6_tc.c only. */
#ifndef FLYEBPF_VM6_ANSWER_H
#define FLYEBPF_VM6_ANSWER_H

#include "answer.h"
#include "vm6_packet.h"

#define ANSWER_L4 0
#define ANSWER_FRAGMENT 1 /* a later one */
#define ANSWER_ICMP 2

/* key: the machine's end of the flow. state: FLOW_* that the packet adds. fault: a
 * drop reason, should it be an answer. */
struct answer6 {
	struct answer to;
	struct reverse_key key;
	__u8 state;
	__u8 syn; /* not 0: it is one */
	__u32 fault;
};

/* An error about a client's packet; at its end the compiler may put more. */
struct quote6 {
	struct icmp6 icmp;
	struct ip6 ip;
	struct ports ports;
};
#define QUOTE6_SIZE \
	(sizeof(struct icmp6) + sizeof(struct ip6) + sizeof(struct ports))

/* TCP or UDP, of which vm6_upper has seen the header. Returns a drop reason or 0. */
inline __u32 answer6_l4(const struct vm6 *p, struct answer6 *a)
{
	const bool is_tcp = p->upper.proto == IPPROTO_TCP;
	const __u32 room = p->upper.end - p->upper.at;
	struct tcphdr tcp = {};
	__u8 flags = 0;

	if (is_tcp) {
		if (!vm6_peek(p, &tcp, sizeof(tcp)))
			return DROP_TRUNCATED;
		flags = tcp_flags(&tcp);
		a->fault = tcp_check(&tcp, room);
	} else {
		if (!vm6_peek(p, &tcp, sizeof(struct udphdr)))
			return DROP_TRUNCATED;
		a->fault = udp_check((struct udphdr *)&tcp, room,
				     p->upper.more || p->skb->gso_size);
	}
	a->syn = flags & TH_SYN;
	a->state = FLOW_REPLIED | (flags & (TH_FIN | TH_RST) ? FLOW_CLOSING : 0);
	a->to.kind = ANSWER_L4;
	a->key.client = p->ip->dst;
	a->key.client_port = tcp.dest;
	a->key.internal_port = tcp.source;
	a->key.proto = p->upper.proto;
	return DROP_NONE;
}

/* An ICMPv6 error about what a client sent to the machine. Returns a drop reason
 * or 0. */
inline __u32 answer6_icmp(const struct vm6 *p, struct answer6 *a)
{
	struct quote6 q;

	if (p->upper.more || !icmp6_is_error(p->type) ||
	    p->upper.at + QUOTE6_SIZE + 4 > p->upper.end ||
	    bpf_skb_load_bytes(p->skb, p->upper.at, &q, QUOTE6_SIZE) ||
	    bpf_ntohl(q.ip.version) >> 28 != 6 ||
	    !addr_equal(&q.ip.src, &p->ip->dst) ||
	    !addr_equal(&q.ip.dst, &p->ip->src) ||
	    (q.ip.next != IPPROTO_TCP && q.ip.next != IPPROTO_UDP))
		return DROP_IPV6;
	a->to.kind = ANSWER_ICMP;
	a->key.client = q.ip.src;
	a->key.client_port = q.ports.source;
	a->key.internal_port = q.ports.dest;
	a->key.proto = q.ip.next;
	return DROP_NONE;
}

/* The fragments of a datagram follow the first one. */
inline bool vm6_frag_key(const struct vm6 *p, struct frag6_key *key)
{
	key->src = p->ip->src;
	key->dst = p->ip->dst;
	key->from_vm = 1;
	return !bpf_skb_load_bytes(p->skb, p->upper.fragment_at + FRAGMENT_ID,
				   &key->id, sizeof(key->id));
}

/* A later fragment. Returns a drop reason or 0. */
inline __u32 answer6_fragment(const struct vm6 *p, struct answer6 *a)
{
	struct frag6_key key = {};
	struct frag6 *frag = vm6_frag_key(p, &key) ? map_lookup(fragments6, &key) : 0;

	if (!frag || frag->slot != p->slot_index ||
	    !frag6_is_fresh(frag) ||
	    frag->generation != frag6_generation(p->slot, frag->service))
		return DROP_VM_FRAGMENT;
	a->to.kind = ANSWER_FRAGMENT;
	a->to.vip = frag->new_addr;
	a->to.ifindex = frag->ifindex;
	a->to.service = frag->service;
	return DROP_NONE;
}

inline void answer6_remember(const struct vm6 *p, const struct answer6 *a)
{
	struct frag6_key key = {};
	struct frag6 frag = {
		.new_addr = a->to.vip,
		.slot = p->slot_index,
		.generation = frag6_generation(p->slot, a->to.service),
		.ifindex = a->to.ifindex,
		.service = a->to.service,
		.seen = clock_seen(),
	};

	if (vm6_frag_key(p, &key))
		map_update(fragments6, &key, &frag);
}

/* The client's flow that it belongs to, by `reverse`; where the entry has had to
 * make room, `replies` knows the oldest of the VIPs and ports that lead there. No
 * flow, no answer: nothing is sent as the VIP that nobody has asked for. Returns a
 * drop reason or 0. */
inline __u32 answer6_find(const struct vm6 *p, struct answer6 *a)
{
	struct reply_key key = {
		.slot = p->slot_index,
		.port = a->key.internal_port,
		.proto = a->key.proto,
		.family = REPLY_IPV6,
	};
	const __u64 hash = reverse_hash(&a->key, p->settings->seed);
	struct reverse *reverse =
		reverse_look_up(p->settings, p->slot, &a->key, hash, true);
	struct tuple tuple = {
		.client = a->key.client,
		.client_port = a->key.client_port,
		.proto = a->key.proto,
	};
	struct reply *reply;

	if (reverse) {
		a->to.vip = reverse->vip;
		a->to.port = reverse->vip_port;
	} else {
		reply = map_lookup(replies, &key);
		if (!reply)
			return DROP_IPV6;
		a->to.vip = reply->vip;
		a->to.port = reply->port;
	}
	tuple.vip = a->to.vip;
	tuple.vip_port = a->to.port;
	if (!answer_touch(p->settings, p->slot_index, &tuple, a->state, &a->to,
			  true))
		return DROP_REPLY_NO_FLOW;
	if (reverse && a->state)
		reverse_touch(reverse, a->state | a->to.confirmed);
	return DROP_NONE;
}

/* As ip6_settle: TCP, UDP and errors are one to the verifier from here on. */
inline void answer6_settle(const struct vm6 *p, struct answer6 *a)
{
	a->state += p->settings->zero;
	a->fault += p->settings->zero;
	a->syn += p->settings->zero;
	a->to.kind += p->settings->zero;
}

/* What the packet is sent as. Returns a drop reason or 0. */
inline __u32 answer6_of(const struct vm6 *p, struct answer6 *a)
{
	__u32 reason;

	a->key.slot = p->slot_index;
	if (p->upper.later)
		return answer6_fragment(p, a);
	if (p->upper.proto == IPPROTO_TCP || p->upper.proto == IPPROTO_UDP)
		reason = answer6_l4(p, a);
	else
		reason = p->upper.proto == NEXT_ICMP6 ? answer6_icmp(p, a) :
							DROP_IPV6;
	if (reason)
		return reason;
	answer6_settle(p, a);
	reason = answer6_find(p, a);
	answer6_settle(p, a);
	return reason;
}

#endif
