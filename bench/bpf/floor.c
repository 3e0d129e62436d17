/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the parts cost that no steering program can do without: the yardstick
 * for edge_xdp (and for vm_tc, those in tc), measured in the same run. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "packet.h"
#include "csum.h"
#include "ip6.h"
#include "sixpn.h"
#include "tc.h"

struct backend {
	__be32 address;
	__be16 port;
	__u8 mac[6];
	__u32 ifindex;
	__u64 packets;
};

struct flow_key {
	__u64 word[5]; /* addresses of 16 bytes, ports, protocol */
};

BPF_TABLE("hash", struct flow_key, struct backend, floor_flows, 1048576);

inline struct iphdr *parse(struct xdp_md *ctx, struct udphdr **udp)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct ethhdr *eth = data;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return 0;
	*udp = (void *)ip + ip->ihl * 4;
	if (ip->ihl < 5 || (void *)(*udp + 1) > end)
		return 0;
	return ip;
}

inline void key_of(struct flow_key *key, struct iphdr *ip, struct udphdr *udp)
{
	key->word[0] = 0;
	key->word[1] = (__u64)ip->saddr << 32 | 0xffff;
	key->word[2] = 0;
	key->word[3] = (__u64)ip->daddr << 32 | 0xffff;
	key->word[4] = (__u64)udp->source << 32 | udp->dest << 16 | ip->protocol;
}

int floor_nothing(struct xdp_md *ctx)
{
	return XDP_PASS;
}

int floor_nothing_tc(struct __sk_buff *skb)
{
	return 0; /* TC_ACT_OK */
}

int floor_parse(struct xdp_md *ctx)
{
	struct udphdr *udp;
	struct iphdr *ip = parse(ctx, &udp);

	return ip && udp->dest ? XDP_PASS : XDP_DROP;
}

int floor_lookup(struct xdp_md *ctx)
{
	struct udphdr *udp;
	struct iphdr *ip = parse(ctx, &udp);
	struct flow_key key;
	struct backend *backend;

	if (!ip)
		return XDP_DROP;
	key_of(&key, ip, udp);
	backend = floor_flows.lookup(&key);
	return backend ? XDP_PASS : XDP_DROP;
}

struct machine {
	__u8 mac[6];
	__u8 host_mac[6];
	__u32 ifindex;
};

BPF_TABLE("hash", struct sixpn_key, struct machine, floor_machines, 131072);

inline struct ip6 *parse6(struct __sk_buff *skb, struct sixpn_key *key)
{
	struct ip6 *ip = ip6_load(skb);
	struct sixpn to;

	if (!ip || bpf_ntohl(ip->version) >> 28 != 6)
		return 0;
	to = sixpn_of(&ip->dst);
	key->network = to.network;
	key->machine = to.machine;
	return ip;
}

/* What no check of a private network's packets can do without, in tc: the
 * addresses' fields, and one lookup of the machine they are for. */
int floor_sixpn_tc(struct __sk_buff *skb)
{
	struct sixpn_key key = {};

	if (!parse6(skb, &key))
		return TC_ACT_SHOT;
	return floor_machines.lookup(&key) ? TC_ACT_OK : TC_ACT_SHOT;
}

/* And to deliver it. */
int floor_deliver_tc(struct __sk_buff *skb)
{
	struct sixpn_key key = {};
	struct ip6 *ip = parse6(skb, &key);
	struct machine *machine;
	struct ethhdr *eth;

	if (!ip)
		return TC_ACT_SHOT;
	machine = floor_machines.lookup(&key);
	if (!machine)
		return TC_ACT_SHOT;
	eth = (void *)ip - IP6_AT;
	__builtin_memcpy(eth->h_dest, machine->mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, machine->host_mac, ETH_ALEN);
	ip->hop_limit--;
	return bpf_redirect(machine->ifindex, 0);
}

/* The cheapest thing that could be called steering. */
int floor_rewrite(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct udphdr *udp;
	struct iphdr *ip = parse(ctx, &udp);
	struct flow_key key;
	struct backend *backend;
	__u64 delta;

	if (!ip)
		return XDP_DROP;
	key_of(&key, ip, udp);
	backend = floor_flows.lookup(&key);
	if (!backend)
		return XDP_DROP;
	delta = csum_delta4(ip->daddr, backend->address);
	csum_apply_udp(&udp->check, delta + csum_delta2(udp->dest, backend->port));
	csum_apply(&ip->check, delta);
	ip->daddr = backend->address;
	udp->dest = backend->port;
	__builtin_memcpy(eth->h_dest, backend->mac, ETH_ALEN);
	backend->packets++;
	return bpf_redirect(backend->ifindex, 0);
}
