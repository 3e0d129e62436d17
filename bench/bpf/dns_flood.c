/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Both ends of bench/knot.py: queries for names that vary, and a count of the
 * answers. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>

#define FRAME 112
#define CHECKSUM 60
#define ID 62
#define LETTERS 76 /* four letters of the name */
#define ANCOUNT 68

struct flood {
	__u8 frame[FRAME];
	__u32 sum; /* of the datagram without what varies */
	__u32 names; /* distinct ones, a power of two */
	__u32 next;
	__u32 stride; /* odd: visits the names in a scattered order */
	__u32 ifindex;
};

BPF_TABLE("array", u32, struct flood, floods, 1);
BPF_TABLE("array", u32, u64, answers, 1);

static __always_inline __u32 letter(__u32 name, __u32 at)
{
	return 'a' + (name >> 4 * at & 15);
}

/* Writes the next query; pages come back as the chain left them. */
static __always_inline struct flood *make_query(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	u32 zero = 0, name, sum;
	struct flood *f = floods.lookup(&zero);
	__be16 *words = data;

	if (!f || data + FRAME > end)
		return 0;
	__builtin_memcpy(data, f->frame, FRAME);
	f->next += f->stride;
	name = f->next & (f->names - 1);
	words[ID / 2] = f->next >> 8;
	words[LETTERS / 2] = letter(name, 0) | letter(name, 1) << 8;
	words[LETTERS / 2 + 1] = letter(name, 2) | letter(name, 3) << 8;
	sum = f->sum + words[ID / 2] + words[LETTERS / 2] + words[LETTERS / 2 + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	words[CHECKSUM / 2] = ~sum ?: 0xffff;
	return f;
}

/* Run with live frames: each goes out of the VM's interface. */
int flood(struct xdp_md *ctx)
{
	struct flood *f = make_query(ctx);

	return f ? bpf_redirect(f->ifindex, 0) : XDP_ABORTED;
}

/* What making them costs alone. */
int flood_alone(struct xdp_md *ctx)
{
	return make_query(ctx) ? XDP_DROP : XDP_ABORTED;
}

/* XDP of the VM's interface: counts answers with records. */
int answered(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	u32 zero = 0;
	u64 *count = answers.lookup(&zero);
	__be16 *words = data;

	if (count && data + ANCOUNT + 2 <= end && words[ANCOUNT / 2])
		*count += 1;
	return XDP_DROP;
}

/* tc ingress of the host's side: back unseen, which is what the devices cost. */
int bounce(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex, 0);
}
