/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The answer to a query for a name in `names`: the frame is turned round and gets
 * the records behind its question. The message is byte for byte what the host's
 * DNS server (flyebpf/dns/wire.py) sends. Included by dns.c only.
 */
#ifndef FLYEBPF_DNS_ANSWER_H
#define FLYEBPF_DNS_ANSWER_H

#include "csum.h"
#include "dns_query.h"
#include "sixpn.h"
#include "tc.h"

#define DNS_HOP_LIMIT 64
#define DNS_UDP_MAX 1232 /* what the server says that it takes (RFC 6891) */

/* One record has 28 bytes: a pointer to the question's name, AAAA, IN, a TTL of
 * 5 seconds, 16 bytes of address. */
#define RECORD_WORDS 7
#define RECORD_BYTES (4 * RECORD_WORDS)
#define RECORD_0 bpf_htonl(0xc00c001c)
#define RECORD_1 bpf_htonl(0x00010000)
#define RECORD_2 bpf_htonl(0x00050010)

/* The OPT record has 11: the root, OPT, size, then flags and no options. */
#define OPT_BYTES 11
#define OPT_0 bpf_htonl(0x00002900 | DNS_UDP_MAX >> 8)
#define OPT_1 bpf_htonl((DNS_UDP_MAX & 0xff) << 24)
#define OPT_DO bpf_htonl(0x80)

/* Records and OPT into the scratch. Which address comes first changes from query
 * to query with their ids, as the server does it. Returns their bytes, or 0 when an
 * address is not of this network: the kernel gives the memory of an entry that was
 * replaced to another one at once, and who looks at it meanwhile may read that. */
inline __u32 dns_tail(struct dns_scratch *scratch, struct dns_query *query,
		      const struct name *name, __u32 network)
{
	const __u32 first = bpf_htonl(SIXPN_PREFIX << 16 | network >> 16);
	const __u32 second = bpf_htonl(network << 16);
	const __u32 count = name->count;
	__u32 from, i, j, other = 0;
	__u32 *to = scratch->tail;

	if (!count || count > NAME_ADDRESSES)
		return 0;
	query->answers = count;
	from = bpf_ntohs(query->id) % count;

#pragma clang loop unroll(disable)
	for (i = 0; i < NAME_ADDRESSES; i++) {
		if (i >= count)
			break;
		unfold(i);
		j = from & (NAME_ADDRESSES - 1);
		to = scratch->tail + i * RECORD_WORDS;
		to[0] = RECORD_0;
		to[1] = RECORD_1;
		to[2] = RECORD_2;
		to[3] = name->addr[j].word[0];
		to[4] = name->addr[j].word[1];
		to[5] = name->addr[j].word[2];
		to[6] = name->addr[j].word[3];
		other |= (to[3] ^ first) | ((to[4] ^ second) & bpf_htonl(0xffff0000));
		if (++from >= count)
			from = 0;
	}
	if (other)
		return 0;
	if (!query->edns)
		return i * RECORD_BYTES;
	to = scratch->tail + i * RECORD_WORDS;
	to[0] = OPT_0;
	to[1] = query->dnssec ? OPT_1 | OPT_DO : OPT_1;
	to[2] = 0;
	return i * RECORD_BYTES + OPT_BYTES;
}

/* Header of the answer, in the scratch. */
inline void dns_front(struct dns_scratch *scratch, const struct dns_query *query)
{
	struct dns_header *header = (void *)scratch->query;

	header->flags = bpf_htons(DNS_QR | DNS_AA | DNS_RA) |
			(header->flags & bpf_htons(DNS_RD | DNS_CD));
	header->answers = bpf_htons(query->answers);
	header->additional = query->edns ? bpf_htons(1) : 0;
}

inline __u16 fold(__u64 sum)
{
	return ~csum_fold(sum);
}

/* What a UDP checksum covers besides the datagram (RFC 8200, 8.1). */
inline __u64 dns_pseudo(const struct ip6 *ip, __u32 length)
{
	__u64 sum = bpf_htonl(length) + (__u64)bpf_htonl(IPPROTO_UDP);

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)ip->src.word[i] + ip->dst.word[i];
	return sum;
}

/* Header, question, records and OPT. What comes behind a question of an odd
 * number of bytes counts with its bytes swapped (RFC 1071, 2 (B)). */
inline __u64 dns_sum(struct dns_scratch *scratch, const struct dns_query *query,
		     const struct name *name)
{
	__u64 end = query->end, tail = name->sum;
	__u64 sum;

	if (query->edns)
		tail += bpf_htons(0x2900 | DNS_UDP_MAX >> 8) +
			bpf_htons((DNS_UDP_MAX & 0xff) << 8) +
			(query->dnssec ? bpf_htons(0x80) : 0);
	if (end > NAME_AT + DNS_NAME_MAX + QUESTION_BYTES)
		return 0;
	*(__u32 *)(scratch->query + end) = 0; /* up to the next whole word */
	end = (end + 3) & 0xfc;
	sum = (__u32)bpf_csum_diff(0, 0, (void *)scratch->query, end, 0);
	return sum + (query->end & 1 ? __builtin_bswap16(fold(tail)) : tail);
}

#endif
