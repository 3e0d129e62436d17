/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of the users' WireGuard device: what users' own computers send
 * into their networks. WireGuard has proved that the source is the peer's (its
 * AllowedIPs); here it is proved that it is one of a peer of this host at all.
 * There is no Ethernet header. Everything that is not for a machine or another
 * peer of the same network ends here.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "packet.h"
#include "flycast.h"
#include "mesh_packet.h"
#include "mesh_send.h"

#define TCP_AND_IPV6 60	   /* bytes of headers that an MSS leaves out */

/* fdaa:<network>:<this host>:0:a:XX00/120 */
inline bool is_peer(const struct mesh *m, const struct sixpn *src)
{
	return in_sixpn(&m->outer.src) && src->network &&
	       !is_host_number(src->network) &&
	       src->host == m->settings->host && src->machine == PEER_MACHINE;
}

/* Whether a peer of the network may try the address. Returns a drop reason or 0. */
inline __u32 peer_check(const struct mesh *m, __u32 network, const struct sixpn *to)
{
	if (!in_sixpn(&m->outer.dst))
		return DROP_IPV6;
	if (is_nameserver(to, 0))
		return DROP_VM_TO_HOST;
	if (!to->network || is_host_number(to->network))
		return DROP_SIXPN_ADDRESS;
	if (to->network != network)
		return DROP_SIXPN_NETWORK;
	if (to->host == FLYCAST_HOST)
		return m->settings->proxy ? DROP_NONE : DROP_NEEDS_PROXY;
	if (!is_host_number(to->host) || !to->machine)
		return DROP_SIXPN_ADDRESS;
	return m->outer.hop_limit <= 1 ? DROP_TTL : DROP_NONE;
}

inline bool peer_store_hop(struct mesh *m)
{
	const __u32 at = __builtin_offsetof(struct mesh_header, hop_limit);

	m->outer.hop_limit--;
	return !bpf_skb_store_bytes(m->skb, at, &m->outer.hop_limit, 1, 0);
}

inline int peer_to_machine(struct mesh *m, const struct sixpn *to)
{
	struct slot *slot = mesh_slot(m, to->network, to->machine);

	if (!slot)
		return mesh_drop(m, DROP_SIXPN_MACHINE);
	if (!peer_store_hop(m) ||
	    !mesh_store_eth(m, slot->mac, slot->host_mac, ETH_P_IPV6))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_PEER_IN);
	return bpf_redirect(slot->ifindex, 0);
}

/* Bytes of the packet on the mesh, of each segment if it is a train. tcp: its
 * header, if it has one. */
inline __u32 peer_longest(const struct mesh *m, const struct tcphdr *tcp)
{
	if (!mesh_is_train(m))
		return m->skb->len;
	return sizeof(m->outer) + tcp->doff * 4 + m->skb->gso_size;
}

inline int peer_to_host(struct mesh *m, __u32 number)
{
	const __u32 l4 = sizeof(m->outer), mtu = m->settings->mesh_mtu;
	const __u8 none[ETH_ALEN] = {}; /* mesh_send() knows them */
	struct tcphdr tcp = {};

	if (!get_host(number))
		return mesh_drop(m, DROP_SIXPN_HOST);
	if (m->outer.next_header == IPPROTO_TCP &&
	    bpf_skb_load_bytes(m->skb, l4, &tcp, sizeof(tcp)))
		return mesh_drop(m, DROP_TRUNCATED);
	if (peer_longest(m, &tcp) > mtu)
		return mesh_drop(m, DROP_TOO_BIG);
	if (tcp.syn && !mss_lower(m->skb, l4, mtu - TCP_AND_IPV6))
		return mesh_drop(m, DROP_REWRITE);
	if (!peer_store_hop(m) || !mesh_swap(m))
		return mesh_drop(m, DROP_REWRITE);
	if (m->settings->mesh_flags & MESH_ETHERNET &&
	    !mesh_store_eth(m, none, none, ETH_P_IPV6))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_PEER_IN);
	return mesh_send(m->skb, m->settings, number);
}

