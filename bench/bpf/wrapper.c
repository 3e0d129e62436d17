/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Runs before a measured program in every repeat of BPF_PROG_TEST_RUN, which
 * does not restore the packet: writes the first bytes of the frame anew, with
 * a client (or, of IPv6, a machine) that varies, and tail-calls the program.
 *
 * All measured programs, the floors too, pay for it alike; `nothing` is what
 * it costs alone. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>

#define TEMPLATE 64
#define SOURCE_IP 26 /* offset in the frame: IPv4 source */
#define SOURCE_PORT 34
#define MACHINE 48 /* the machine field of an IPv6 destination */

struct plan {
	__u8 template[TEMPLATE];
	__u32 clients; /* distinct clients, a power of two */
	__u32 next;
	__u32 stride; /* odd: visits the clients in a scattered order */
	__u32 machine; /* tc: of client 0, in a 6PN destination; 0: leave it */
};

BPF_TABLE("array", u32, struct plan, plans, 1);
BPF_TABLE("prog", u32, u32, measured, 1);

static __always_inline struct plan *step(__u32 *client)
{
	u32 zero = 0;
	struct plan *plan = plans.lookup(&zero);

	if (!plan)
		return 0;
	plan->next += plan->stride;
	*client = plan->next & (plan->clients - 1);
	return plan;
}

int wrap_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 client;
	struct plan *plan = step(&client);

	if (!plan || data + TEMPLATE > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, plan->template, TEMPLATE);
	*(__be32 *)(data + SOURCE_IP) = bpf_htonl(0xc0000200 + (client << 10));
	*(__be16 *)(data + SOURCE_PORT) = bpf_htons(1024 + (client & 0x3fff));
	measured.call(ctx, 0);
	return XDP_ABORTED;
}

int wrap_tc(struct __sk_buff *skb)
{
	__u32 client;
	struct plan *plan = step(&client);

	if (!plan)
		return 2;
	if (bpf_skb_store_bytes(skb, 0, plan->template, TEMPLATE, 0))
		return 2;
	if (plan->machine) {
		__be32 machine = bpf_htonl(plan->machine + client);

		if (bpf_skb_store_bytes(skb, MACHINE, &machine, sizeof(machine), 0))
			return 2;
	}
	measured.call(skb, 0);
	return 2;
}
