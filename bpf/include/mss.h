/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The MSS option of TCP (RFC 9293, 3.2 and 3.7.1): lowered in a SYN, so that
 * what the other side sends fits the mesh. For tc programs. */
#ifndef FLYEBPF_MSS_H
#define FLYEBPF_MSS_H

#include "tc.h"

#define TCP_OPTIONS_READ 12 /* at most; MSS is the first one in practice */
#define TCP_CHECK 16	    /* offset of the checksum */
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2

struct mss_option {
	__u8 kind;
	__u8 length;
	__be16 value;
};

/* at: its offset in the TCP header, which may be odd; a sum has the bytes of
 * such a word the other way round (RFC 1071, 2 (B)). */
inline bool mss_store(struct __sk_buff *skb, __u32 l4, __u32 at, __be16 from,
		      __be16 to)
{
	const bool odd = at & 1;

	count(COUNT_MSS);
	return !bpf_l4_csum_replace(skb, l4 + TCP_CHECK,
				    odd ? __builtin_bswap16(from) : from,
				    odd ? __builtin_bswap16(to) : to, 2) &&
	       !bpf_skb_store_bytes(skb, l4 + at + 2, &to, sizeof(to), 0);
}

/* l4: offset of a TCP header whose length was checked. most: bytes. False: the
 * packet could not be written. */
inline bool mss_lower(struct __sk_buff *skb, __u32 l4, __u32 most)
{
	struct mss_option option = {};
	__u32 at = 20, end;
	__u8 size = 0;

	if (bpf_skb_load_bytes(skb, l4 + 12, &size, sizeof(size)))
		return false;
	end = (size >> 4) * 4;
#pragma clang loop unroll(disable)
	for (int i = 0; i < TCP_OPTIONS_READ; i++) {
		if (at + sizeof(option) > end ||
		    bpf_skb_load_bytes(skb, l4 + at, &option, sizeof(option)) ||
		    option.kind == OPTION_END)
			return true;
		if (option.kind == OPTION_MSS) {
			if (option.length != sizeof(option) ||
			    bpf_ntohs(option.value) <= most)
				return true;
			return mss_store(skb, l4, at, option.value,
					 bpf_htons(most));
		}
		if (option.kind != OPTION_NOP && option.length < 2)
			return true;
		at += option.kind == OPTION_NOP ? 1 : option.length;
	}
	return true;
}

#endif
