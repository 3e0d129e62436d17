/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where packets leave for the internet. For tc programs. */
#ifndef FLYEBPF_ROUTE_H
#define FLYEBPF_ROUTE_H

#include "addr.h"
#include "tc.h"

/* Whether the host's routes lead to daddr over an uplink, or over the one that
 * is asked for (over, not 0): 0 and the uplink, else a drop reason. What is
 * local to the host is its own services. */
inline __u32 route_out(struct __sk_buff *skb, const struct settings *s,
		       __be32 saddr, __be32 daddr, __u32 over, __u32 *ifindex)
{
	struct bpf_fib_lookup fib = {};
	long result;

	fib.family = AF_INET;
	fib.ifindex = over ? over : skb->ifindex;
	fib.ipv4_src = saddr;
	fib.ipv4_dst = daddr;
	result = bpf_fib_lookup(skb, &fib, sizeof(fib),
				over ? BPF_FIB_LOOKUP_OUTPUT : 0);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return DROP_VM_TO_HOST;
	/* A neighbour still to be found or a smaller MTU is the stack's to solve. */
	if (result != BPF_FIB_LKUP_RET_SUCCESS &&
	    result != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    result != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return DROP_VM_NO_ROUTE;
	if (!is_uplink(s, fib.ifindex))
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

/* A reply of vip's: out where the client came in (ifindex), as long as that is
 * an uplink; of several, one with a route to the client: over another one
 * redirect_neigh would ask for the client's own MAC. If no flow says where,
 * nobody may have asked: then only where the VM's own packets may go. Returns a
 * drop reason or 0. */
inline __u32 reply_route(struct __sk_buff *skb, const struct settings *s,
			 __be32 vip, __be32 daddr, __u32 *ifindex)
{
	__u32 came_in = *ifindex;
	__u32 reason = came_in ? DROP_NONE : policy_of(daddr);

	if (reason)
		return reason;
	if (is_uplink(s, came_in) &&
	    (s->uplink_count == 1 ||
	     !route_out(skb, s, vip, daddr, came_in, ifindex)))
		return DROP_NONE;
	return route_out(skb, s, vip, daddr, 0, ifindex);
}

/* The same over IPv6, of a flow that is known. IPv6 forwarding may be off, which
 * is no obstacle: then the host's routes cannot be asked, and it leaves where the
 * client came in, or over the first uplink if that was at another host. */
inline __u32 reply6_route(struct __sk_buff *skb, const struct settings *s,
			  const struct addr *vip, const struct addr *daddr,
			  __u32 *ifindex)
{
	struct bpf_fib_lookup fib = { .family = AF_INET6 };
	long result;

	if (!is_uplink(s, *ifindex))
		*ifindex = s->uplink[0];
	if (s->uplink_count == 1)
		return DROP_NONE;
	fib.ifindex = *ifindex;
	__builtin_memcpy(fib.ipv6_src, vip, sizeof(*vip));
	__builtin_memcpy(fib.ipv6_dst, daddr, sizeof(*daddr));
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	if (result == BPF_FIB_LKUP_RET_FWD_DISABLED && *ifindex)
		return DROP_NONE;
	if ((result != BPF_FIB_LKUP_RET_SUCCESS &&
	     result != BPF_FIB_LKUP_RET_NO_NEIGH &&
	     result != BPF_FIB_LKUP_RET_FRAG_NEEDED) ||
	    !is_uplink(s, fib.ifindex))
		return DROP_VM_NO_ROUTE;
	*ifindex = fib.ifindex;
	return DROP_NONE;
}

/* Send a packet that has the VIP as its source and its headers stored. */
inline int send_uplink(__u32 ifindex)
{
	/* Not through the stack: to it, a source that is one of its own
	 * addresses would be a martian. */
	return redirect_neigh(ifindex, 0, 0, 0);
}

#endif
