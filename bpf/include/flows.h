/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The flow table: where the packets of a client's flow go.
 *
 * A tuple's hash names two buckets of FLOW_WAYS entries. See layout.h for why
 * this is an array, and what a seal is. Eviction, when all eight entries are
 * taken: first flows that were never confirmed (see below), oldest first, then
 * confirmed flows that have been idle for FLOW_KEEP. If there is none, the new
 * flow is not kept: its packets still go where the Maglev table says.
 *
 * A flow is confirmed when the client goes on after the machine's answer. A
 * flood of forged packets never gets there, so it only displaces its like.
 */
#ifndef FLYEBPF_FLOWS_H
#define FLYEBPF_FLOWS_H

#include "addr.h"
#include "count.h"

/* In units of `seen`: 16 jiffies, which is 64 ms where HZ is 250. */
#define SEEN_SHIFT 4
#define FLOW_KEEP 4096 /* 4 to 11 minutes, as HZ is 250 or 100 */
#define FLOW_CONFLICT_KEEP 1024
#define FRAG_KEEP 512 /* 8 to 82 s: the time a datagram is put together in */

struct tuple {
	struct addr client;
	struct addr vip;
	__be16 client_port;
	__be16 vip_port;
	__u8 proto;
};

inline __u32 clock_seen(void)
{
	return bpf_jiffies64() >> SEEN_SHIFT;
}

/* How long ago that was. Another CPU may have been a tick ahead of `now`. */
inline __u32 idle_since(__u32 seen, __u32 now)
{
	__s32 idle = now - seen;

	return idle < 0 ? 0 : idle;
}

/* Ids of datagrams come again: an old first fragment is not that of a new one. */
inline bool frag_is_fresh(const struct frag *frag)
{
	return idle_since(frag->seen, clock_seen()) < FRAG_KEEP;
}

inline bool frag6_is_fresh(const struct frag6 *frag)
{
	return idle_since(frag->seen, clock_seen()) < FRAG_KEEP;
}

/* One round: multiply and fold. Not cryptographic; the seed is secret. */
inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ (hash >> 32);
}

/* All hosts of a cluster have one seed, so this is also what Maglev tables
 * are entered with. */
inline __u64 tuple_hash(const struct tuple *t, __u64 seed)
{
	__u64 hash = seed;

	hash = mix(hash, t->client.quad[0]);
	hash = mix(hash, t->client.quad[1]);
	hash = mix(hash, t->vip.quad[0]);
	hash = mix(hash, t->vip.quad[1]);
	return mix(hash, (__u64)t->client_port | (__u64)t->vip_port << 16 |
				 (__u64)t->proto << 32);
}

inline bool flow_matches(const struct flow *f, const struct tuple *t)
{
	return f->client.quad[1] == t->client.quad[1] &&
	       f->vip.quad[1] == t->vip.quad[1] &&
	       f->client_port == t->client_port &&
	       f->vip_port == t->vip_port && f->proto == t->proto &&
	       f->client.quad[0] == t->client.quad[0] &&
	       f->vip.quad[0] == t->vip.quad[0] && f->seal;
}

/* The same pointer, but to the verifier one to any of the bucket's ways: where it
 * lives on, each way would else be a state of its own, to be followed to the end.
 * Entries of both tables are of one size. */
inline void *flow_any_way(void *bucket, void *way)
{
	__u64 at;

	unfold(way);
	at = way - bucket;
	return bucket + (at & (FLOW_WAYS - 1) * sizeof(struct flow));
}

inline struct flow *flow_find_in(__u32 index, const struct tuple *t,
				 const bool any_way)
{
	struct flow_bucket *bucket = map_lookup(flows, &index);

	if (!bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++)
		if (flow_matches(&bucket->way[i], t))
			return any_way ? flow_any_way(bucket, &bucket->way[i]) :
					 &bucket->way[i];
	return 0;
}

/* hash: tuple_hash(t). The entry may be torn or out of date: see flow_seal.
 * any_way: see flow_any_way(). */
inline struct flow *flow_look_up(const struct settings *s, const struct tuple *t,
				 __u64 hash, const bool any_way)
{
	__u32 mask = s->flow_buckets - 1;
	struct flow *f = flow_find_in(hash & mask, t, any_way);

	return f ? f : flow_find_in((hash >> 32) & mask, t, any_way);
}

