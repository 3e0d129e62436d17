/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Replies: packets of a VM that leave with a VIP as their source.
 * Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_REPLY_H
#define FLYEBPF_VM_REPLY_H

#include "answer.h"
#include "mss.h"
#include "route.h"
#include "vm_icmp.h"
#include "vm_mesh.h"

/* struct answer's kind */
#define REPLY_L4 0
#define REPLY_FRAGMENT 1 /* a later one */
#define REPLY_ICMP 2

#define REPLY_NOT 0 /* not a reply: the VM's own traffic */
#define REPLY_FOUND 1
#define REPLY_UNSURE 2 /* a reply, but several VIPs could be its source */
#define REPLY_PROXY 3  /* an answer to a proxy */

/* As answer_touch, for the machine's end of a flow. */
inline bool reply_touch_flow(const struct vm *vm, const struct reply_end *end,
			     struct answer *answer)
{
	struct tuple tuple = { .proto = end->proto };

	addr_from_ipv4(&tuple.client, end->client);
	tuple.vip = answer->vip;
	tuple.client_port = end->client_port;
	tuple.vip_port = answer->port;
	return answer_touch(vm->settings, vm->slot_index, &tuple, end->state,
			    answer, false);
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

/* How a reply leaves. ifindex: of the interface, or of WAY_MESH the number of
 * the host. */
struct way {
	__u32 ifindex;
	__be32 daddr;
	__u8 kind;
};

#define WAY_UPLINK 0
#define WAY_VM 1 /* the frame's MACs are set */
#define WAY_MESH 2

/* Back to the edge that the client came in at. An alias stays one: the machine
 * behind it is that host's to know. */
inline __u32 reply_mesh(struct vm *vm, struct way *way)
{
	way->kind = WAY_MESH;
	vm_set_mesh(vm, way->ifindex, 0, 0);
	return vm->settings->mesh_mtu ? DROP_NONE : DROP_NO_HOST;
}

/* Another VM of this host. */
inline __u32 reply_vm(struct vm *vm, struct way *way)
{
	__u32 *index = vm_slot_of(vm->settings, way->ifindex);
	struct slot *client = index ? get_slot(*index) : 0;

	way->kind = WAY_VM;
	way->daddr = from_alias(vm->settings, way->daddr);
	if (!client || client->private_ip != way->daddr ||
	    !(client->flags & SLOT_LIVE))
		return DROP_REPLY_CLIENT_GONE;
	vm_set_macs(vm, client->mac, client->host_mac);
	return DROP_NONE;
}

/* The way to the client of an answer, whose address is an alias if it is a VM.
 * way->ifindex: as in struct flow. Returns a drop reason or 0. */
inline __u32 reply_client(struct vm *vm, __be32 vip, struct way *way)
{
	bool alias = in_alias(vm->settings, bpf_ntohl(vm->h.ip.daddr));

	way->daddr = vm->h.ip.daddr;
	if (is_host_number(way->ifindex) &&
	    (alias || vm->settings->mesh_flags & MESH_RETURN_EDGE))
		return reply_mesh(vm, way);
	if (alias)
		return reply_vm(vm, way);
	way->kind = WAY_UPLINK;
	return reply_route(vm->skb, vm->settings, vip, way->daddr,
			   &way->ifindex);
}

inline void reply_remember_fragment(const struct vm *vm, const struct answer *answer,
				    __u32 ifindex)
{
	struct frag_key key = vm_frag_key(vm);
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

/* A later fragment follows its first one. */
inline bool fragment_find(const struct vm *vm, struct answer *answer)
{
	struct frag_key key = vm_frag_key(vm);
	struct frag *frag = map_lookup(fragments, &key);

	if (!frag || frag->slot != vm->slot_index ||
	    frag->generation != vm->slot->generation || !frag_is_fresh(frag))
		return false;
	answer->vip.word[3] = frag->new_addr;
	answer->ifindex = frag->ifindex;
	answer->service = frag->service;
	answer->kind = REPLY_FRAGMENT;
	return true;
}

/* The packet as the client should see it. */
inline bool reply_rewrite(struct vm *vm, const struct answer *answer,
			  struct quote *quote, __be32 daddr)
{
	__be32 vip = answer->vip.word[3];

	if (answer->kind == REPLY_L4)
		return vm_rewrite_l4(vm, vip, daddr, SOURCE_PORT, vm->ports.source,
				     answer->port);
	if (answer->kind == REPLY_ICMP &&
	    !quote_rewrite(vm, quote, vip, answer->port))
		return false;
	return vm_rewrite_l3(vm, vip, daddr);
}

inline int reply_send(struct vm *vm, const struct answer *answer,
		      struct quote *quote)
{
	struct way way = { .ifindex = answer->ifindex };
	__u32 reason;

	if (answer->kind == REPLY_ICMP && is_fragment(&vm->h.ip))
		return vm_drop(vm, DROP_ICMP_FRAGMENT);
	if (answer->kind == REPLY_ICMP &&
	    in_alias(vm->settings, bpf_ntohl(vm->h.ip.daddr)))
		return vm_drop(vm, DROP_ICMP_NO_FLOW);
	if (vm->h.ip.ttl <= 1)
		return vm_drop(vm, DROP_TTL);
	reason = reply_client(vm, answer->vip.word[3], &way);
	if (reason)
		return vm_drop(vm, reason);
	if (way.kind == WAY_MESH && !vm_fits_mesh(vm))
		return VM_TOO_BIG;
	count_out(answer->service, vm_bytes(vm));
	if (answer->kind == REPLY_L4 && is_fragment(&vm->h.ip))
		reply_remember_fragment(vm, answer, way.ifindex);
	/* What the client sends passes the mesh: the machine's MSS limits it. */
	if (answer->kind == REPLY_L4 && vm->flags & TH_SYN &&
	    is_host_number(answer->ifindex) &&
	    !mss_lower(vm->skb, vm->l4, mesh_mss(vm->settings)))
		return vm_drop(vm, DROP_REWRITE);
	if (!reply_rewrite(vm, answer, quote, way.daddr))
		return vm_drop(vm, DROP_REWRITE);
	if (way.kind == WAY_MESH) {
		count(COUNT_MESH_RETURN);
		return VM_MESH;
	}
	return way.kind == WAY_VM ? bpf_redirect(way.ifindex, 0) :
				    send_uplink(way.ifindex);
}

#endif
