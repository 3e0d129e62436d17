/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The reverse table: which VIP a machine's packet to a client answers for.
 *
 * Needed only where several (VIP, port) lead to one (machine, internal port);
 * otherwise the reply itself says it. It also remembers the connections that a
 * VM opens itself from a port that one of its services uses. Buckets, seals
 * and eviction as in flows.h.
 */
#ifndef FLYEBPF_REVERSE_H
#define FLYEBPF_REVERSE_H

#include "flows.h"

struct reverse_key {
	struct addr client;
	__be16 client_port;
	__be16 internal_port;
	__u32 slot;
	__u8 proto;
};

inline __u64 reverse_hash(const struct reverse_key *k, __u64 seed)
{
	__u64 hash = ~seed;

	hash = mix(hash, k->client.quad[0]);
	hash = mix(hash, k->client.quad[1]);
	hash = mix(hash, k->slot | (__u64)k->proto << 32);
	return mix(hash, k->client_port | (__u64)k->internal_port << 16);
}

inline bool reverse_matches(const struct reverse *r, const struct reverse_key *k)
{
	return r->client.quad[1] == k->client.quad[1] &&
	       r->client_port == k->client_port &&
	       r->internal_port == k->internal_port && r->slot == k->slot &&
	       r->proto == k->proto && r->client.quad[0] == k->client.quad[0] &&
	       r->seal;
}

inline __u64 reverse_seal(__u64 hash, const struct reverse *r, __u64 gens)
{
	hash = mix(hash, r->vip.quad[0]);
	hash = mix(hash, r->vip.quad[1]);
	hash = mix(hash, r->service | (__u64)r->vip_port << 32 |
				 (__u64)(r->state & FLOW_OWN) << 48);
	hash = mix(hash, r->ifindex);
	return mix(hash, gens) | 1;
}

inline struct reverse *reverse_find_in(__u32 index, const struct reverse_key *k,
				       const bool any_way)
{
	struct reverse_bucket *bucket = map_lookup(reverse, &index);

	if (!bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++)
		if (reverse_matches(&bucket->way[i], k))
			return any_way ? flow_any_way(bucket,
						      &bucket->way[i]) :
					 &bucket->way[i];
	return 0;
}

/* The valid entry, or 0. slot: that of the key; any_way: see flow_any_way(). */
inline struct reverse *reverse_look_up(const struct settings *s,
				       const struct slot *slot,
				       const struct reverse_key *k, __u64 hash,
				       const bool any_way)
{
	__u32 mask = s->flow_buckets - 1;
	struct reverse *r = reverse_find_in(hash & mask, k, any_way);

	if (!r)
		r = reverse_find_in((hash >> 32) & mask, k, any_way);
	if (!r)
		return 0;
	if (reverse_seal(hash, r, generations(slot, r->service)) != r->seal)
		return 0;
	return r;
}

inline struct reverse *reverse_find(const struct settings *s,
				    const struct slot *slot,
				    const struct reverse_key *k, __u64 hash)
{
	return reverse_look_up(s, slot, k, hash, false);
}

struct reverse_victim {
	struct reverse *entry;
	__u32 worth;
};

inline void reverse_scan(__u32 index, const struct reverse_key *k, __u32 now,
			 struct reverse_victim *best)
{
	struct reverse_bucket *bucket = map_lookup(reverse, &index);

	if (!bucket)
		return;
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		struct reverse *r = &bucket->way[i];
		__u32 worth = flow_worth(r->seal, r->state,
					 idle_since(r->seen, now));

		if (reverse_matches(r, k)) {
			best->entry = r;
			best->worth = WORTH_SAME;
			return;
		}
		if (worth > best->worth) {
			best->entry = r;
			best->worth = worth;
		}
	}
}

/* values: vip, vip_port, service, ifindex and FLOW_OWN in state. */
inline void reverse_insert(const struct settings *s,
			   const struct reverse_key *k, __u64 hash,
			   const struct reverse *values, __u64 gens)
{
	struct reverse_victim best = {};
	__u32 mask = s->flow_buckets - 1;
	__u32 now = clock_seen();
	struct reverse *r;

	reverse_scan(hash & mask, k, now, &best);
	if (best.worth != WORTH_SAME)
		reverse_scan((hash >> 32) & mask, k, now, &best);
	r = best.entry;
	if (!r || best.worth < FLOW_KEEP) {
		count(COUNT_FLOW_REJECTED);
		return;
	}
	r->seal = 0;
	r->client = k->client;
	r->vip = values->vip;
	r->client_port = k->client_port;
	r->internal_port = k->internal_port;
	r->proto = k->proto;
	r->state = values->state;
	r->vip_port = values->vip_port;
	r->slot = k->slot;
	r->service = values->service;
	r->seen = now;
	r->ifindex = values->ifindex;
	r->seal = reverse_seal(hash, values, gens);
}

inline void reverse_touch(struct reverse *r, __u8 state)
{
	__u32 now = clock_seen();

	state |= r->state;
	if (r->seen != now)
		r->seen = now;
	if (r->state != state)
		r->state = state;
}

/* The same tuple begins anew. */
inline void reverse_reopen(struct reverse *r)
{
	r->state = 0;
	r->seen = clock_seen();
}

#endif
