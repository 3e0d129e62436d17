/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of the host port's far end: what the host's stack sends to machines
 * and users' peers. Only answers of its DNS server and of Flycast addresses are let
 * through; the routes lead all of private networks' addresses here, whoever of the
 * host sends there.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include "flycast.h"
#include "ip6.h"
#include "sixpn.h"
#include "tc.h"

struct host_packet {
	struct __sk_buff *skb;
	const struct settings *settings;
	struct ip6 *ip; /* in the frame */
	struct sixpn to;
};

/* From a Flycast address of the network, on a host with a proxy. */
inline bool host_is_flycast(const struct host_packet *p)
{
	struct sixpn from = sixpn_of(&p->ip->src);

	return p->settings->proxy && in_sixpn(&p->ip->src) &&
	       is_flycast(&from, p->to.network, p->ip->next);
}

/* An answer of the DNS server of the network, or an error about a query. */
inline bool host_is_answer(const struct host_packet *p)
{
	struct sixpn from = sixpn_of(&p->ip->src);
	__be16 first; /* source port, or type and code */

	if (!in_sixpn(&p->ip->src) ||
	    (!is_nameserver(&from, 0) && !is_nameserver(&from, p->to.network)) ||
	    bpf_skb_load_bytes(p->skb, IP6_END, &first, sizeof(first)))
		return false;
	if (p->ip->next == NEXT_ICMP6)
		return !(bpf_ntohs(first) >> 15);
	return (p->ip->next == IPPROTO_UDP || p->ip->next == IPPROTO_TCP) &&
	       first == bpf_htons(DNS_PORT);
}

inline int host_to_machine(struct host_packet *p)
{
	__u32 *index = sixpn_slot(p->to.network, p->to.machine);
	struct slot *slot = index ? get_slot(*index) : 0;
	struct ethhdr *eth;
	struct ip6 *ip;

	/* the slot may have gone to another machine meanwhile */
	if (!slot || slot->network != p->to.network ||
	    slot->machine != p->to.machine ||
	    (slot->flags & (SLOT_LIVE | SLOT_REMOTE)) != SLOT_LIVE)
		return tc_drop(p->skb, DROP_SIXPN_MACHINE);
	ip = ip6_header(p->skb);
	if (!ip)
		return tc_drop(p->skb, DROP_REWRITE);
	eth = (void *)ip - IP6_AT;
	__builtin_memcpy(eth->h_dest, slot->mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, slot->host_mac, ETH_ALEN);
	count(COUNT_HOST_OUT);
	return bpf_redirect(slot->ifindex, 0);
}

inline int host_to_peer(struct host_packet *p)
{
	if (!p->settings->peers)
		return tc_drop(p->skb, DROP_SIXPN_MACHINE);
	count(COUNT_HOST_OUT);
	return bpf_redirect(p->settings->peers, 0);
}

int host_tc(struct __sk_buff *skb)
{
	struct host_packet p = { .skb = skb };

	p.settings = get_settings();
	p.ip = skb->protocol == bpf_htons(ETH_P_IPV6) ? ip6_load(skb) : 0;
	if (!p.settings || !p.ip)
		return tc_drop(skb, DROP_HOST_SOURCE);
	p.to = sixpn_of(&p.ip->dst);
	if (!in_sixpn(&p.ip->dst) || !p.to.network ||
	    is_host_number(p.to.network) ||
	    (!host_is_answer(&p) && !host_is_flycast(&p)))
		return tc_drop(skb, DROP_HOST_SOURCE);
	if (p.to.host != p.settings->host)
		return tc_drop(skb, DROP_SIXPN_HOST);
	return p.to.machine == PEER_MACHINE ? host_to_peer(&p) :
					      host_to_machine(&p);
}
