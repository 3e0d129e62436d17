/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* tc ingress of the mesh's devices, after mesh_tc: IPv6 packets of clients, and
 * answers to them, that other hosts send carried in IPv6. A program of its own,
 * because the stack of one does not hold both families'.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include "mesh6.h"

int mesh6_tc(struct __sk_buff *skb)
{
	struct mesh m = { .skb = skb };
	struct sixpn src, dst;
	__u32 reason;

	m.settings = get_settings();
	if (!m.settings || !m.settings->host) /* not written yet */
		return mesh_drop(&m, DROP_MESH_NOT_HERE);
	if (m.settings->mesh_flags & MESH_ETHERNET)
		m.l3 = sizeof(struct ethhdr);
	if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, m.l3, &m.outer, sizeof(m.outer)) ||
	    m.outer.next_header != NEXT_IPV6 || !in_sixpn(&m.outer.src))
		return TC_ACT_UNSPEC; /* mesh_tc has let it pass */
	/* mesh_tc has seen to this; nothing may depend on a filter's order */
	reason = mesh_outer(&m, &src, &dst);
	if (!reason && dst.host)
		reason = DROP_MESH_FORM;
	if (!reason && !mesh_is_of_host(&src))
		reason = DROP_MESH_SOURCE;
	if (reason)
		return mesh_drop(&m, reason);
	m.port = bpf_htons(dst.suffix);
	return mesh6(&m, dst.machine);
}
