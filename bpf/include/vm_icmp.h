/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMP errors of a VM about a client's packet ("port unreachable", say): the
 * client sent that packet to the VIP, so it must see the error come from there
 * and quote the VIP. Included by vm_tc.c only. */
#ifndef FLYEBPF_VM_ICMP_H
#define FLYEBPF_VM_ICMP_H

#include "vm_packet.h"

/* The tuple of the machine's end of a flow. */
struct reply_end {
	__be32 client;
	__be16 client_port;
	__be16 internal_port;
	__u8 proto;
	__u8 state; /* FLOW_* that the packet adds; 0 for a quoted one */
	bool opens; /* a TCP SYN: never a reply */
};

struct quote {
	struct icmphdr icmp;
	struct iphdr ip;
	struct ports ports;
} __attribute__((packed));

/* Whether it quotes a packet that this VM may have got from a client, and whose.
 * A quote with IP options is taken for the VM's own: machines do not send such. */
inline bool icmp_end(struct vm *vm, struct quote *q, struct reply_end *end)
{
	if (vm->l4_room < sizeof(*q) ||
	    bpf_skb_load_bytes(vm->skb, vm->l4, q, sizeof(*q)))
		return false;
	if (!icmp_is_error(q->icmp.type) || q->ip.version != 4 ||
	    q->ip.ihl != 5 || q->ip.saddr != vm->h.ip.daddr ||
	    is_later_fragment(&q->ip))
		return false;
	if (q->ip.protocol != IPPROTO_TCP && q->ip.protocol != IPPROTO_UDP)
		return false;
	/* Elsewhere it answered the VM's own traffic. */
	if (q->ip.daddr != machine_addr(vm->slot, q->ip.protocol))
		return false;
	end->client = q->ip.saddr;
	end->client_port = q->ports.source;
	end->internal_port = q->ports.dest;
	end->proto = q->ip.protocol;
	return true;
}

/* The quoted packet as the client sent it. */
inline bool quote_rewrite(struct vm *vm, struct quote *q, __be32 vip, __be16 port)
{
	__u16 check = q->ip.check;
	__u64 delta;

	csum_apply(&q->ip.check, csum_delta4(q->ip.daddr, vip));
	delta = csum_delta4(q->ip.daddr, vip) + csum_delta2(check, q->ip.check) +
		csum_delta2(q->ports.dest, port);
	csum_apply(&q->icmp.checksum, delta);
	q->ip.daddr = vip;
	q->ports.dest = port;
	return !bpf_skb_store_bytes(vm->skb, vm->l4, q, sizeof(*q), 0);
}

#endif
