/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc egress of every VM's interface: what is about to be delivered to a VM.
 *
 * Whoever sent it here has looked already whom it is for. This looks again, by
 * other means: not where somebody wants it to go, but whose interface this is.
 * Nothing is changed here.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "ip6.h"
#include "packet.h"
#include "proxy.h"
#include "sixpn.h"
#include "tc.h"

/* From a private address come proxies, to ports that are served, and the gateway's
 * errors. VMs are seen under their aliases. */
inline bool out_private(struct __sk_buff *skb, const struct settings *s,
			const struct iphdr *ip, __u32 slot)
{
	struct ports ports;

	if (ip->protocol == IPPROTO_ICMP)
		return ip->saddr == s->proxy;
	return ip->protocol == IPPROTO_TCP && !is_fragment(ip) &&
	       !bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + ip->ihl * 4,
				   &ports, sizeof(ports)) &&
	       is_proxy(ip->saddr) && is_proxy_port(slot, ports.dest);
}

inline bool out_ipv4(struct __sk_buff *skb, const struct settings *s,
		     const struct slot *slot, __u32 index)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip)))
		return false;
	if (!ip.daddr ||
	    (ip.daddr != slot->private_ip && ip.daddr != slot->services_ip))
		return false;
	return !in_private(s, bpf_ntohl(ip.saddr)) ||
	       out_private(skb, s, &ip, index);
}

/* Whether somebody with such an address may reach a machine of the network. */
inline bool may_reach(const struct addr *src, const struct slot *slot)
{
	struct sixpn from = sixpn_of(src);

	if (!in_sixpn(src))
		return !ip6_is_multicast(src) && src->word[0];
	if (!from.network)
		return !from.host && !from.machine &&
		       from.suffix == NAMESERVER_SUFFIX;
	if (from.network != slot->network)
		return false;
	return from.host == FLYCAST_HOST ||
	       (is_host_number(from.host) && from.machine);
}

/* From a link-local address: what the gateway says to the machine, and
 * neighbour messages of the host's own. */
inline bool from_link(struct __sk_buff *skb, const struct ip6 *ip, bool own)
{
	__u8 type;

	if (own && ip6_is_gateway(&ip->src))
		return true;
	if (!own && !ip6_is_link_local(&ip->dst) && !ip6_is_multicast(&ip->dst))
		return false;
	if (ip->next != NEXT_ICMP6 ||
	    bpf_skb_load_bytes(skb, IP6_END, &type, sizeof(type)))
		return false;
	return type == ICMP6_SOLICIT || type == ICMP6_ADVERT ||
	       (type == ICMP6_ECHO_REPLY && ip6_is_gateway(&ip->src));
}

inline bool out_ipv6(struct __sk_buff *skb, const struct slot *slot)
{
	struct ip6 *ip = ip6_load(skb);
	bool own;

	if (!ip)
		return false;
	own = sixpn_is_of(&ip->dst, slot);
	if (ip6_is_link_local(&ip->src))
		return from_link(skb, ip, own);
	return own && may_reach(&ip->src, slot);
}

int vm_out(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, *index;
	struct settings *settings = get_settings();
	struct slot *slot;
	bool fits = false;

	index = settings ? vm_slot_of(settings, ifindex) : 0;
	slot = index ? get_slot(*index) : 0;
	if (slot && slot->ifindex == ifindex && !skb->vlan_present) {
		if (skb->protocol == bpf_htons(ETH_P_IP))
			fits = out_ipv4(skb, settings, slot, *index);
		else if (skb->protocol == bpf_htons(ETH_P_IPV6))
			fits = out_ipv6(skb, slot);
		else
			fits = skb->protocol == bpf_htons(ETH_P_ARP);
	}
	return fits ? TC_ACT_UNSPEC : tc_drop(skb, DROP_NOT_FOR_VM);
}
