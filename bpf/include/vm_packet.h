/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A packet from a VM: its headers as copies on the stack, written back whole.
 * Works whatever part of the skb is linear, and leaves L4 checksums to the
 * helpers, which know about offload. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_PACKET_H
#define FLYEBPF_VM_PACKET_H

#include "csum.h"
#include "packet.h"
#include "tc_rewrite.h"

struct headers {
	__u16 pad; /* keeps ip aligned on the stack */
	struct ethhdr eth;
	struct iphdr ip;
};
#define HEADERS_SIZE (sizeof(struct ethhdr) + sizeof(struct iphdr))

struct vm {
	struct __sk_buff *skb;
	struct settings *settings;
	struct slot *slot;
	__u32 slot_index;
	__u32 l4;      /* offset in the frame */
	__u32 l4_room; /* bytes from there to the end of the IP packet */
	struct headers h;
	struct ports ports;
	__u8 flags; /* of TCP */
	__u8 l4_header; /* bytes, set by vm_load_l4 */
	__be16 port;	/* set by vm_set_mesh, with these two */
	__u32 host;
	__u32 machine;
};

inline int vm_drop(const struct vm *vm, __u32 reason)
{
	return tc_drop(vm->skb, reason);
}

/* Of the IP packet, without Ethernet's padding; a train of segments is one. */
inline __u32 vm_bytes(const struct vm *vm)
{
	return vm->l4 - sizeof(struct ethhdr) + vm->l4_room;
}

inline bool vm_is_own_ip(const struct vm *vm, __be32 ip)
{
	return ip == vm->slot->private_ip || ip == vm->slot->services_ip;
}

/* A train of segments. Not gso_segs: that is 0 for what a tap has received. */
inline bool vm_is_train(const struct vm *vm)
{
	return vm->skb->gso_size;
}

#define IP_HEADER_MAX 60

/* Whether the IP header sums up. It is not only noise that is found out here:
 * a VM's driver says where in the frame a checksum is still to be filled in,
 * and that may be any two bytes, those of an address too. They are written
 * behind this program, which a header that was right does not survive, but one
 * that was wrong on purpose would. */
inline bool vm_ip_sums_up(struct vm *vm, __u32 header)
{
	__be32 whole[IP_HEADER_MAX / 4] = {}; /* Linux 6.1 wants it filled */

	if (header == sizeof(struct iphdr))
		return csum_fold(csum_words(&vm->h.ip, sizeof(struct iphdr))) ==
		       0;
	/* Not the options alone: to Linux 6.1 they might be of no length. */
	if (header > sizeof(whole) ||
	    bpf_skb_load_bytes(vm->skb, sizeof(struct ethhdr), whole, header))
		return false;
	return csum_fold((__u32)bpf_csum_diff(0, 0, whole, sizeof(whole), 0)) ==
	       0;
}

/* Returns a drop reason or 0. A train may be longer than tot_len can say, so
 * there only the frame's length counts. */
inline __u32 vm_load_ipv4(struct vm *vm)
{
	struct iphdr *ip = &vm->h.ip;
	__u32 header, total, room;

	if (bpf_skb_load_bytes(vm->skb, 0, &vm->h.eth, HEADERS_SIZE))
		return DROP_TRUNCATED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	room = vm->skb->len - sizeof(struct ethhdr);
	if (vm_is_train(vm))
		total = room;
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return DROP_BAD_IP_HEADER;
	if (total > room)
		return DROP_TRUNCATED;
	if (!vm_ip_sums_up(vm, header))
		return DROP_BAD_IP_HEADER;
	if (!vm_is_own_ip(vm, ip->saddr))
		return DROP_SPOOFED_IP;
	vm->l4 = sizeof(struct ethhdr) + header;
	vm->l4_room = total - header;
	return DROP_NONE;
}

/* The ports (and TCP flags) of a packet that is not a later fragment. */
inline __u32 vm_load_l4(struct vm *vm)
{
	bool fragment = is_fragment(&vm->h.ip);
	struct tcphdr tcp;
	__u32 size, reason;

	size = vm->h.ip.protocol == IPPROTO_TCP ? sizeof(tcp) :
						  sizeof(struct udphdr);
	if (vm->l4_room < size)
		return fragment ? DROP_FRAG_TINY : DROP_BAD_L4_HEADER;
	if (vm->h.ip.protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(vm->skb, vm->l4, &tcp, sizeof(tcp)))
			return DROP_TRUNCATED;
		vm->flags = tcp_flags(&tcp);
		vm->l4_header = tcp.doff * 4;
		reason = tcp_check(&tcp, vm->l4_room);
	} else {
		if (bpf_skb_load_bytes(vm->skb, vm->l4, &tcp,
				       sizeof(struct udphdr)))
			return DROP_TRUNCATED;
		vm->flags = 0;
		vm->l4_header = sizeof(struct udphdr);
		reason = udp_check((struct udphdr *)&tcp, vm->l4_room,
				   fragment || vm_is_train(vm));
	}
	vm->ports.source = tcp.source;
	vm->ports.dest = tcp.dest;
	return reason;
}

inline struct frag_key vm_frag_key(const struct vm *vm)
{
	struct frag_key key = {
		.src = vm->h.ip.saddr,
		.dst = vm->h.ip.daddr,
		.id = vm->h.ip.id,
		.proto = vm->h.ip.protocol,
		.from_vm = 1,
	};

	return key;
}

/* New addresses in the copy of the IP header, one hop less. */
inline void vm_set_ip(struct vm *vm, __be32 saddr, __be32 daddr)
{
	struct iphdr *ip = &vm->h.ip;

	csum_apply(&ip->check, csum_delta4(ip->saddr, saddr) +
				       csum_delta4(ip->daddr, daddr) +
				       csum_delta2(bpf_htons(0x0100), 0));
	ip->ttl--;
	ip->saddr = saddr;
	ip->daddr = daddr;
}

inline void vm_set_macs(struct vm *vm, const __u8 *dest, const __u8 *source)
{
	__builtin_memcpy(vm->h.eth.h_dest, dest, ETH_ALEN);
	__builtin_memcpy(vm->h.eth.h_source, source, ETH_ALEN);
}

inline bool vm_store_headers(struct vm *vm)
{
	return !bpf_skb_store_bytes(vm->skb, 0, &vm->h.eth, HEADERS_SIZE, 0);
}

/* Rewrite addresses and one port (see tc_rewrite_l4) of TCP or UDP. */
inline bool vm_rewrite_l4(struct vm *vm, __be32 saddr, __be32 daddr, __u32 which,
			  __be16 from, __be16 to)
{
	const struct iphdr *ip = &vm->h.ip;

	if (!tc_rewrite_l4(vm->skb, vm->l4, ip->protocol,
			   csum_delta4(ip->saddr, saddr) +
				   csum_delta4(ip->daddr, daddr),
			   which, from, to))
		return false;
	vm_set_ip(vm, saddr, daddr);
	return vm_store_headers(vm);
}

inline bool vm_rewrite_l3(struct vm *vm, __be32 saddr, __be32 daddr)
{
	vm_set_ip(vm, saddr, daddr);
	return vm_store_headers(vm);
}

#endif
