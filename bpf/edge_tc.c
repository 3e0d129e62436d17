/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of the uplinks: delivers what edge_xdp rewrote for a machine
 * whose interface takes no XDP redirect, and sends what it encapsulated to the
 * machine's host. Everything else goes on. */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "mesh_send.h"
#include "via_tc.h"

#define TC_ACT_UNSPEC (-1)

int edge_tc(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct via_tc *via = (void *)(long)skb->data_meta;
	struct settings *s;
	__u32 to;

	if ((void *)(via + 1) > data || via->magic != VIA_TC_MAGIC)
		return TC_ACT_UNSPEC;
	to = via->to;
	if (!is_host_number(to))
		return bpf_redirect(to, 0);
	s = get_settings();
	return s ? mesh_send(skb, s, to) : tc_drop(skb, DROP_NO_HOST);
}
