/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMP errors of a VM about a client's packet ("port unreachable", say): the
 * client sent that packet to the VIP, so it must see the error come from there
 * and quote the VIP. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_ICMP_H
#define FLYEBPF_VM_ICMP_H

#include "vm_reply.h"

struct quote {
	struct icmphdr icmp;
	struct iphdr ip;
	struct ports ports;
} __attribute__((packed));

/* 0 and the answer's VIP if it quotes a client's packet, else REPLY_*. A quote
 * with IP options is taken for the VM's own: machines do not send such. */
inline __u32 icmp_reply_find(struct vm *vm, struct quote *q, struct answer *answer)
{
	struct reply_end end = {};

	if (vm->l4_room < sizeof(*q) ||
	    bpf_skb_load_bytes(vm->skb, vm->l4, q, sizeof(*q)))
		return REPLY_NOT;
	if (!icmp_is_error(q->icmp.type) || q->ip.version != 4 ||
	    q->ip.ihl != 5 || q->ip.saddr != vm->h.ip.daddr ||
	    is_later_fragment(&q->ip))
		return REPLY_NOT;
	if (q->ip.protocol != IPPROTO_TCP && q->ip.protocol != IPPROTO_UDP)
		return REPLY_NOT;
	/* Elsewhere it answered the VM's own traffic. */
	if (q->ip.daddr != machine_addr(vm->slot, q->ip.protocol))
		return REPLY_NOT;
	end.client = q->ip.saddr;
	end.client_port = q->ports.source;
	end.internal_port = q->ports.dest;
	end.proto = q->ip.protocol;
	return reply_find(vm, &end, answer);
}

inline bool icmp_reply_rewrite(struct vm *vm, struct quote *q,
			       const struct answer *answer)
{
	__be32 vip = answer->vip.word[3];
	__u16 check = q->ip.check;
	__u64 delta;

	csum_apply(&q->ip.check, csum_delta4(q->ip.daddr, vip));
	delta = csum_delta4(q->ip.daddr, vip) + csum_delta2(check, q->ip.check) +
		csum_delta2(q->ports.dest, answer->port);
	csum_apply(&q->icmp.checksum, delta);
	q->ip.daddr = vip;
	q->ports.dest = answer->port;
	if (bpf_skb_store_bytes(vm->skb, vm->l4, q, sizeof(*q), 0))
		return false;
	return vm_rewrite_l3(vm, vip, vm->h.ip.daddr);
}

inline int icmp_reply_send(struct vm *vm, struct quote *q,
			   const struct answer *answer)
{
	__u32 ifindex = answer->ifindex, reason;

	if (is_fragment(&vm->h.ip))
		return vm_drop(vm, DROP_ICMP_FRAGMENT);
	if (in_alias(vm->settings, bpf_ntohl(vm->h.ip.daddr)))
		return vm_drop(vm, DROP_ICMP_NO_FLOW);
	if (vm->h.ip.ttl <= 1)
		return vm_drop(vm, DROP_TTL);
	reason = reply_route(vm, answer->vip.word[3], vm->h.ip.daddr, &ifindex);
	if (reason)
		return vm_drop(vm, reason);
	count_out(answer->service, vm_bytes(vm));
	if (!icmp_reply_rewrite(vm, q, answer))
		return vm_drop(vm, DROP_REWRITE);
	return send_uplink(ifindex);
}

#endif
