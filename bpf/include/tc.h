/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What all tc programs share: verdicts, redirection by neighbour. */
#ifndef FLYEBPF_TC_H
#define FLYEBPF_TC_H

#include "count.h"

#define TC_ACT_UNSPEC (-1) /* filters after this one go on */
#define TC_ACT_OK 0
#define TC_ACT_SHOT 2

#define AF_INET 2
#define AF_INET6 10
#define EINVAL 22

/* bcc 0.26 declares bpf_redirect_neigh without its parameter plen. */
static long (*redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *params,
			      int plen, __u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;

/* skb->cb: what a program says to the next one at the same hook. */
#define CB_PARTIAL 0 /* 1: the packet's checksum is still to be filled in */

inline int tc_drop(const struct __sk_buff *skb, __u32 reason)
{
	count_drop(reason, skb->len);
	return TC_ACT_SHOT;
}

#endif
