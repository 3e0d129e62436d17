/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A VM's own traffic: to the internet through the host's stack (source NAT in
 * nftables), and to public VIPs straight to their machines.
 * Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_OWN_H
#define FLYEBPF_VM_OWN_H

#include "proxy.h"
#include "route.h"
#include "vm_mesh.h"

#define PACKET_HOST 0

/* To the internet, if policy and routes let it. */
inline int own_out(struct vm *vm)
{
	__u32 reason = policy_of(vm->h.ip.daddr);
	__u32 ifindex;

	if (!reason)
		reason = route_out(vm->skb, vm->settings, vm->h.ip.saddr,
				   vm->h.ip.daddr, 0, &ifindex);
	if (reason)
		return vm_drop(vm, reason);
	/* The VM may have any idea of its gateway's MAC. */
	if (vm->skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(vm->skb, PACKET_HOST);
	count(COUNT_OWN);
	return TC_ACT_OK;
}

/* To the proxy of this host, or by way of the stack to another host's. */
inline int vm_to_proxy(struct vm *vm)
{
	/* The trial was on the source's MAC. */
	if (!vm_offload_is_honest(vm) ||
	    bpf_skb_store_bytes(vm->skb, ETH_ALEN, vm->h.eth.h_source, ETH_ALEN,
				0))
		return vm_drop(vm, DROP_BAD_L4_HEADER);
	if (vm->skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(vm->skb, PACKET_HOST);
	vm->skb->mark = PROXY_MARK;
	count(COUNT_PROXY);
	return TC_ACT_OK;
}

/* To the host of the machine, as from an edge: this host is that. */
inline int hairpin_remote(struct vm *vm, const struct target *to, __be32 alias)
{
	if (!vm->settings->mesh_mtu)
		return vm_drop(vm, DROP_NO_HOST);
	if (!vm_fits_mesh(vm))
		return VM_TOO_BIG;
	count_in(to->service, vm_bytes(vm), to->new_flow);
	count(COUNT_HAIRPIN);
	count(COUNT_MESH_OUT);
	vm_set_mesh(vm, to->slot->host, to->slot->machine, to->internal_port);
	if (!vm_rewrite_l4(vm, alias, vm->h.ip.daddr, DEST_PORT,
			   vm->ports.dest, vm->ports.dest))
		return vm_drop(vm, DROP_REWRITE);
	return VM_MESH;
}

/* The machine that was chosen sees an alias of this VM's address: it may be
 * this VM itself, which would not take its own address for a client's. */
inline int hairpin_deliver(struct vm *vm, const struct target *to)
{
	__be32 alias = to_alias(vm->settings, vm->h.ip.saddr);
	__be32 daddr = machine_addr(to->slot, vm->h.ip.protocol);

	if (to->slot->flags & SLOT_REMOTE)
		return hairpin_remote(vm, to, alias);
	count_in(to->service, vm_bytes(vm), to->new_flow);
	count(COUNT_HAIRPIN);
	vm_set_macs(vm, to->slot->mac, to->slot->host_mac);
	if (!vm_rewrite_l4(vm, alias, daddr, DEST_PORT, vm->ports.dest,
			   to->internal_port))
		return vm_drop(vm, DROP_REWRITE);
	return bpf_redirect(to->slot->ifindex, 0);
}

inline int hairpin_l4(struct vm *vm, __u32 vip_index)
{
	struct tuple tuple = { .proto = vm->h.ip.protocol };
	struct target to = {};
	__u32 reason;

	if (is_fragment(&vm->h.ip))
		return vm_drop(vm, DROP_VM_FRAGMENT);
	if (vm->h.ip.ttl <= 1)
		return vm_drop(vm, DROP_TTL);
	addr_from_ipv4(&tuple.client, to_alias(vm->settings, vm->h.ip.saddr));
	addr_from_ipv4(&tuple.vip, vm->h.ip.daddr);
	tuple.client_port = vm->ports.source;
	tuple.vip_port = vm->ports.dest;
	reason = steer(vm->settings, &tuple, vip_index, vm->skb->ifindex,
		       tcp_how(vm->flags), &to);
	if (reason == DROP_NEEDS_PROXY && vm->settings->proxy)
		return vm_to_proxy(vm);
	if (reason)
		return vm_drop(vm, reason);
	return hairpin_deliver(vm, &to);
}

/* An echo request to a VIP, answered here. */
inline int hairpin_echo(struct vm *vm, __u32 vip_index)
{
	struct vip *vip = map_lookup(vips, &vip_index);
	__be32 saddr = vm->h.ip.saddr;
	struct icmphdr icmp;

	if (is_fragment(&vm->h.ip))
		return vm_drop(vm, DROP_ICMP_FRAGMENT);
	if ((!vip || !(vip->flags & VIP_ALLOCATED)) &&
	    !pool_is_shared(vm->settings, vip_index))
		return vm_drop(vm, DROP_VIP_UNALLOCATED);
	if (vm->l4_room < sizeof(icmp) ||
	    bpf_skb_load_bytes(vm->skb, vm->l4, &icmp, sizeof(icmp)))
		return vm_drop(vm, DROP_BAD_L4_HEADER);
	if (icmp.type != ICMP_ECHO || icmp.code)
		return vm_drop(vm, DROP_ICMP_TYPE);
	csum_apply_nonzero(&icmp.checksum,
			   csum_delta2(bpf_htons(ICMP_ECHO << 8),
				       bpf_htons(ICMP_ECHOREPLY << 8)));
	icmp.type = ICMP_ECHOREPLY;
	vm_set_macs(vm, vm->slot->mac, vm->slot->host_mac);
	vm->h.ip.saddr = vm->h.ip.daddr;
	vm->h.ip.daddr = saddr;
	if (bpf_skb_store_bytes(vm->skb, vm->l4, &icmp, sizeof(icmp), 0) ||
	    !vm_store_headers(vm))
		return vm_drop(vm, DROP_REWRITE);
	count(COUNT_ECHO);
	return bpf_redirect(vm->skb->ifindex, 0);
}

#endif
