/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How many ICMP errors may be sent: a flood is not to be answered by another.
 * Clients of the edge share a limit, each VM has its own: what one of them does
 * must not keep others from learning what fits. */
#ifndef FLYEBPF_ICMP_LIMIT_H
#define FLYEBPF_ICMP_LIMIT_H

#include "count.h"

#define ICMP_PER_PERIOD 64 /* errors for each CPU in 16 jiffies: 1000/s at 250 Hz */

#define ICMP_OF_EDGE 0
#define ICMP_OF_VM(slot_index) ((slot_index) + 1)

/* Whether one more error may be sent (RFC 4443, 2.4 (f)); counts it if not. to:
 * one of the above. */
inline bool icmp_may_send(__u32 to)
{
	__u32 now = bpf_jiffies64() >> 4;
	struct icmp_limit *limit = map_lookup(icmp_limit, &to);

	if (!limit)
		return false;
	if (limit->seen != now) {
		limit->seen = now;
		limit->left = ICMP_PER_PERIOD;
	}
	if (!limit->left) {
		count(COUNT_ICMP_LIMITED);
		return false;
	}
	limit->left--;
	return true;
}

#endif
