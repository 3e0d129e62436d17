/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ARP from a VM (RFC 826): every address but its own is behind its gateway,
 * and the answer comes from here. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_ARP_H
#define FLYEBPF_VM_ARP_H

#include "vm_packet.h"

struct arp_frame {
	struct ethhdr eth;
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_size;
	__u8 protocol_size;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender_ip;
	__u8 target_mac[ETH_ALEN];
	__be32 target_ip;
} __attribute__((packed));

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	__u8 differ = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

inline bool arp_is_honest(const struct vm *vm, const struct arp_frame *arp)
{
	return arp->hardware == bpf_htons(ARP_ETHERNET) &&
	       arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_size == ETH_ALEN && arp->protocol_size == 4 &&
	       mac_equal(arp->sender_mac, vm->slot->mac) &&
	       (arp->sender_ip == 0 || vm_is_own_ip(vm, arp->sender_ip));
}

/* Probes (sender 0), announcements and replies end here too: nobody else is on
 * this link to hear them. */
inline int vm_arp(struct vm *vm)
{
	struct arp_frame arp;
	__be32 asked;

	if (bpf_skb_load_bytes(vm->skb, 0, &arp, sizeof(arp)))
		return vm_drop(vm, DROP_TRUNCATED);
	if (!arp_is_honest(vm, &arp))
		return vm_drop(vm, DROP_SPOOFED_ARP);
	count(COUNT_ARP);
	asked = arp.target_ip;
	if (arp.operation != bpf_htons(ARP_REQUEST) || !arp.sender_ip ||
	    vm_is_own_ip(vm, asked))
		return TC_ACT_SHOT;
	arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, ETH_ALEN);
	arp.target_ip = arp.sender_ip;
	__builtin_memcpy(arp.sender_mac, vm->slot->host_mac, ETH_ALEN);
	arp.sender_ip = asked;
	__builtin_memcpy(arp.eth.h_dest, vm->slot->mac, ETH_ALEN);
	__builtin_memcpy(arp.eth.h_source, vm->slot->host_mac, ETH_ALEN);
	if (bpf_skb_store_bytes(vm->skb, 0, &arp, sizeof(arp), 0))
		return vm_drop(vm, DROP_REWRITE);
	return bpf_redirect(vm->skb->ifindex, 0);
}

#endif
