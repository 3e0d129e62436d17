/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where packets of a VM leave. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_ROUTE_H
#define FLYEBPF_VM_ROUTE_H

#include "vm_packet.h"

/* Whether the host's routes lead to daddr over an uplink, or over the one that
 * is asked for (over, not 0): 0 and the uplink, else a drop reason. What is
 * local to the host is its own services. */
inline __u32 route_out(const struct vm *vm, __be32 saddr, __be32 daddr,
		       __u32 over, __u32 *ifindex)
{
	struct bpf_fib_lookup fib = {};
	long result;

	fib.family = AF_INET;
	fib.ifindex = over ? over : vm->skb->ifindex;
	fib.ipv4_src = saddr;
	fib.ipv4_dst = daddr;
	result = bpf_fib_lookup(vm->skb, &fib, sizeof(fib),
				over ? BPF_FIB_LOOKUP_OUTPUT : 0);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return DROP_VM_TO_HOST;
	/* A neighbour still to be found or a smaller MTU is the stack's to solve. */
	if (result != BPF_FIB_LKUP_RET_SUCCESS &&
	    result != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    result != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return DROP_VM_NO_ROUTE;
	if (!is_uplink(vm->settings, fib.ifindex))
		return DROP_VM_NO_ROUTE;
	*ifindex = fib.ifindex;
	return DROP_NONE;
}

/* Whether a VM's packet may go there if nobody has asked for it. Returns a drop
 * reason or 0. */
inline __u32 policy_of(__be32 daddr)
{
	struct policy_key key = { .prefixlen = 32, .addr = daddr };
	__u32 *policy = map_lookup(egress_policy, &key);

	return policy ? *policy : DROP_VM_NOT_PUBLIC;
}

/* Send a packet that has the VIP as its source and its headers stored. */
inline int send_uplink(__u32 ifindex)
{
	/* Not through the stack: to it, a source that is one of its own
	 * addresses would be a martian. */
	return redirect_neigh(ifindex, 0, 0, 0);
}

#endif
