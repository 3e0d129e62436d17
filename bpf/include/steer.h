/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which machine a client's packet goes to. Knows nothing of packets: the edge
 * (XDP) and the VM side (tc, for a VM that dials a VIP) both ask it.
 */
#ifndef FLYEBPF_STEER_H
#define FLYEBPF_STEER_H

#include "reverse.h"
#include "sixpn.h"

struct target {
	struct slot *slot;
	__u32 slot_index;
	__u32 service;
	__be16 internal_port;
	bool new_flow;
};

/* What a packet may do to the flow table. */
#define STEER_NEW 1	 /* opens a flow: do not look for an old one (TCP SYN) */
#define STEER_READONLY 2 /* quoted in an ICMP error: keep nothing */
#define STEER_CLOSING 4	 /* carries FIN or RST */

/* The service at a port of a VIP, or 0 and the reason. */
inline struct service *service_find(__u32 vip_index, __be16 port, __u8 proto,
				    __u32 *reason)
{
	struct service_key key = { .vip = vip_index, .port = port, .proto = proto };
	struct service_range_key range = {
		.prefixlen = 64,
		.vip = bpf_htonl(vip_index),
		.proto = proto,
		.port = port,
	};
	struct vip *vip = map_lookup(vips, &vip_index);
	struct service *service;

	if (!vip || !(vip->flags & VIP_ALLOCATED)) {
		*reason = DROP_VIP_UNALLOCATED;
		return 0;
	}
	service = map_lookup(services, &key);
	if (!service && vip->flags & VIP_RANGES)
		service = map_lookup(service_ranges, &range);
	if (!service)
		*reason = DROP_NO_SERVICE;
	return service;
}

/* The slot that a table gives a hash, or 0. */
inline struct slot *table_choose(__u32 index, __u64 hash, __u32 *slot_index)
{
	volatile __u64 *whole = map_lookup(tables, &index);
	__u32 size, entry, *chosen;
	struct slot *slot;
	__u64 table;

	if (!whole)
		return 0;
	table = *whole; /* one read: userspace swaps it in one write */
	size = table >> 32;
	if (!size)
		return 0;
	entry = (__u32)table + (__u32)(((hash >> 32) * size) >> 32);
	chosen = map_lookup(maglev, &entry);
	if (!chosen)
		return 0;
	*slot_index = *chosen;
	slot = get_slot(*slot_index);
	return slot && slot->flags & SLOT_LIVE ? slot : 0;
}

/* Whether the flow of an entry goes on. t: another one of the same client. Only
 * a confirmed flow counts: else one forged packet for each port of a client
 * would lock it out. */
inline bool reverse_in_use(const struct settings *s, const struct tuple *t,
			   const struct reverse *entry)
{
	struct tuple other = *t;
	struct flow *f;

	other.vip = entry->vip;
	other.vip_port = entry->vip_port;
	f = flow_find(s, &other, tuple_hash(&other, s->seed));
	return f && f->state & FLOW_CONFIRMED &&
	       !((f->state | entry->state) & FLOW_CLOSING) &&
	       idle_since(entry->seen, clock_seen()) < FLOW_CONFLICT_KEEP;
}

/* Remember how replies of this flow find their VIP. False: another flow that
 * is still in use looks the same to the machine. */
inline bool reverse_remember(const struct settings *s, const struct tuple *t,
			     const struct flow *values, const struct slot *slot,
			     __u64 gens)
{
	struct reverse_key key = {
		.client = t->client,
		.client_port = t->client_port,
		.internal_port = values->internal_port,
		.slot = values->slot,
		.proto = t->proto,
	};
	struct reverse entry = {
		.vip = t->vip,
		.vip_port = t->vip_port,
		.service = values->service,
		.ifindex = values->ifindex,
	};
	__u64 hash = reverse_hash(&key, s->seed);
	struct reverse *old = reverse_find(s, slot, &key, hash);

	bool same = old && addr_equal(&old->vip, &t->vip) &&
		    old->vip_port == t->vip_port;

	if (same && old->ifindex == values->ifindex) {
		reverse_reopen(old);
		return true;
	}
	if (old && !same && reverse_in_use(s, t, old))
		return false;
	reverse_insert(s, &key, hash, &entry, gens);
	return true;
}

/* Choose a machine for a tuple that has no flow. Returns a drop reason or 0. */
inline __u32 steer_new(const struct settings *s, const struct tuple *t,
		       __u64 hash, __u32 vip_index, __u32 ifindex, __u32 how,
		       struct target *to)
{
	__u32 reason = DROP_NONE;
	struct service *service =
		service_find(vip_index, t->vip_port, t->proto, &reason);
	struct flow values = {};
	__u64 gens;

	if (!service)
		return t->proto == IPPROTO_TCP && pool_is_shared(s, vip_index) ?
			       DROP_NEEDS_PROXY :
			       reason;
	if (service->flags & SERVICE_PROXY)
		return DROP_NEEDS_PROXY;
	to->slot = table_choose(service->table, hash, &values.slot);
	to->slot_index = values.slot;
	to->service = service->id;
	to->internal_port = service->internal_port;
	if (!to->slot)
		return DROP_NO_BACKEND;
	if (how & STEER_READONLY)
		return DROP_NONE;
	values.internal_port = service->internal_port;
	values.ifindex = ifindex;
	values.service = service->id;
	gens = generations(to->slot, service->id);
	/* A remote machine's replies are its host's to recognize. */
	if (service->flags & SERVICE_REVERSE && !(to->slot->flags & SLOT_REMOTE) &&
	    !reverse_remember(s, t, &values, to->slot, gens))
		return DROP_FLOW_CONFLICT;
	flow_insert(s, t, hash, &values, gens);
	count(COUNT_FLOW_NEW);
	to->new_flow = true;
	return DROP_NONE;
}

/* Find a tuple's machine: that of its flow, else a chosen one. vip_index:
 * from pool_index(); ifindex: where the packet came in; how: STEER_*.
 * Returns a drop reason, or 0 with `to` filled. */
inline __u32 steer(const struct settings *s, const struct tuple *t,
		   __u32 vip_index, __u32 ifindex, __u32 how, struct target *to)
{
	__u64 hash = tuple_hash(t, s->seed);
	struct flow *f;
	__u8 state;

	if (!(how & STEER_NEW)) {
		f = flow_find(s, t, hash);
		/* Another host has said so: that is only for what it sends. */
		if (f && is_host_number(f->ifindex) && !(how & STEER_READONLY))
			f = 0;
		to->slot = f ? flow_slot(f, hash) : 0;
		if (to->slot) {
			to->slot_index = f->slot;
			to->service = f->service;
			to->internal_port = f->internal_port;
			if (how & STEER_READONLY)
				return DROP_NONE;
			state = f->state & FLOW_REPLIED ? FLOW_CONFIRMED : 0;
			if (how & STEER_CLOSING)
				state |= FLOW_CLOSING;
			flow_touch(f, state);
			if (f->ifindex != ifindex) /* the client's route moved */
				f->ifindex = ifindex;
			return DROP_NONE;
		}
	}
	return steer_new(s, t, hash, vip_index, ifindex, how, to);
}

#endif