inline int peer_to_peer(struct mesh *m)
{
	if (!peer_store_hop(m))
		return mesh_drop(m, DROP_REWRITE);
	count(COUNT_PEER_IN);
	count(COUNT_PEER_OUT);
	return bpf_redirect(m->settings->peers, 0);
}

/* Into the host's stack. */
inline int peer_to_stack(struct mesh *m, __u32 what)
{
	struct settings *s = m->settings;

	if (!s->host_port)
		return mesh_drop(m, DROP_VM_TO_HOST);
	if (!mesh_store_eth(m, s->host_mac, s->host_mac, ETH_P_IPV6))
		return mesh_drop(m, DROP_REWRITE);
	count(what);
	return bpf_redirect(s->host_port, BPF_F_INGRESS);
}

/* To fdaa:<network>::3, for DNS alone. */
inline int peer_to_nameserver(struct mesh *m)
{
	struct ports ports;

	if ((m->outer.next_header != IPPROTO_UDP &&
	     m->outer.next_header != IPPROTO_TCP) ||
	    bpf_skb_load_bytes(m->skb, sizeof(m->outer), &ports, sizeof(ports)) ||
	    ports.dest != bpf_htons(DNS_PORT))
		return mesh_drop(m, DROP_VM_TO_HOST);
	return peer_to_stack(m, COUNT_DNS_PASSED);
}

/* To a Flycast address of the network, by this host's proxy: what machines may send
 * there (flycast.h, vm6_sixpn.h). */
inline int peer_to_flycast(struct mesh *m, const struct sixpn *to)
{
	__u8 type;

	if (!is_flycast(to, to->network, m->outer.next_header))
		return mesh_drop(m, DROP_PROTO);
	if (m->outer.next_header == NEXT_ICMP6 &&
	    (bpf_skb_load_bytes(m->skb, sizeof(m->outer), &type, sizeof(type)) ||
	     type > ICMP6_ECHO_REPLY))
		return mesh_drop(m, DROP_ND_TYPE);
	m->skb->mark = PROXY_MARK;
	return peer_to_stack(m, COUNT_PROXY);
}

int peer_tc(struct __sk_buff *skb)
{
	struct mesh m = { .skb = skb };
	struct sixpn from, to;
	__u32 reason;

	m.settings = get_settings();
	if (!m.settings || !m.settings->host || !m.settings->peers ||
	    skb->protocol != bpf_htons(ETH_P_IPV6))
		return mesh_drop(&m, DROP_PEER_SOURCE);
	if (bpf_skb_load_bytes(skb, 0, &m.outer, sizeof(m.outer)))
		return mesh_drop(&m, DROP_TRUNCATED);
	if (bpf_ntohl(m.outer.version) >> 28 != 6)
		return mesh_drop(&m, DROP_IPV6_HEADER);
	if (!mesh_is_train(&m) &&
	    sizeof(m.outer) + bpf_ntohs(m.outer.length) > skb->len)
		return mesh_drop(&m, DROP_TRUNCATED);
	from = sixpn_of(&m.outer.src);
	to = sixpn_of(&m.outer.dst);
	if (!is_peer(&m, &from))
		return mesh_drop(&m, DROP_PEER_SOURCE);
	if (in_sixpn(&m.outer.dst) && is_nameserver(&to, from.network))
		return peer_to_nameserver(&m);
	reason = peer_check(&m, from.network, &to);
	if (reason)
		return mesh_drop(&m, reason);
	if (to.host == FLYCAST_HOST)
		return peer_to_flycast(&m, &to);
	if (to.host != m.settings->host)
		return peer_to_host(&m, to.host);
	return to.machine == PEER_MACHINE ? peer_to_peer(&m) :
					    peer_to_machine(&m, &to);
}
