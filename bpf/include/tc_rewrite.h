/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Changes of L4 headers in tc, by the helpers that know about checksums which
 * the hardware or the next kernel is to compute. */
#ifndef FLYEBPF_TC_REWRITE_H
#define FLYEBPF_TC_REWRITE_H

#include "csum.h"
#include "tc.h"

#define SOURCE_PORT 0 /* offsets in TCP's and UDP's headers */
#define DEST_PORT 2

inline __u32 fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* Of TCP or UDP at l4: the checksum for new addresses (delta: what that adds to
 * a sum) and one port (which: its offset), and that port. */
inline bool tc_rewrite_l4(struct __sk_buff *skb, __u32 l4, __u8 proto, __u64 delta,
			  __u32 which, __be16 from, __be16 to)
{
	bool tcp = proto == IPPROTO_TCP;
	__u32 check = l4 + (tcp ? 16 : 6);
	__u64 flags = tcp ? 0 : BPF_F_MARK_MANGLED_0;

	if (bpf_l4_csum_replace(skb, check, 0, fold32(delta),
				flags | BPF_F_PSEUDO_HDR))
		return false;
	return from == to ||
	       (!bpf_l4_csum_replace(skb, check, from, to, flags | 2) &&
		!bpf_skb_store_bytes(skb, l4 + which, &to, sizeof(to), 0));
}

#endif
