/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Both ends of the chains that bench/chain.py and bench/forward.py measure. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>

#define TEMPLATE 64

struct traffic {
	__u8 template[TEMPLATE];
	__u32 clients; /* distinct numbers, a power of two */
	__u32 next;
	__u32 ifindex;
	__u32 varied; /* where a number from 1024 on is: 16 bits of the frame */
};

BPF_TABLE("array", u32, struct traffic, traffics, 1);
BPF_TABLE("array", u32, u64, received, 1);
BPF_TABLE("array", u32, u32, hops, 2); /* ifindexes */

/* Writes the next frame; pages come back as the chain left them. */
static __always_inline struct traffic *make_frame(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	u32 zero = 0;
	__be16 *varied;
	struct traffic *t = traffics.lookup(&zero);

	if (!t || data + TEMPLATE > end)
		return 0;
	__builtin_memcpy(data, t->template, TEMPLATE);
	varied = data + (t->varied & (TEMPLATE - 1));
	if ((void *)(varied + 1) > end)
		return 0;
	*varied = bpf_htons(1024 + (t->next++ & (t->clients - 1)));
	return t;
}

/* Run with live frames: each goes out of the client's interface. */
int chain_source(struct xdp_md *ctx)
{
	struct traffic *t = make_frame(ctx);

	return t ? bpf_redirect(t->ifindex, 0) : XDP_ABORTED;
}

/* What making frames costs alone. */
int chain_source_alone(struct xdp_md *ctx)
{
	return make_frame(ctx) ? XDP_DROP : XDP_ABORTED;
}

static __always_inline void arrived(void)
{
	u32 zero = 0;
	u64 *count = received.lookup(&zero);

	if (count)
		*count += 1;
}

/* tc ingress of the VM's interface: its kernel has the packet; or egress of a
 * device: it would send it. */
int chain_sink_tc(struct __sk_buff *skb)
{
	arrived();
	return 2; /* TC_ACT_SHOT */
}

/* XDP of the VM's interface: its driver has the packet. */
int chain_sink_xdp(struct xdp_md *ctx)
{
	arrived();
	return XDP_DROP;
}

/* The least that can be done to a packet: on to the next device, unseen. */
static __always_inline int hop(u32 number)
{
	u32 *next = hops.lookup(&number);

	return next ? bpf_redirect(*next, 0) : 2;
}

int chain_hop(struct __sk_buff *skb)
{
	return hop(0);
}

/* The same on the next host. */
int chain_hop_on(struct __sk_buff *skb)
{
	return hop(1);
}
