/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packet-too-big (RFC 4443, 3.2), in tc programs and in XDP. */
#ifndef FLYEBPF_ICMP6_BIG_H
#define FLYEBPF_ICMP6_BIG_H

#include "csum.h"
#include "icmp_limit.h"
#include "ip6.h"

#define BIG_HOP_LIMIT 64
#define BIG_HEADERS (sizeof(struct ip6) + sizeof(struct icmp6))
/* As much as the smallest MTU has room for (RFC 4443, 2.4 c). */
#define BIG_QUOTE (1280 - BIG_HEADERS)
#define DIFF_MAX 512 /* what bpf_csum_diff takes at once, on Linux 6.1 */

inline __u64 big_sum(const void *data, __u32 size, __u64 sum)
{
	return sum + (__u32)bpf_csum_diff(0, 0, (void *)data, size, 0);
}

/* Of BIG_QUOTE bytes that are there. */
inline __u64 big_quote_sum(const void *quote)
{
	__u64 sum = big_sum(quote, DIFF_MAX, 0);

	sum = big_sum(quote + DIFF_MAX, DIFF_MAX, sum);
	return big_sum(quote + 2 * DIFF_MAX, BIG_QUOTE - 2 * DIFF_MAX, sum);
}

/* The message. ip: the header before it, written; sum: of the quote behind it. */
inline void big_icmp(const struct ip6 *ip, struct icmp6 *icmp, __u32 mtu, __u64 sum)
{
	icmp->type = ICMP6_TOO_BIG;
	icmp->code = 0;
	icmp->rest = bpf_htonl(mtu);
	sum += ip6_pseudo(ip, sizeof(*icmp) + BIG_QUOTE, NEXT_ICMP6);
	icmp->checksum = csum_fold(sum + bpf_htons(ICMP6_TOO_BIG << 8) +
				   (__u64)icmp->rest);
}

#endif
