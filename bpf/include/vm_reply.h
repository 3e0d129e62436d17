/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Replies: packets of a VM that leave with a VIP as their source.
 * Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_REPLY_H
#define FLYEBPF_VM_REPLY_H

#include "vm_route.h"

/* What a reply is sent as. ifindex: the client's side; 0 if no flow says it. */
struct answer {
	struct addr vip;
	__be16 port;
	__u32 service;
	__u32 ifindex;
	__u8 confirmed; /* FLOW_CONFIRMED if its flow is */
};

#define REPLY_NOT 0 /* not a reply: the VM's own traffic */
#define REPLY_FOUND 1
#define REPLY_UNSURE 2 /* a reply, but several VIPs could be its source */

/* The tuple of the machine's end of a flow. */
struct reply_end {
	__be32 client;
	__be16 client_port;
	__be16 internal_port;
	__u8 proto;
	__u8 state; /* FLOW_* that the packet adds; 0 for a quoted one */
	bool opens; /* a TCP SYN: never a reply */
};

/* Mark the flow of an answer, and take its interface. */
inline bool reply_touch_flow(const struct vm *vm, const struct reply_end *end,
			     struct answer *answer)
{
	struct tuple tuple = { .proto = end->proto };
	struct flow *flow;
	__u64 hash;

	addr_from_ipv4(&tuple.client, end->client);
	tuple.vip = answer->vip;
	tuple.client_port = end->client_port;
	tuple.vip_port = answer->port;
	hash = tuple_hash(&tuple, vm->settings->seed);
	flow = flow_find(vm->settings, &tuple, hash);
	if (!flow || flow->slot != vm->slot_index || !flow_slot(flow, hash))
		return false;
	answer->ifindex = flow->ifindex;
	answer->service = flow->service;
	answer->confirmed = flow->state & FLOW_CONFIRMED;
	if (end->state)
		flow_touch(flow, end->state);
	return true;
}

/* The VM connects from a port that a service of its uses: its later packets
 * must not be taken for replies. */
inline void reverse_remember_own(const struct vm *vm, const struct reverse_key *key,
				 __u64 hash)
{
	struct reverse own = { .state = FLOW_OWN, .service = ~0U };

	reverse_insert(vm->settings, key, hash, &own,
		       generations(vm->slot, own.service));
}

/* A flow that was opened when the oldest VIP and port were still the only ones
 * is not in `reverse`. Returns REPLY_*. */
inline __u32 reply_from_oldest(const struct vm *vm, const struct reply_end *end,
			       const struct reply *reply, struct answer *answer)
{
	answer->vip = reply->vip;
	answer->port = reply->port;
	return reply_touch_flow(vm, end, answer) ? REPLY_FOUND : REPLY_UNSURE;
}

/* Which VIP a packet answers for. Returns REPLY_*. */
inline __u32 reply_find(const struct vm *vm, const struct reply_end *end,
			struct answer *answer)
{
	struct reply_key key = {
		.slot = vm->slot_index,
		.port = end->internal_port,
		.proto = end->proto,
	};
	struct reply *reply = map_lookup(replies, &key);
	struct reverse_key reverse_key = {
		.client_port = end->client_port,
		.internal_port = end->internal_port,
		.slot = vm->slot_index,
		.proto = end->proto,
	};
	struct reverse *reverse;
	__u64 hash;

	/* No client has an address of the pools: the edge sees to that. */
	if (!reply || pool_index(vm->settings, bpf_ntohl(end->client)) != NOT_IN_POOLS)
		return REPLY_NOT;
	addr_from_ipv4(&reverse_key.client, end->client);
	hash = reverse_hash(&reverse_key, vm->settings->seed);
	if (end->opens) {
		reverse_remember_own(vm, &reverse_key, hash);
		return REPLY_NOT;
	}
	if (reply->flags & REPLY_UNIQUE) {
		answer->vip = reply->vip;
		answer->port = reply->port;
		answer->service = reply->service;
		if (reply_touch_flow(vm, end, answer))
			return REPLY_FOUND;
	}
	reverse = reverse_find(vm->settings, vm->slot, &reverse_key, hash);
	if (reverse && reverse->state & FLOW_OWN) {
		reverse_touch(reverse, 0);
		return REPLY_NOT;
	}
	if (reply->flags & REPLY_UNIQUE)
		return REPLY_FOUND;
	if (!reverse)
		return reply_from_oldest(vm, end, reply, answer);
	answer->vip = reverse->vip;
	answer->port = reverse->vip_port;
	answer->service = reverse->service;
	answer->ifindex = reverse->ifindex;
	reply_touch_flow(vm, end, answer);
	if (end->state)
		reverse_touch(reverse, end->state | answer->confirmed);
	return REPLY_FOUND;
}

