/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a VM's driver leaves to be done with its IPv6 packets. Included by vm_tc.c
 * and vm6_tc.c only. */
#ifndef FLYEBPF_VM6_OFFLOAD_H
#define FLYEBPF_VM6_OFFLOAD_H

#include "vm6_packet.h"

/* Where a checksum is still to be filled in, a VM's driver has said, and that
 * may be any two bytes of the frame, those of its source address too. Nothing of
 * the kernel tells, but two helpers behave otherwise: a checksum that is still to
 * come is not updated, and a frame is not cut off before its place (Linux 6.1:
 * before where it begins to sum, which is no later). So the place is behind the
 * addresses, but for the last 16 bits of the destination, which are the
 * receiver's own. The first two bytes of the frame serve for a trial. Sets
 * p->partial and p->ip. Returns a drop reason or 0. */
inline __u32 vm6_check_offload(struct vm6 *p)
{
	struct __sk_buff *skb = p->skb;
	__u16 *trial = (void *)p->ip - IP6_AT;
	__u16 before = *trial;

	if (bpf_l4_csum_replace(skb, 0, 0, 1, sizeof(before)))
		return DROP_REWRITE;
	p->ip = ip6_header(skb);
	if (!p->ip)
		return DROP_REWRITE;
	trial = (void *)p->ip - IP6_AT;
	p->partial = *trial == before;
	*trial = before;
	if (!p->partial)
		return DROP_NONE;
	if (bpf_skb_change_tail(skb, p->upper.at - 1, 0) != -EINVAL)
		return DROP_IPV6_HEADER;
	p->ip = ip6_header(skb);
	return p->ip ? DROP_NONE : DROP_REWRITE;
}

#endif
