/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How many ICMP errors may be sent: a flood is not to be answered by another. */
#ifndef FLYEBPF_ICMP_LIMIT_H
#define FLYEBPF_ICMP_LIMIT_H

#include "count.h"

#define ICMP_PER_PERIOD 64 /* errors for each CPU in 16 jiffies: 1000/s at 250 Hz */

/* Whether one more error may be sent (RFC 4443, 2.4 (f)); counts it if not. */
inline bool icmp_may_send(void)
{
	__u32 zero = 0, now = bpf_jiffies64() >> 4;
	struct icmp_limit *limit = map_lookup(icmp_limit, &zero);

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
