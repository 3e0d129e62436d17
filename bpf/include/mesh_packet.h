/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A packet from the mesh: its headers as copies on the stack. Devices of
 * WireGuard have no Ethernet header, those of a plain underlay do. Nothing is
 * changed before everything has been looked at. Included by mesh_tc.c and, for
 * what it shares with that, by peer_tc.c.
 */
#ifndef FLYEBPF_MESH_PACKET_H
#define FLYEBPF_MESH_PACKET_H

#include "mesh_header.h"
#include "mss.h"
#include "packet.h"
#include "route.h"
#include "tc_rewrite.h"

struct mesh {
	struct __sk_buff *skb;
	struct settings *settings;
	struct slot *slot; /* of the machine that it is for */
	__u32 slot_index;
	__u32 l3;	/* offset of the outer header */
	__u32 inner;	/* of the one that it carries */
	__u32 l4;	/* of the carried one's L4 header */
	__u32 l4_room;	/* bytes from there to the end of the carried packet */
	__u32 from;	/* number of the host that sent it */
	__be16 port;	/* internal port that the sender says, or 0 */
	__u8 flags;	/* of TCP */
	struct mesh_header outer;
	struct iphdr ip; /* the carried one's */
	struct ports ports;
};

inline int mesh_drop(const struct mesh *m, __u32 reason)
{
	return tc_drop(m->skb, reason);
}

/* A train of segments, longer than length fields may say. */
inline bool mesh_is_train(const struct mesh *m)
{
	return m->skb->gso_size;
}

/* The machine, if it is here and in that network (0: any), or 0. */
inline struct slot *mesh_slot(struct mesh *m, __u32 network, __u32 machine)
{
	__u32 *index = sixpn_slot(network, machine);
	struct slot *slot = index ? get_slot(*index) : 0;

	/* the slot may have gone to another machine meanwhile */
	if (!slot || slot->machine != machine ||
	    (network && slot->network != network) ||
	    (slot->flags & (SLOT_LIVE | SLOT_REMOTE)) != SLOT_LIVE)
		return 0;
	m->slot_index = *index;
	return slot;
}

/* Whether the outer header is one that a host of the mesh sends to this one, and
 * its fields. Sets m->from. Returns a drop reason or 0. */
inline __u32 mesh_outer(struct mesh *m, struct sixpn *src, struct sixpn *dst)
{
	if (!in_sixpn(&m->outer.src) || !in_sixpn(&m->outer.dst) ||
	    bpf_ntohl(m->outer.version) >> 28 != 6 || m->skb->vlan_present)
		return DROP_MESH_FORM;
	if (!mesh_is_train(m) && m->l3 + sizeof(m->outer) +
				       bpf_ntohs(m->outer.length) > m->skb->len)
		return DROP_TRUNCATED;
	/* in mesh form, so what is called network is the host */
	*src = sixpn_of(&m->outer.src);
	*dst = sixpn_of(&m->outer.dst);
	if (!is_host_number(src->network) || !is_host_number(dst->network) ||
	    is_host_number(src->host) || is_host_number(dst->host))
		return DROP_MESH_FORM;
	if (dst->network != m->settings->host)
		return DROP_MESH_NOT_HERE;
	if (!get_host(src->network))
		return DROP_MESH_SOURCE;
	if (src->host != dst->host)
		return DROP_MESH_NETWORK;
	m->from = src->network;
	return DROP_NONE;
}

/* What a host sends as itself. */
inline bool mesh_is_of_host(const struct sixpn *src)
{
	return !src->machine && src->suffix == HOST_SUFFIX;
}

/* The carried IPv4 header. Returns false for what no host sends. The checksum is
 * looked at because a VM of that host can choose two bytes that are written
 * behind its programs, see vm_ip_sums_up. */
inline bool mesh_load_inner(struct mesh *m)
{
	const __u32 carried = bpf_ntohs(m->outer.length);
	struct iphdr *ip = &m->ip;
	__be32 whole[15] = {};
	__u32 header, total;

	m->inner = m->l3 + sizeof(struct mesh_header);
	if (bpf_skb_load_bytes(m->skb, m->inner, ip, sizeof(*ip)))
		return false;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (mesh_is_train(m))
		total = m->skb->len - m->inner;
	else if (total != carried)
		return false;
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return false;
	m->l4 = m->inner + header;
	m->l4_room = total - header;
	if (header == sizeof(*ip))
		return csum_fold(csum_words(ip, sizeof(*ip))) == 0;
	/* Not the options alone: to Linux 6.1 they might be of no length. */
	if (header > sizeof(whole) ||
	    bpf_skb_load_bytes(m->skb, m->inner, whole, header))
		return false;
	return csum_fold((__u32)bpf_csum_diff(0, 0, whole, sizeof(whole), 0)) == 0;
}

