/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of every VM's interface: what a VM sends.
 *
 * First who it is and that it says so (MAC, addresses, ARP), then what it is: a
 * reply to a client, which leaves with the VIP as its source; something of its
 * own to a VIP, which goes to a machine at once; something of its own to the
 * internet, which the host's stack translates. Everything else ends here.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "packet.h"
#include "vm_arp.h"
#include "vm_icmp.h"
#include "vm_own.h"

/* Not a verdict: no reply, so the VM's own. Returned rather than acted upon,
 * because everything is inlined and each call would be one more copy. */
#define VM_OWN (-2)

/* fly-global-services only ever answers clients (contract, section 1). */
inline int vm_own_traffic(struct vm *vm)
{
	__u32 vip_index = pool_index(vm->settings, bpf_ntohl(vm->h.ip.daddr));

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

inline int vm_l4(struct vm *vm)
{
	struct answer answer = {};
	struct reply_end end = {};
	__u32 found;
	__u32 reason = vm_load_l4(vm);

	if (reason)
		return vm_drop(vm, reason);
	if (!vm_may_reply(vm))
		return VM_OWN;
	end.client = vm->h.ip.daddr;
	end.client_port = vm->ports.dest;
	end.internal_port = vm->ports.source;
	end.proto = vm->h.ip.protocol;
	end.state = FLOW_REPLIED |
		    (vm->flags & (TH_FIN | TH_RST) ? FLOW_CLOSING : 0);
	end.opens = (vm->flags & (TH_SYN | TH_ACK)) == TH_SYN;
	found = reply_find(vm, &end, &answer);
	if (found == REPLY_FOUND)
		return reply_send(vm, &answer);
	if (found == REPLY_UNSURE)
		return vm_drop(vm, DROP_REPLY_AMBIGUOUS);
	return VM_OWN;
}

inline int vm_icmp(struct vm *vm)
{
	struct answer answer = {};
	struct quote quote;
	__u32 found = icmp_reply_find(vm, &quote, &answer);

	if (found == REPLY_FOUND)
		return icmp_reply_send(vm, &quote, &answer);
	if (found == REPLY_UNSURE)
		return vm_drop(vm, DROP_REPLY_AMBIGUOUS);
	return VM_OWN;
}

/* A later fragment follows its first one; without that, it can only be the
 * VM's own, which the host's conntrack puts together. */
inline int vm_fragment(struct vm *vm)
{
	struct frag_key key = {
		.src = vm->h.ip.saddr,
		.dst = vm->h.ip.daddr,
		.id = vm->h.ip.id,
		.proto = vm->h.ip.protocol,
		.from_vm = 1,
	};
	struct frag *frag = map_lookup(fragments, &key);

	if (frag && frag->slot == vm->slot_index &&
	    frag->generation == vm->slot->generation && frag_is_fresh(frag))
		return reply_send_fragment(vm, frag);
	if (vm->h.ip.saddr == vm->slot->services_ip ||
	    pool_index(vm->settings, bpf_ntohl(vm->h.ip.daddr)) != NOT_IN_POOLS)
		return vm_drop(vm, DROP_VM_FRAGMENT);
	return own_out(vm);
}

inline int vm_ipv4(struct vm *vm)
{
	int verdict = VM_OWN;
	__u32 reason = vm_load_ipv4(vm);

	if (reason)
		return vm_drop(vm, reason);
	if (vm->h.eth.h_dest[0] & 1 || bpf_ntohl(vm->h.ip.daddr) >> 28 == 14 ||
	    vm->h.ip.daddr == ~0U)
		return vm_drop(vm, DROP_VM_MULTICAST);
	if (is_later_fragment(&vm->h.ip))
		return vm_fragment(vm);
	if (vm->h.ip.protocol == IPPROTO_TCP || vm->h.ip.protocol == IPPROTO_UDP)
		verdict = vm_l4(vm);
	else if (vm->h.ip.protocol == IPPROTO_ICMP)
		verdict = vm_icmp(vm);
	return verdict == VM_OWN ? vm_own_traffic(vm) : verdict;
}

int vm_tc(struct __sk_buff *skb)
{
	struct vm vm = { .skb = skb };
	__u32 ifindex = skb->ifindex;
	__u32 *index;

	vm.settings = get_settings();
	index = vm.settings ? vm_slot_of(vm.settings, ifindex) : 0;
	vm.slot = index ? get_slot(*index) : 0;
	if (!vm.slot || vm.slot->ifindex != ifindex)
		return vm_drop(&vm, DROP_UNKNOWN_VM);
	vm.slot_index = *index;
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
	if (vm.h.eth.h_proto == bpf_htons(ETH_P_IPV6))
		return vm_drop(&vm, DROP_IPV6);
	return vm_drop(&vm, DROP_ETHERTYPE);
}
