/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Names in DNS messages, and the hash by which `names` knows them. Included by
 * dns.c only.
 *
 * flyebpf/drivers/map_names.py makes the same hash of the names that it enters. A
 * collision within one network would answer one of its names with addresses of
 * another one of its own; of 100,000 names two collide with a chance of one in
 * 10^28. Networks cannot collide: the key has their number.
 */
#ifndef FLYEBPF_DNS_NAME_H
#define FLYEBPF_DNS_NAME_H

#include "maps.h"

#define DNS_NAME_MAX 160 /* bytes of a name, with its root; longer ones pass on */
#define DNS_LABELS 8	 /* likewise */
#define DNS_LABEL_MAX 63
#define NAME_AT 12 /* of the question's name in the message */

#define HASH_START_0 0x9e3779b97f4a7c15ULL
#define HASH_START_1 0xc2b2ae3d27d4eb4fULL
#define HASH_TIMES_0 0xff51afd7ed558ccdULL
#define HASH_TIMES_1 0xc4ceb9fe1a85ec53ULL

/* Bytes of the name, its root included; 0 for one that is not well formed, is
 * compressed (nothing comes before it) or is longer than names of ours. */
inline __u32 dns_name_length(const struct dns_scratch *scratch)
{
	__u32 at = 0;
	__u8 label;

#pragma clang loop unroll(disable)
	for (int i = 0; i <= DNS_LABELS; i++) {
		label = scratch->query[NAME_AT + (at & 0xff)];
		if (!label)
			return at + 1;
		at += 1 + label;
		if (label > DNS_LABEL_MAX || at >= DNS_NAME_MAX)
			return 0;
	}
	return 0;
}

/* Eight bytes in lower case. Lengths of labels are below all letters, and bytes
 * above 7f are no letters. */
inline __u64 dns_lower(__u64 word)
{
	const __u64 each = 0x0101010101010101ULL;
	const __u64 low = word & 0x7f * each;
	const __u64 from_a = low + (0x80 - 'A') * each;
	const __u64 after_z = low + (0x7f - 'Z') * each;

	return word | ((from_a ^ after_z) & ~word & 0x80 * each) >> 2;
}

/* length: at least 1, at most DNS_NAME_MAX */
inline void dns_name_hash(const struct dns_scratch *scratch, __u32 length,
			  struct name_key *key)
{
	const __u64 *words = (const void *)(scratch->query + NAME_AT);
	__u64 first = HASH_START_0, second = HASH_START_1, word;
	__u32 left = length;

#pragma clang loop unroll(disable)
	for (int i = 0; i < DNS_NAME_MAX / 8; i++) {
		word = words[i];
		if (left < 8)
			word &= (1ULL << left * 8) - 1;
		word = dns_lower(word);
		first = (first ^ word) * HASH_TIMES_0;
		first ^= first >> 32;
		second = (second + (word ^ first)) * HASH_TIMES_1;
		second ^= second >> 29;
		if (left <= 8)
			break;
		left -= 8;
	}
	key->hash[0] = first;
	key->hash[1] = second;
}

#endif
