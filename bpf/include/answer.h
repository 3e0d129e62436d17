/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A machine's answer to a client, and the flow that it belongs to. */
#ifndef FLYEBPF_ANSWER_H
#define FLYEBPF_ANSWER_H

#include "reverse.h"

/* What a reply is sent as. ifindex: the client's side, as in struct flow; 0 if no
 * flow says it. */
struct answer {
	struct addr vip;
	__be16 port;
	__u32 service;
	__u32 ifindex;
	__u8 confirmed; /* FLOW_CONFIRMED if its flow is */
	__u8 kind;	/* what the packet is: REPLY_L4 and so on */
};

/* Mark the flow (as the client sees it) of a machine's answer, and take its
 * interface. False: there is none to this machine. any_way: see flow_any_way(). */
inline bool answer_touch(const struct settings *s, __u32 slot_index,
			 const struct tuple *tuple, __u8 state,
			 struct answer *answer, const bool any_way)
{
	__u64 hash = tuple_hash(tuple, s->seed);
	struct flow *flow = flow_look_up(s, tuple, hash, any_way);

	if (!flow || flow->slot != slot_index || !flow_slot(flow, hash))
		return false;
	answer->ifindex = flow->ifindex;
	answer->service = flow->service;
	answer->confirmed = flow->state & FLOW_CONFIRMED;
	if (state)
		flow_touch(flow, state);
	return true;
}

#endif
