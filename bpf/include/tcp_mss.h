/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Lowers the MSS option of a TCP SYN (RFC 9293, 3.7.1), in tc: with helpers,
 * which leave a checksum that is still to be filled in alone. */
#ifndef FLYEBPF_TCP_MSS_H
#define FLYEBPF_TCP_MSS_H

#include "packet.h"

#define TCP_OPTIONS_MAX 40
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_MSS_SIZE 4
#define OPTIONS_LOOKED_AT 12 /* real stacks send MSS first, and six in all */

inline __be16 swap_bytes(__be16 value)
{
	return value << 8 | value >> 8;
}

/* `at`: of the option's value in the frame, `odd`: whether it straddles two
 * words of the checksum. Returns whether it was written. */
inline bool mss_write(struct __sk_buff *skb, __u32 tcp, __u32 at, bool odd,
		      __be16 old, __be16 new)
{
	__be16 from = odd ? swap_bytes(old) : old;
	__be16 to = odd ? swap_bytes(new) : new;

	if (bpf_l4_csum_replace(skb, tcp + offsetof(struct tcphdr, check), from,
				to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0))
		return false;
	count(COUNT_MSS);
	return true;
}

/* tcp: offset of a SYN's header in the frame; most: the largest MSS that it may
 * announce. A SYN without the option means 536 (RFC 9293) or 1220 (RFC 8200)
 * bytes, which fit. False: could not be written. */
inline bool mss_clamp(struct __sk_buff *skb, __u32 tcp, __u32 most)
{
	__u32 at = tcp + sizeof(struct tcphdr), end, i;
	struct {
		__u8 kind;
		__u8 length;
		__be16 value;
	} option;
	__u8 doff;

	if (bpf_skb_load_bytes(skb, tcp + 12, &doff, 1))
		return true;
	end = tcp + (doff >> 4) * 4;
	for (i = 0; i < OPTIONS_LOOKED_AT; i++) {
		/* a shorter rest has no room for the option */
		if (at + sizeof(option) > end ||
		    bpf_skb_load_bytes(skb, at, &option, sizeof(option)))
			return true;
		if (option.kind == OPTION_END)
			return true;
		if (option.kind == OPTION_NOP) {
			at++;
			continue;
		}
		if (option.length < 2)
			return true;
		if (option.kind == OPTION_MSS) {
			if (option.length != OPTION_MSS_SIZE ||
			    bpf_ntohs(option.value) <= most)
				return true;
			return mss_write(skb, tcp, at + 2, (at - tcp) & 1,
					 option.value, bpf_htons(most));
		}
		at += option.length;
	}
	return true;
}

#endif
