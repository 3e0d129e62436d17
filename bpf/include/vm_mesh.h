/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IPv4 packets of a VM that leave over the mesh: to a service's machine on
 * another host, or back to the edge that a client came in at. Included by
 * vm_tc.c only. */
#ifndef FLYEBPF_VM_MESH_H
#define FLYEBPF_VM_MESH_H

#include "mesh_send.h"
#include "vm_packet.h"

/* Not verdicts: what is left to be done, once for all kinds of packets, because
 * everything is inlined and each call would be one more copy. */
#define VM_MESH (-3)
#define VM_TOO_BIG (-4)

/* Whether it (each segment of it) fits when carried, Ethernet's padding too,
 * of which a VM may send as much as it likes. */
inline bool vm_fits_mesh(const struct vm *vm)
{
	__u32 longest = vm->skb->len - sizeof(struct ethhdr);

	if (vm_is_train(vm))
		longest = vm->l4 - sizeof(struct ethhdr) + vm->l4_header +
			  vm->skb->gso_size;
	return mesh_fits(vm->settings, longest);
}

/* machine 0: the host itself. port: internal, network order. */
inline void vm_set_mesh(struct vm *vm, __u32 host, __u32 machine, __be16 port)
{
	vm->host = host;
	vm->machine = machine;
	vm->port = port;
}

/* Where a checksum is still to be filled in, a VM's driver has said, and that
 * may be any two bytes of its frame: here also those of the header that is put
 * before it, or of the packet's addresses. Nothing tells, but two helpers behave
 * otherwise: a checksum that is still to come is not updated, and a frame is not
 * cut off before its place (Linux 6.1: before where it begins to sum). What it
 * may still hit is the end of the IP header, whose own checksum then is wrong. The
 * trial is on the Ethernet source, which is not needed any more. */
inline bool vm_offload_is_honest(struct vm *vm)
{
	const __u32 at = ETH_ALEN;
	__u16 before = 0, after = 0;

	if (bpf_skb_load_bytes(vm->skb, at, &before, sizeof(before)) ||
	    bpf_l4_csum_replace(vm->skb, at, 0, 1, sizeof(before)) ||
	    bpf_skb_load_bytes(vm->skb, at, &after, sizeof(after)))
		return false;
	return before != after ||
	       bpf_skb_change_tail(vm->skb, vm->l4 - 1, 0) == -EINVAL;
}

/* What vm_set_mesh() said, with the packet's own headers rewritten. */
inline int vm_mesh_send(struct vm *vm)
{
	__u32 reason;

	if (!vm_offload_is_honest(vm))
		return vm_drop(vm, DROP_BAD_L4_HEADER);
	reason = mesh_encapsulate(vm->skb, vm->settings, NEXT_IPV4,
				  vm_bytes(vm), vm->host,
				  vm->machine, vm->port);
	if (reason)
		return vm_drop(vm, reason);
	return mesh_send(vm->skb, vm->settings, vm->host);
}

#endif