inline struct flow *flow_find(const struct settings *s, const struct tuple *t,
			      __u64 hash)
{
	return flow_look_up(s, t, hash, false);
}

/* generations: of slot (low half) and service (high half), as they are now */
inline __u64 flow_seal(__u64 hash, __u32 slot, __u32 service,
		       __be16 internal_port, __u64 generations)
{
	hash = mix(hash, slot | (__u64)service << 32);
	hash = mix(hash, internal_port);
	return mix(hash, generations) | 1;
}

/* A service that is none (a VM's own traffic) counts as generation 0. */
inline __u64 generations(const struct slot *slot, __u32 service)
{
	struct service_state *state = map_lookup(service_states, &service);

	return slot->generation | (state ? (__u64)state->generation << 32 : 0);
}

/* What an entry of `fragments6` has for both: it goes when either has another
 * owner. A service's is of one address. */
inline __u32 frag6_generation(const struct slot *slot, __u32 service)
{
	return mix(0, generations(slot, service));
}

/* The machine of an entry, or 0 if the entry does not hold any more. */
inline struct slot *flow_slot(const struct flow *f, __u64 hash)
{
	struct slot *slot = get_slot(f->slot);
	__u64 seal;

	if (!slot || !(slot->flags & SLOT_LIVE))
		return 0;
	seal = flow_seal(hash, f->slot, f->service, f->internal_port,
			 generations(slot, f->service));
	return seal == f->seal ? slot : 0;
}

/* How willingly an entry is given up: the higher, the sooner. */
#define WORTH_SAME 0xffffffff /* it is the tuple's own */
#define WORTH_FREE 0xfffffffe

inline __u32 flow_worth(__u64 seal, __u8 state, __u32 idle)
{
	if (!seal)
		return WORTH_FREE;
	if (idle > FLOW_KEEP)
		idle = FLOW_KEEP;
	if (!(state & FLOW_CONFIRMED))
		idle += 0x40000;
	if (state & FLOW_CLOSING)
		idle += 0x20000;
	return idle;
}

struct victim {
	struct flow *entry;
	__u32 worth;
};

inline void flow_scan(__u32 index, const struct tuple *t, __u32 now,
		      struct victim *best)
{
	struct flow_bucket *bucket = map_lookup(flows, &index);

	if (!bucket)
		return;
#pragma unroll
	for (int i = 0; i < FLOW_WAYS; i++) {
		struct flow *f = &bucket->way[i];
		__u32 worth = flow_worth(f->seal, f->state,
					 idle_since(f->seen, now));

		if (flow_matches(f, t)) {
			best->entry = f;
			best->worth = WORTH_SAME;
			return;
		}
		if (worth > best->worth) {
			best->entry = f;
			best->worth = worth;
		}
	}
}

/* Keep a flow, in the place of an older entry of the same tuple if there is
 * one. values: internal_port, slot, ifindex, service. */
inline void flow_insert(const struct settings *s, const struct tuple *t,
			__u64 hash, const struct flow *values, __u64 gens)
{
	struct victim best = {};
	__u32 mask = s->flow_buckets - 1;
	__u32 now = clock_seen();
	struct flow *f;

	flow_scan(hash & mask, t, now, &best);
	if (best.worth != WORTH_SAME)
		flow_scan((hash >> 32) & mask, t, now, &best);
	f = best.entry;
	if (!f || best.worth < FLOW_KEEP) {
		count(COUNT_FLOW_REJECTED);
		return;
	}
	if (best.worth < WORTH_FREE)
		count(COUNT_FLOW_EVICTED);
	f->seal = 0;
	f->client = t->client;
	f->vip = t->vip;
	f->client_port = t->client_port;
	f->vip_port = t->vip_port;
	f->proto = t->proto;
	f->state = 0;
	f->internal_port = values->internal_port;
	f->slot = values->slot;
	f->ifindex = values->ifindex;
	f->service = values->service;
	f->seen = now;
	f->seal = flow_seal(hash, values->slot, values->service,
			    values->internal_port, gens);
}

/* The bookkeeping of a packet of a flow. Written only when it changes, so
 * that CPUs do not fight for the line. */
inline void flow_touch(struct flow *f, __u8 state)
{
	__u32 now = clock_seen();

	state |= f->state;
	if (f->seen != now)
		f->seen = now;
	if (f->state != state)
		f->state = state;
}

#endif
