/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A VM's packet that is too long for the mesh: the VM is told (RFC 1191), by
 * the address that it sent it to. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_TOO_BIG_H
#define FLYEBPF_VM_TOO_BIG_H

#include "icmp_limit.h"
#include "vm_mesh.h"

struct too_big {
	__u16 pad; /* keeps ip aligned on the stack */
	struct ethhdr eth;
	struct iphdr ip;
	struct icmphdr icmp;
};
#define TOO_BIG_SIZE (sizeof(struct too_big) - sizeof(__u16))
#define TOO_BIG_ADDED (sizeof(struct iphdr) + sizeof(struct icmphdr))

/* The quoted packet: its IP header and the beginning of its L4 header, with the
 * checksum in it, which the kernel may still have to write. */
inline __u32 too_big_quoted(const struct vm *vm)
{
	__u8 proto = vm->h.ip.protocol;

	return vm->l4 - sizeof(struct ethhdr) +
	       (proto == IPPROTO_TCP ? sizeof(struct tcphdr) : 8);
}

/* The sum of the quote as it will be when it arrives. That of its IP header is
 * nothing (vm_ip_sums_up). Where the kernel has yet to write the L4 checksum, the
 * field holds the sum of the pseudo-header, and what it writes makes everything
 * from the L4 header on sum up to the inverse of that, whatever it is. */
inline bool too_big_sum(struct vm *vm, __u64 *sum)
{
	const struct iphdr *ip = &vm->h.ip;
	struct tcphdr l4 = {};
	__u16 check, pseudo;

	if (ip->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(vm->skb, vm->l4, &l4, sizeof(l4)))
			return false;
		check = l4.check;
	} else {
		if (bpf_skb_load_bytes(vm->skb, vm->l4, &l4, 8))
			return false;
		check = ((struct udphdr *)&l4)->check;
	}
	pseudo = ~csum_fold(csum_words(&ip->saddr, 8) +
			    bpf_htons(ip->protocol) + bpf_htons(vm->l4_room));
	*sum = csum_words(&l4, sizeof(l4));
	if (check == pseudo && !is_fragment(ip))
		*sum = (__u16)~pseudo;
	return true;
}

inline void too_big_headers(const struct vm *vm, struct too_big *out,
			    __u32 quoted, __u64 sum)
{
	const __u32 mtu = vm->settings->mesh_mtu - sizeof(struct mesh_header);

	__builtin_memset(out, 0, sizeof(*out));
	__builtin_memcpy(out->eth.h_dest, vm->slot->mac, ETH_ALEN);
	__builtin_memcpy(out->eth.h_source, vm->slot->host_mac, ETH_ALEN);
	out->eth.h_proto = bpf_htons(ETH_P_IP);
	out->ip.version = 4;
	out->ip.ihl = 5;
	out->ip.tot_len = bpf_htons(TOO_BIG_ADDED + quoted);
	out->ip.frag_off = bpf_htons(0x4000); /* DF */
	out->ip.ttl = 64;
	out->ip.protocol = IPPROTO_ICMP;
	out->ip.saddr = vm->h.ip.daddr;
	out->ip.daddr = vm->h.ip.saddr;
	out->ip.check = csum_fold(csum_words(&out->ip, sizeof(out->ip)));
	out->icmp.type = ICMP_DEST_UNREACH;
	out->icmp.code = ICMP_FRAG_NEEDED;
	out->icmp.rest = bpf_htonl(mtu);
	out->icmp.checksum = csum_fold(csum_words(&out->icmp, 8) + sum);
}

/* Always ends the packet; as edge_too_big(), of which it is the other side. A
 * train is cut down to one packet first. */
inline int vm_too_big(struct vm *vm)
{
	const __u32 quoted = too_big_quoted(vm);
	struct too_big out;
	__u64 sum;

	count_drop(DROP_TOO_BIG, vm->skb->len);
	if (vm->h.ip.protocol == IPPROTO_ICMP || is_later_fragment(&vm->h.ip) ||
	    !icmp_may_send(ICMP_OF_VM(vm->slot_index)) ||
	    !too_big_sum(vm, &sum))
		return TC_ACT_SHOT;
	too_big_headers(vm, &out, quoted, sum);
	if (bpf_skb_change_tail(vm->skb, sizeof(struct ethhdr) + quoted, 0) ||
	    bpf_skb_adjust_room(vm->skb, TOO_BIG_ADDED, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(vm->skb, 0, &out.eth, TOO_BIG_SIZE, 0))
		return TC_ACT_SHOT;
	count(COUNT_TOO_BIG);
	return bpf_redirect(vm->skb->ifindex, 0);
}

#endif
