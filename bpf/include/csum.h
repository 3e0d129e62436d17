/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Internet checksums, updated incrementally (RFC 1624, equation 3) with direct
 * packet access. In tc the bpf_l3/l4_csum_replace helpers do it, which know
 * about offload; these are for XDP. Values are in network order as they stand
 * in the packet: one's complement sums do not care.
 */
#ifndef FLYEBPF_CSUM_H
#define FLYEBPF_CSUM_H

#include "addr.h"

inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* What replacing `from` by `to` adds to a sum. */
inline __u64 csum_delta4(__be32 from, __be32 to)
{
	return (__u64)(__u32)~from + to;
}

inline __u64 csum_delta2(__be16 from, __be16 to)
{
	return (__u64)(__u16)~from + to;
}

inline __u64 csum_delta_addr(const struct addr *from, const struct addr *to)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += csum_delta4(from->word[i], to->word[i]);
	return sum;
}

inline void csum_apply(__u16 *check, __u64 delta)
{
	*check = csum_fold((__u16)~*check + delta);
}

/* ffff instead of 0: the same number to who verifies it, except over data that
 * is all zeros, where only ffff is right (RFC 1624, section 3). */
inline void csum_apply_nonzero(__u16 *check, __u64 delta)
{
	csum_apply(check, delta);
	if (*check == 0)
		*check = 0xffff;
}

/* UDP: 0 means that there is no checksum (RFC 768), so it is never made of
 * one that is there, nor there of one that is not. */
inline void csum_apply_udp(__u16 *check, __u64 delta)
{
	if (*check == 0)
		return;
	csum_apply_nonzero(check, delta);
}

/* The sum of `bytes` (even) bytes, as 16-bit words in network order. */
inline __u64 csum_words(const void *data, __u32 bytes)
{
	const __u16 *word = data;
	__u64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < 20 / 2; i++)
		if (i < bytes / 2)
			sum += word[i];
	return sum;
}

#endif
