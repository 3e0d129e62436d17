/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* As wrapper.c, for dns.c, which makes the frame longer: writes the whole query
 * anew with a name that varies, cuts the frame to its length, and tail-calls the
 * program. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>

#define FRAME 112
#define LETTERS 76 /* offset of four letters of the name */

struct plan {
	__u8 frame[FRAME];
	__u32 length;
	__u32 names; /* distinct ones, a power of two */
	__u32 next;
	__u32 stride; /* odd: visits the names in a scattered order */
};

BPF_TABLE("array", u32, struct plan, plans, 1);
BPF_TABLE("prog", u32, u32, measured, 1);

int wrap_dns(struct __sk_buff *skb)
{
	u32 zero = 0, name, i;
	struct plan *plan = plans.lookup(&zero);
	u8 letters[4];

	if (!plan)
		return 2;
	plan->next += plan->stride;
	name = plan->next & (plan->names - 1);
#pragma unroll
	for (i = 0; i < 4; i++)
		letters[i] = 'a' + (name >> 4 * i & 15);
	if (bpf_skb_change_tail(skb, plan->length, 0) ||
	    bpf_skb_store_bytes(skb, 0, plan->frame, FRAME, 0) ||
	    bpf_skb_store_bytes(skb, LETTERS, letters, sizeof(letters), 0))
		return 2;
	measured.call(skb, 0);
	return 2;
}