/* Out where the client came in, as long as that is an uplink; of several, one
 * with a route to the client: over another one redirect_neigh would ask for the
 * client's own MAC. If no flow says where, nobody may have asked: then only
 * where the VM's own packets may go. */
inline __u32 reply_route(const struct vm *vm, __be32 vip, __be32 daddr,
			 __u32 *ifindex)
{
	const struct settings *s = vm->settings;
	__u32 came_in = *ifindex;
	__u32 reason = came_in ? DROP_NONE : policy_of(daddr);

	if (reason)
		return reason;
	if (is_uplink(s, came_in) &&
	    (s->uplink_count == 1 || !route_out(vm, vip, daddr, came_in, ifindex)))
		return DROP_NONE;
	return route_out(vm, vip, daddr, 0, ifindex);
}

/* The client of an answer: another VM of this host if its address is an alias.
 * Sets the frame's MACs for that; returns a drop reason or 0. */
inline __u32 reply_client(struct vm *vm, __be32 vip, __u32 *ifindex, __be32 *daddr,
			  bool *local)
{
	struct slot *client;
	__u32 *index;

	*daddr = vm->h.ip.daddr;
	*local = in_alias(vm->settings, bpf_ntohl(*daddr));
	if (!*local)
		return reply_route(vm, vip, *daddr, ifindex);
	*daddr = from_alias(vm->settings, *daddr);
	index = vm_slot_of(vm->settings, *ifindex);
	client = index ? get_slot(*index) : 0;
	if (!client || client->private_ip != *daddr || !(client->flags & SLOT_LIVE))
		return DROP_REPLY_CLIENT_GONE;
	vm_set_macs(vm, client->mac, client->host_mac);
	return DROP_NONE;
}

inline void reply_remember_fragment(const struct vm *vm, const struct answer *answer,
				    __u32 ifindex)
{
	struct frag_key key = {
		.src = vm->h.ip.saddr,
		.dst = vm->h.ip.daddr,
		.id = vm->h.ip.id,
		.proto = vm->h.ip.protocol,
		.from_vm = 1,
	};
	struct frag frag = {
		.slot = vm->slot_index,
		.generation = vm->slot->generation,
		.new_addr = answer->vip.word[3],
		.ifindex = ifindex,
		.service = answer->service,
		.seen = clock_seen(),
	};

	map_update(fragments, &key, &frag);
}

inline int reply_send(struct vm *vm, const struct answer *answer)
{
	__u32 ifindex = answer->ifindex, reason;
	__be32 daddr;
	bool local;

	if (vm->h.ip.ttl <= 1)
		return vm_drop(vm, DROP_TTL);
	reason = reply_client(vm, answer->vip.word[3], &ifindex, &daddr, &local);
	if (reason)
		return vm_drop(vm, reason);
	count_out(answer->service, vm_bytes(vm));
	if (is_fragment(&vm->h.ip))
		reply_remember_fragment(vm, answer, ifindex);
	if (!vm_rewrite_l4(vm, answer->vip.word[3], daddr, 0,
			   vm->ports.source, answer->port))
		return vm_drop(vm, DROP_REWRITE);
	return local ? bpf_redirect(ifindex, 0) : send_uplink(ifindex);
}

/* A later fragment of a reply. */
inline int reply_send_fragment(struct vm *vm, const struct frag *frag)
{
	__u32 ifindex = frag->ifindex, reason;
	__be32 daddr;
	bool local;

	if (vm->h.ip.ttl <= 1)
		return vm_drop(vm, DROP_TTL);
	reason = reply_client(vm, frag->new_addr, &ifindex, &daddr, &local);
	if (reason)
		return vm_drop(vm, reason);
	count_out(frag->service, vm_bytes(vm));
	if (!vm_rewrite_l3(vm, frag->new_addr, daddr))
		return vm_drop(vm, DROP_REWRITE);
	return local ? bpf_redirect(ifindex, 0) : send_uplink(ifindex);
}

#endif