/* The ports (and TCP flags) of a packet that is not a later fragment. */
inline bool mesh_load_l4(struct mesh *m)
{
	bool fragment = is_fragment(&m->ip);
	struct tcphdr tcp;

	m->flags = 0;
	if (m->ip.protocol == IPPROTO_TCP) {
		if (m->l4_room < sizeof(tcp) ||
		    bpf_skb_load_bytes(m->skb, m->l4, &tcp, sizeof(tcp)) ||
		    tcp_check(&tcp, m->l4_room))
			return false;
		m->flags = tcp_flags(&tcp);
	} else {
		if (m->l4_room < sizeof(struct udphdr) ||
		    bpf_skb_load_bytes(m->skb, m->l4, &tcp,
				       sizeof(struct udphdr)) ||
		    udp_check((struct udphdr *)&tcp, m->l4_room,
			      fragment || mesh_is_train(m)))
			return false;
	}
	m->ports.source = tcp.source;
	m->ports.dest = tcp.dest;
	return true;
}

/* Key of a fragment that came over the mesh. */
inline struct frag_key mesh_frag_key(const struct mesh *m)
{
	struct frag_key key = {
		.src = m->ip.saddr,
		.dst = m->ip.daddr,
		.id = m->ip.id,
		.proto = m->ip.protocol,
		.from_vm = 2,
	};

	return key;
}

/* New destination in the carried header. The hop was the sender's to count. */
inline bool mesh_store_daddr(struct mesh *m, __be32 daddr)
{
	csum_apply(&m->ip.check, csum_delta4(m->ip.daddr, daddr));
	m->ip.daddr = daddr;
	return !bpf_skb_store_bytes(m->skb, m->inner, &m->ip, sizeof(m->ip), 0);
}

/* The same with the L4 checksum; TCP and UDP with their destination port. */
inline bool mesh_rewrite_l4(struct mesh *m, __be32 daddr, __be16 port)
{
	return tc_rewrite_l4(m->skb, m->l4, m->ip.protocol,
			     csum_delta4(m->ip.daddr, daddr), DEST_PORT,
			     m->ports.dest, port) &&
	       mesh_store_daddr(m, daddr);
}

/* Take the outer header off. Linux 6.1 cannot say in adjust_room that the packet
 * is of another protocol then; change_proto can, and takes off the difference of
 * the headers' sizes, which are the first bytes of the outer one. */
inline bool mesh_decapsulate(struct mesh *m)
{
	const int rest = -(int)sizeof(struct iphdr);

	return !bpf_skb_change_proto(m->skb, bpf_htons(ETH_P_IP), 0) &&
	       !bpf_skb_adjust_room(m->skb, rest, BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Before delivery to a device with Ethernet headers. */
inline bool mesh_store_eth(struct mesh *m, const __u8 *dest, const __u8 *source,
			   __u16 proto)
{
	struct ethhdr eth;

	if (!m->l3 && bpf_skb_change_head(m->skb, sizeof(eth), 0))
		return false;
	__builtin_memcpy(eth.h_dest, dest, ETH_ALEN);
	__builtin_memcpy(eth.h_source, source, ETH_ALEN);
	eth.h_proto = bpf_htons(proto);
	return !bpf_skb_store_bytes(m->skb, 0, &eth, sizeof(eth), 0);
}

/* Both addresses of the outer header to the other form (sixpn.h). */
inline bool mesh_swap(struct mesh *m)
{
	sixpn_swap(&m->outer.src);
	sixpn_swap(&m->outer.dst);
	return !bpf_skb_store_bytes(m->skb,
				    m->l3 + __builtin_offsetof(struct mesh_header, src),
				    &m->outer.src, 2 * sizeof(struct addr), 0);
}

/* The carried packet is rewritten: to the interface of a machine. */
inline int mesh_to_slot(struct mesh *m, const struct slot *slot)
{
	__u32 ifindex = slot->ifindex;

	if (!mesh_decapsulate(m) ||
	    !mesh_store_eth(m, slot->mac, slot->host_mac, ETH_P_IP))
		return mesh_drop(m, DROP_REWRITE);
	return bpf_redirect(ifindex, 0);
}

#endif
