/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a tc program to another host. The frame has an Ethernet header and, from
 * there on, an IPv6 packet in mesh form (sixpn.h), or another packet that
 * mesh_encapsulate() makes one of.
 */
#ifndef FLYEBPF_MESH_SEND_H
#define FLYEBPF_MESH_SEND_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include "mesh_header.h"
#include "tc.h"

#ifndef BPF_F_ADJ_ROOM_FIXED_GSO
#define BPF_F_ADJ_ROOM_FIXED_GSO (1ULL << 0)
#endif
#ifndef BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 (1ULL << 2)
#endif

/* The kernel's neighbours by IPv6 lead IPv6 packets to IPv6 next hops only.
 * One that is an IPv4 address has to be in the neighbour table already, where
 * the host's own messages to it keep it. */
inline int mesh_send_ipv4(struct __sk_buff *skb, const struct host *host)
{
	struct bpf_fib_lookup fib = {};
	struct ethhdr eth;
	long result;

	fib.family = AF_INET;
	fib.ifindex = host->ifindex;
	fib.ipv4_dst = host->next_hop.word[3];
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	if (result != BPF_FIB_LKUP_RET_SUCCESS || fib.ifindex != host->ifindex)
		return tc_drop(skb, DROP_NO_HOST);
	__builtin_memcpy(eth.h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, fib.smac, ETH_ALEN);
	eth.h_proto = bpf_htons(ETH_P_IPV6);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
		return tc_drop(skb, DROP_REWRITE);
	return bpf_redirect(host->ifindex, 0);
}

/* Returns the verdict; a drop is counted here. */
inline int mesh_send_to(struct __sk_buff *skb, const struct settings *s,
			const struct host *host)
{
	struct bpf_redir_neigh next = { .nh_family = AF_INET6 };

	if (!(s->mesh_flags & MESH_ETHERNET))
		return bpf_redirect(host->ifindex, 0); /* takes the header off */
	if (addr_is_ipv4(&host->next_hop))
		return mesh_send_ipv4(skb, host);
	__builtin_memcpy(next.ipv6_nh, &host->next_hop, sizeof(next.ipv6_nh));
	return redirect_neigh(host->ifindex, &next, sizeof(next), 0);
}

/* The same by the host's number. */
inline int mesh_send(struct __sk_buff *skb, const struct settings *s, __u32 number)
{
	struct host *host = get_host(number);

	return host ? mesh_send_to(skb, s, host) : tc_drop(skb, DROP_NO_HOST);
}

/* Put a header before a packet; parameters as in mesh_header(). Segments of a train keep their size: whoever sends
 * them was told of a smaller one. Returns a drop reason or 0. */
inline __u32 mesh_encapsulate(struct __sk_buff *skb, const struct settings *s,
			      __u8 next, __u32 length, __u32 host, __u32 machine,
			      __be16 port)
{
	struct mesh_header header;
	__be16 proto = bpf_htons(ETH_P_IPV6);

	if (bpf_skb_adjust_room(skb, sizeof(header), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 |
					BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_REWRITE;
	mesh_header(&header, s, next, length, host, machine, port);
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &header,
				sizeof(header), 0) ||
	    bpf_skb_store_bytes(skb, 2 * ETH_ALEN, &proto,
				sizeof(proto), 0))
		return DROP_REWRITE;
	return DROP_NONE;
}

#endif
