/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* As wrapper.c, for programs that make a frame longer or shorter: the frame is
 * brought back to its length too. What that costs is measured with programs
 * that do nothing but the opposite (grow_xdp, shrink_tc): half of it. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include <linux/if_ether.h>

#define TEMPLATE 96
#define GROWN 40 /* bytes that the mesh's header has */
#define META 8	 /* bytes that edge_xdp leaves to edge_tc */

struct plan {
	__u8 template[TEMPLATE];
	__u32 length; /* of the frame */
	__u32 pad;
};

BPF_TABLE("array", u32, struct plan, plans, 1);
BPF_TABLE("prog", u32, u32, measured, 1);

int wrap_xdp(struct xdp_md *ctx)
{
	u32 zero = 0;
	struct plan *plan = plans.lookup(&zero);
	void *data = (void *)(long)ctx->data, *meta;

	if (!plan)
		return XDP_ABORTED;
	if ((void *)(long)ctx->data_end - data > plan->length &&
	    bpf_xdp_adjust_head(ctx, GROWN))
		return XDP_ABORTED;
	meta = (void *)(long)ctx->data_meta;
	data = (void *)(long)ctx->data;
	if (meta + META <= data && bpf_xdp_adjust_meta(ctx, META))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if (data + TEMPLATE > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(data, plan->template, TEMPLATE);
	measured.call(ctx, 0);
	return XDP_ABORTED;
}

int wrap_tc(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct plan *plan = plans.lookup(&zero);

	if (!plan)
		return 2;
	if (skb->len < plan->length &&
	    (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0) ||
	     bpf_skb_adjust_room(skb, GROWN / 2, BPF_ADJ_ROOM_MAC, 0)))
		return 2;
	if (bpf_skb_store_bytes(skb, 0, plan->template, TEMPLATE, 0))
		return 2;
	measured.call(skb, 0);
	return 2;
}

int grow_xdp(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -GROWN) ||
			       bpf_xdp_adjust_meta(ctx, -META) ?
		       XDP_ABORTED :
		       XDP_PASS;
}

int shrink_tc(struct __sk_buff *skb)
{
	return bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0) ||
			       bpf_skb_adjust_room(skb, -GROWN / 2,
						   BPF_ADJ_ROOM_MAC, 0) ?
		       2 :
		       0;
}

int nothing_xdp(struct xdp_md *ctx)
{
	return XDP_PASS;
}

int nothing_tc(struct __sk_buff *skb)
{
	return 0;
}
