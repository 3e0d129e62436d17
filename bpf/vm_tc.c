/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of every VM's interface: what a VM sends.
 *
 * First who it is and that it says so (MAC, addresses, ARP), then what it is: a
 * reply to a client, which leaves with the VIP as its source; something of its
 * own to a VIP, which goes to a machine or its host at once; something of its own
 * to the internet, which the host's stack translates; something for the host's DNS
 * server, which is for the next program here, dns.c. Everything else ends here.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "packet.h"
#include "vm_arp.h"
#include "vm_own.h"
#include "vm_reply.h"
#include "vm_too_big.h"
#include "vm6.h"

/* fly-global-services only ever answers clients (contract, section 1). */
inline int vm_own_traffic(struct vm *vm)
{
	__u32 vip_index = pool_index(vm->settings, bpf_ntohl(vm->h.ip.daddr));

	/* Without its first one, it can only be the VM's own, which the host's
	 * conntrack puts together. */
	if (is_later_fragment(&vm->h.ip) &&
	    (vm->h.ip.saddr == vm->slot->services_ip || vip_index != NOT_IN_POOLS))
		return vm_drop(vm, DROP_VM_FRAGMENT);
	if (vm->h.ip.saddr == vm->slot->services_ip)
		return vm_drop(vm, DROP_REPLY_NO_FLOW);
	if (vip_index == NOT_IN_POOLS)
		return own_out(vm);
	if (vm->h.ip.protocol == IPPROTO_ICMP)
		return hairpin_echo(vm, vip_index);
	if (vm->h.ip.protocol == IPPROTO_TCP || vm->h.ip.protocol == IPPROTO_UDP)
		return hairpin_l4(vm, vip_index);
	return vm_drop(vm, DROP_PROTO);
}

/* TCP is answered from the private address, UDP from fly-global-services: the
 * other combinations are not replies. */
inline bool vm_may_reply(const struct vm *vm)
{
	return vm->h.ip.saddr == machine_addr(vm->slot, vm->h.ip.protocol);
}

/* An answer to a proxy: from a port that it may open connections to, and opening
 * none itself. */
inline bool vm_answers_proxy(const struct vm *vm)
{
	return vm->h.ip.protocol == IPPROTO_TCP && !is_fragment(&vm->h.ip) &&
	       in_private(vm->settings, bpf_ntohl(vm->h.ip.daddr)) &&
	       (vm->flags & (TH_SYN | TH_ACK)) != TH_SYN &&
	       is_proxy(vm->h.ip.daddr) &&
	       is_proxy_port(vm->slot_index, vm->ports.source);
}

/* The flow that a TCP or UDP packet of the VM would answer in. */
inline void l4_end(const struct vm *vm, struct reply_end *end)
{
	end->client = vm->h.ip.daddr;
	end->client_port = vm->ports.dest;
	end->internal_port = vm->ports.source;
	end->proto = vm->h.ip.protocol;
	end->state = FLOW_REPLIED |
		     (vm->flags & (TH_FIN | TH_RST) ? FLOW_CLOSING : 0);
	end->opens = (vm->flags & (TH_SYN | TH_ACK)) == TH_SYN;
}

/* Whether the packet is a reply, and what it is sent as. Returns REPLY_*. */
inline __u32 vm_reply_find(struct vm *vm, struct answer *answer,
			   struct quote *quote, __u32 *reason)
{
	struct reply_end end = {};

	if (is_later_fragment(&vm->h.ip))
		return fragment_find(vm, answer) ? REPLY_FOUND : REPLY_NOT;
	if (vm->h.ip.protocol == IPPROTO_ICMP) {
		answer->kind = REPLY_ICMP;
		if (!icmp_end(vm, quote, &end))
			return REPLY_NOT;
	} else if (vm->h.ip.protocol == IPPROTO_TCP ||
		   vm->h.ip.protocol == IPPROTO_UDP) {
		answer->kind = REPLY_L4;
		*reason = vm_load_l4(vm);
		if (*reason || !vm_may_reply(vm))
			return REPLY_NOT;
		if (vm_answers_proxy(vm))
			return REPLY_PROXY;
		l4_end(vm, &end);
	} else {
		return REPLY_NOT;
	}
	return reply_find(vm, &end, answer);
}

inline int vm_ipv4(struct vm *vm)
{
	struct answer answer = {};
	struct quote quote;
	int verdict;
	__u32 found, reason = vm_load_ipv4(vm);

	if (reason)
		return vm_drop(vm, reason);
	if (vm->h.eth.h_dest[0] & 1 || bpf_ntohl(vm->h.ip.daddr) >> 28 == 14 ||
	    vm->h.ip.daddr == ~0U)
		return vm_drop(vm, DROP_VM_MULTICAST);
	found = vm_reply_find(vm, &answer, &quote, &reason);
	if (reason)
		return vm_drop(vm, reason);
	if (found == REPLY_UNSURE)
		return vm_drop(vm, DROP_REPLY_AMBIGUOUS);
	if (found == REPLY_PROXY)
		return vm_to_proxy(vm);
	verdict = found == REPLY_FOUND ? reply_send(vm, &answer, &quote) :
					 vm_own_traffic(vm);
	if (verdict == VM_MESH)
		return vm_mesh_send(vm);
	return verdict == VM_TOO_BIG ? vm_too_big(vm) : verdict;
}

inline int vm_other(struct __sk_buff *skb, struct settings *settings,
		    struct slot *slot, __u32 slot_index)
{
	struct vm vm = {
		.skb = skb,
		.settings = settings,
		.slot = slot,
		.slot_index = slot_index,
	};

	if (bpf_skb_load_bytes(skb, 0, &vm.h.eth, sizeof(vm.h.eth)))
		return vm_drop(&vm, DROP_TRUNCATED);
	if (!mac_equal(vm.h.eth.h_source, vm.slot->mac))
		return vm_drop(&vm, DROP_SPOOFED_MAC);
	if (skb->vlan_present)
		return vm_drop(&vm, DROP_ETHERTYPE);
	if (vm.h.eth.h_proto == bpf_htons(ETH_P_IP))
		return vm_ipv4(&vm);
	if (vm.h.eth.h_proto == bpf_htons(ETH_P_ARP))
		return vm_arp(&vm);
	return vm_drop(&vm, DROP_ETHERTYPE);
}

int vm_tc(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct settings *settings = get_settings();
	__u32 *index = settings ? vm_slot_of(settings, ifindex) : 0;
	struct slot *slot = index ? get_slot(*index) : 0;

	if (!slot || slot->ifindex != ifindex)
		return tc_drop(skb, DROP_UNKNOWN_VM);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return vm6(skb, settings, slot, *index);
	return vm_other(skb, settings, slot, *index);
}
