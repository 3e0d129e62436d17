/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of the mesh's devices: what other hosts send.
 *
 * First that it is in the form in which hosts send, from a host, to this one.
 * Then what it is: 6PN for a machine or a user's peer, a client's packet for a
 * machine, a reply on its way back to a client. On a plain underlay there is
 * also traffic of the fabric's own, which is none of ours. Everything else ends
 * here.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "ip6.h"
#include "packet.h"
#include "mesh_packet.h"
#include "mesh_deliver.h"
#include "mesh_return.h"
#include "proxy.h"

#define HOP_LIMIT_LINK 255

/* To a user's WireGuard peer: which one, WireGuard knows. */
inline int sixpn_to_peer(struct mesh *m)
{
	if (!m->settings->peers)
		return mesh_drop(m, DROP_MESH_MACHINE);
	if (!mesh_swap(m))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_PEER_OUT);
	return bpf_redirect(m->settings->peers, 0); /* takes Ethernet's header off */
}

/* A machine of another host, or a user's peer there, to one here. */
inline int mesh_sixpn(struct mesh *m, const struct sixpn *src, const struct sixpn *dst)
{
	struct slot *slot;

	if (!src->machine)
		return mesh_drop(m, DROP_MESH_SOURCE);
	/* Their host has counted a hop. What claims to be of the machine's own link
	 * (neighbour messages, RFC 4861) would be taken for its gateway's. */
	if (m->outer.hop_limit == HOP_LIMIT_LINK)
		return mesh_drop(m, DROP_MESH_FORM);
	if (dst->machine == PEER_MACHINE)
		return sixpn_to_peer(m);
	slot = mesh_slot(m, dst->host, dst->machine);
	if (!slot)
		return mesh_drop(m, DROP_MESH_MACHINE);
	if (!mesh_swap(m) ||
	    !mesh_store_eth(m, slot->mac, slot->host_mac, ETH_P_IPV6))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_SIXPN_IN);
	return bpf_redirect(slot->ifindex, 0);
}

/* What a host sends as itself: carried packets, and its own to this host. */
inline int mesh_host(struct mesh *m, const struct sixpn *src, const struct sixpn *dst)
{
	if (!mesh_is_of_host(src))
		return mesh_drop(m, DROP_MESH_SOURCE);
	if (m->outer.next_header != NEXT_IPV4 && m->outer.next_header != NEXT_IPV6) {
		if (!dst->machine && dst->suffix == HOST_SUFFIX)
			return TC_ACT_UNSPEC;
		return mesh_drop(m, DROP_MESH_FORM);
	}
	if (m->outer.next_header == NEXT_IPV6)
		return TC_ACT_UNSPEC; /* for mesh6_tc.c */
	if (!mesh_load_inner(m))
		return mesh_drop(m, DROP_MESH_INNER);
	m->port = bpf_htons(dst->suffix);
	if (dst->machine)
		return mesh_deliver(m, dst->machine);
	return dst->suffix ? mesh_drop(m, DROP_MESH_FORM) : mesh_return(m);
}

inline bool is_host_address(const struct addr *a)
{
	struct sixpn six = sixpn_of(a);

	return in_sixpn(a) && is_host_number(six.network) && !six.host &&
	       !six.machine && six.suffix == HOST_SUFFIX;
}

/* How hosts on a plain underlay find each other's MAC (RFC 4861): a question
 * from or about a host's address, and its answer. The kernel's to deal with;
 * what names others' addresses is not forwarded (hop limit, fence). */
inline bool mesh_is_nd(struct mesh *m)
{
	const struct addr *src = &m->outer.src, *dst = &m->outer.dst;
	__u8 type;

	if (m->outer.next_header != NEXT_ICMP6 ||
	    m->outer.hop_limit != HOP_LIMIT_LINK ||
	    bpf_skb_load_bytes(m->skb, m->l3 + sizeof(m->outer), &type, 1))
		return false;
	if (type != ICMP6_SOLICIT && type != ICMP6_ADVERT)
		return false;
	return (is_host_address(src) &&
		(ip6_is_multicast(dst) || ip6_is_link_local(dst))) ||
	       (ip6_is_link_local(src) && is_host_address(dst));
}

inline int mesh_ipv6(struct mesh *m)
{
	struct sixpn src, dst;
	__u32 reason;

	if (bpf_skb_load_bytes(m->skb, m->l3, &m->outer, sizeof(m->outer)))
		return mesh_drop(m, DROP_TRUNCATED);
	if (m->l3 && !in_sixpn(&m->outer.src) && !in_sixpn(&m->outer.dst))
		return TC_ACT_UNSPEC;
	if (m->l3 && mesh_is_nd(m))
		return TC_ACT_UNSPEC;
	reason = mesh_outer(m, &src, &dst);
	if (reason)
		return mesh_drop(m, reason);
	return dst.host ? mesh_sixpn(m, &src, &dst) : mesh_host(m, &src, &dst);
}

/* The proxies of hosts speak to machines of other hosts in plain IPv4. That the
 * sender has the address, the mesh has seen to; which ports of the machine are
 * served, vm_out and the machine's vm_tc see to. */
inline int mesh_ipv4(struct mesh *m)
{
	const struct settings *s = m->settings;
	bool from, to;

	if (bpf_skb_load_bytes(m->skb, m->l3, &m->ip, sizeof(m->ip)))
		return mesh_drop(m, DROP_TRUNCATED);
	from = in_private(s, bpf_ntohl(m->ip.saddr));
	to = in_private(s, bpf_ntohl(m->ip.daddr));
	if (from && to && m->ip.protocol == IPPROTO_TCP &&
	    (is_proxy(m->ip.saddr) || m->ip.daddr == s->proxy)) {
		m->skb->mark = PROXY_MARK;
		return TC_ACT_UNSPEC;
	}
	if (m->l3 && !from && !to && !in_alias(s, bpf_ntohl(m->ip.daddr)))
		return TC_ACT_UNSPEC;
	return mesh_drop(m, DROP_MESH_FORM);
}

int mesh_tc(struct __sk_buff *skb)
{
	struct mesh m = { .skb = skb };

	m.settings = get_settings();
	if (!m.settings || !m.settings->host) /* not written yet */
		return mesh_drop(&m, DROP_MESH_NOT_HERE);
	if (m.settings->mesh_flags & MESH_ETHERNET)
		m.l3 = sizeof(struct ethhdr);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return mesh_ipv6(&m);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return mesh_ipv4(&m);
	return m.l3 ? TC_ACT_UNSPEC : mesh_drop(&m, DROP_MESH_FORM);
}
