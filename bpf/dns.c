/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of every VM's interface, after vm_tc: what a VM sends to the host's
 * DNS server, fdaa::3, and to Flycast addresses of its network.
 *
 * A query for a name that the plan has entered in `names` is answered at once;
 * everything else goes to the host port, behind which the server is. Both are
 * limited for each interface, passing on for more than answering, so that what one
 * VM asks does not cost another its answers.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include <linux/in.h>
#include "dns_answer.h"
#include "flycast.h"
#include "sixpn.h"

/* What a machine may ask in 16 jiffies; 16,000 answers a second at 250 Hz. */
#ifndef DNS_PER_PERIOD
#define DNS_PER_PERIOD 1024
#endif
#define COST_ANSWER 1
#define COST_PASS 4

struct dns {
	struct __sk_buff *skb;
	const struct settings *settings;
	const struct slot *slot; /* the sender's */
	struct dns_scratch *scratch;
	struct dns_limit *limit;
	struct dns_query query;
};

inline void mac_copy(__u8 *to, const __u8 *from)
{
	__builtin_memcpy(to, from, ETH_ALEN);
}

inline bool dns_may(struct dns *d, __u32 slot)
{
	__u32 now = bpf_jiffies64() >> 4;

	d->limit = map_lookup(dns_limits, &slot);
	if (!d->limit)
		return false;
	if (d->limit->seen != now) {
		d->limit->seen = now;
		d->limit->left = DNS_PER_PERIOD;
	}
	return d->limit->left >= COST_PASS;
}

/* Headers of the answer, in place. */
inline bool dns_headers(struct dns *d, __u32 length, __u64 sum)
{
	struct __sk_buff *skb = d->skb;
	struct dns_header *from = (void *)d->scratch->query;
	struct dns_header *header;
	struct ip6 *ip = ip6_header(skb);
	struct ethhdr *eth;
	struct udphdr *udp;
	struct addr own;

	if (!ip)
		return false;
	eth = (void *)ip - IP6_AT;
	udp = (void *)(ip + 1);
	header = (void *)(udp + 1);
	if ((void *)(header + 1) > (void *)(long)skb->data_end)
		return false;
	mac_copy(eth->h_dest, d->slot->mac);
	mac_copy(eth->h_source, d->slot->host_mac);
	ip->version = bpf_htonl(6U << 28);
	ip->length = bpf_htons(length);
	ip->hop_limit = DNS_HOP_LIMIT;
	own = ip->src;
	ip->src = ip->dst;
	ip->dst = own;
	udp->dest = udp->source;
	udp->source = bpf_htons(DNS_PORT);
	udp->len = bpf_htons(length);
	*header = *from;
	sum += udp->dest + udp->source + udp->len;
	/* The sum that is still to be filled in begins with the addresses. */
	if (skb->cb[CB_PARTIAL])
		udp->check = fold(dns_pseudo(ip, length));
	else
		udp->check = csum_fold(sum + dns_pseudo(ip, length)) ?: 0xffff;
	return true;
}

/* The frame becomes the answer; tail: bytes of its records. */
inline int dns_answer(struct dns *d, const struct name *name, __u64 tail)
{
	struct __sk_buff *skb = d->skb;
	const __u32 end = d->query.end;
	__u32 length = sizeof(struct udphdr) + end + tail;
	__u64 sum;

	dns_front(d->scratch, &d->query);
	sum = dns_sum(d->scratch, &d->query, name);
	if (tail < RECORD_BYTES)
		return tc_drop(skb, DROP_REWRITE);
	unfold(tail);
	if (tail > NAME_ADDRESSES * RECORD_BYTES + OPT_BYTES)
		return tc_drop(skb, DROP_REWRITE);
	if (bpf_skb_change_tail(skb, IP6_END + length, 0) ||
	    bpf_skb_store_bytes(skb, DNS_AT + end, d->scratch->tail, tail, 0) ||
	    !dns_headers(d, length, sum))
		return tc_drop(skb, DROP_REWRITE);
	d->limit->left -= COST_ANSWER;
	count(COUNT_DNS_ANSWER);
	return bpf_redirect(skb->ifindex, 0);
}

/* What the query, if it is one, is answered with, or 0. */
inline struct name *dns_find(struct dns *d, const struct ip6 *ip)
{
	struct name_key key = { .network = d->slot->network };
	__u32 zero = 0, size;

	if (ip->next != IPPROTO_UDP)
		return 0;
	d->scratch = map_lookup(dns_scratch, &zero);
	size = d->scratch ? dns_load(d->skb, ip, d->scratch) : 0;
	if (!size || !dns_parse(d->scratch, size, &d->query, &key))
		return 0;
	return map_lookup(names, &key);
}

/* Into the host's stack. */
inline int host_pass(struct dns *d, __u32 what)
{
	struct ip6 *ip = ip6_header(d->skb);
	struct ethhdr *eth;

	if (!ip || !d->settings->host_port)
		return tc_drop(d->skb, DROP_VM_TO_HOST);
	eth = (void *)ip - IP6_AT;
	mac_copy(eth->h_dest, d->settings->host_mac);
	count(what);
	return bpf_redirect(d->settings->host_port, BPF_F_INGRESS);
}

inline int dns_pass(struct dns *d)
{
	d->limit->left -= COST_PASS;
	return host_pass(d, COUNT_DNS_PASSED);
}

inline int flycast_pass(struct dns *d)
{
	d->skb->mark = PROXY_MARK;
	return host_pass(d, COUNT_PROXY);
}

int dns(struct __sk_buff *skb)
{
	struct dns d = { .skb = skb };
	struct name *name;
	struct sixpn to;
	struct ip6 *ip;
	__u32 *index, tail;

	ip = skb->protocol == bpf_htons(ETH_P_IPV6) ? ip6_load(skb) : 0;
	if (ip && !in_sixpn(&ip->dst))
		return TC_ACT_UNSPEC; /* for vm6_tc.c */
	d.settings = get_settings();
	index = d.settings ? vm_slot_of(d.settings, skb->ifindex) : 0;
	d.slot = index ? get_slot(*index) : 0;
	if (!d.slot || d.slot->ifindex != skb->ifindex)
		return tc_drop(skb, DROP_UNKNOWN_VM);
	if (!ip)
		return tc_drop(skb, DROP_VM_TO_HOST);
	/* vm_tc has seen to all of this; nothing may depend on a filter's order */
	to = sixpn_of(&ip->dst);
	if (!is_nameserver(&to, 0) && to.host != FLYCAST_HOST)
		return tc_drop(skb, DROP_VM_TO_HOST);
	if (!sixpn_is_of(&ip->src, d.slot))
		return tc_drop(skb, DROP_SPOOFED_IP);
	if (to.host == FLYCAST_HOST)
		return d.settings->proxy && is_flycast(&to, d.slot->network, ip->next) ?
			       flycast_pass(&d) :
			       tc_drop(skb, DROP_NEEDS_PROXY);
	if (!dns_may(&d, *index))
		return tc_drop(skb, DROP_DNS_LIMIT);
	name = dns_find(&d, ip);
	tail = name ? dns_tail(d.scratch, &d.query, name, d.slot->network) : 0;
	return tail ? dns_answer(&d, name, tail) : dns_pass(&d);
}
