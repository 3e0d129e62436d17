/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a machine to others of its network (6PN): on this host straight to their
 * interface, else in mesh form to their host. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM6_SIXPN_H
#define FLYEBPF_VM6_SIXPN_H

#include "mesh_send.h"
#include "mss.h"
#include "vm6_big.h"
#include "vm6_offload.h"

#define DHCP6_CLIENT 546
#define DHCP6_SERVER 547
#define TCP_AND_IPV6 60 /* bytes of headers that an MSS leaves out */

/* Whether an address of fdaa::/16 is one that the machine may try. Returns a
 * drop reason or 0. */
inline __u32 sixpn_check(const struct settings *s, const struct slot *slot,
			 const struct sixpn *to)
{
	if (!to->network || is_host_number(to->network))
		return DROP_SIXPN_ADDRESS;
	if (to->network != slot->network)
		return DROP_SIXPN_NETWORK;
	if (to->host == FLYCAST_HOST)
		return s->proxy ? DROP_NONE : DROP_NEEDS_PROXY;
	if (!is_host_number(to->host) || !to->machine)
		return DROP_SIXPN_ADDRESS;
	return DROP_NONE;
}

/* What machines may say to each other: nothing that belongs to a link, nor
 * answers of DHCP servers. Later fragments say nothing without the first one.
 * Returns a drop reason or 0. */
inline __u32 sixpn_protocol(const struct vm6 *p)
{
	if (p->upper.later || p->upper.proto == IPPROTO_TCP)
		return DROP_NONE;
	if (p->upper.proto == IPPROTO_UDP)
		return p->dport == bpf_htons(DHCP6_CLIENT) &&
				       p->sport == bpf_htons(DHCP6_SERVER) ?
			       DROP_ND_TYPE :
			       DROP_NONE;
	if (p->upper.proto != NEXT_ICMP6)
		return DROP_PROTO;
	return p->type > ICMP6_ECHO_REPLY ? DROP_ND_TYPE : DROP_NONE;
}

inline int sixpn_to_machine(struct vm6 *p, const struct sixpn *to)
{
	__u32 *index = sixpn_slot(to->network, to->machine);
	struct slot *slot = index ? get_slot(*index) : 0;
	struct ethhdr *eth = (void *)p->ip - IP6_AT;

	/* the slot may have gone to another machine meanwhile */
	if (!slot || slot->network != to->network ||
	    slot->machine != to->machine ||
	    (slot->flags & (SLOT_LIVE | SLOT_REMOTE)) != SLOT_LIVE)
		return tc_drop(p->skb, DROP_SIXPN_MACHINE);
	mac_set(eth->h_dest, slot->mac);
	mac_set(eth->h_source, slot->host_mac);
	p->ip->hop_limit--;
	count(COUNT_SIXPN_LOCAL);
	return bpf_redirect(slot->ifindex, 0);
}

/* A user's WireGuard peer: which one, WireGuard knows. */
inline int sixpn_to_peer(struct vm6 *p)
{
	if (!p->settings->peers)
		return tc_drop(p->skb, DROP_SIXPN_MACHINE);
	p->ip->hop_limit--;
	count(COUNT_PEER_OUT);
	return bpf_redirect(p->settings->peers, 0);
}

inline int sixpn_to_host(struct vm6 *p, __u32 number)
{
	__u32 mtu = p->settings->mesh_mtu;
	struct host *host = get_host(number);

	if (!host)
		return tc_drop(p->skb, DROP_SIXPN_HOST);
	if (vm6_wire_length(p) > mtu)
		return vm6_too_big(p, mtu);
	if (vm6_is_syn(p) &&
	    !mss_lower(p->skb, p->upper.at, mtu - TCP_AND_IPV6))
		return tc_drop(p->skb, DROP_REWRITE);
	p->ip = ip6_header(p->skb);
	if (!p->ip)
		return tc_drop(p->skb, DROP_REWRITE);
	sixpn_swap(&p->ip->src);
	sixpn_swap(&p->ip->dst);
	p->ip->hop_limit--;
	count(COUNT_SIXPN_OUT);
	return mesh_send_to(p->skb, p->settings, host);
}

/* To fdaa::3, for DNS alone: it is who it says it is, and the next program at the
 * interface (dns.c) has the rest. Without that one it ends in the host's stack,
 * which takes no IPv6 from the interface. */
inline int vm6_nameserver(struct vm6 *p)
{
	struct ports ports;
	__u32 reason;

	if (p->from != FROM_OWN)
		return tc_drop(p->skb, DROP_SPOOFED_IP);
	if (p->upper.extended ||
	    (p->upper.proto != IPPROTO_UDP && p->upper.proto != IPPROTO_TCP) ||
	    !vm6_peek(p, &ports, sizeof(ports)) || ports.dest != bpf_htons(DNS_PORT))
		return tc_drop(p->skb, DROP_VM_TO_HOST);
	reason = vm6_check_offload(p);
	if (reason)
		return tc_drop(p->skb, reason);
	p->skb->cb[CB_PARTIAL] = p->partial;
	return TC_ACT_UNSPEC;
}

inline int vm6_sixpn(struct vm6 *p)
{
	struct sixpn to = sixpn_of(&p->ip->dst);
	__u32 reason;

	if (is_nameserver(&to, 0))
		return vm6_nameserver(p);
	reason = p->from == FROM_OWN ?
			 sixpn_check(p->settings, p->slot, &to) :
			 DROP_SPOOFED_IP;

	if (!reason)
		reason = sixpn_protocol(p);
	if (!reason && p->ip->hop_limit <= 1)
		reason = DROP_TTL;
	if (!reason)
		reason = vm6_check_offload(p);
	if (reason)
		return tc_drop(p->skb, reason);
	if (to.host == FLYCAST_HOST) /* the next program at the interface, dns.c */
		return TC_ACT_UNSPEC;
	if (to.host != p->slot->host)
		return sixpn_to_host(p, to.host);
	if (to.machine == PEER_MACHINE)
		return sixpn_to_peer(p);
	return sixpn_to_machine(p, &to);
}

#endif
