/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How often senders are told that a packet was too big: an answer costs more
 * than a drop, and whoever floods is not to be given one for each packet
 * (RFC 4443, 2.4 f). */
#ifndef FLYEBPF_ICMP_LIMIT_H
#define FLYEBPF_ICMP_LIMIT_H

#include "flows.h"

#define ICMP_BURST 16 /* for each CPU, in 16 jiffies: 250 a second at HZ 250 */

/* Whether an error may be sent now; counts it if not. */
inline bool icmp_allowed(void)
{
	__u32 zero = 0, now = clock_seen();
	struct icmp_limit *limit = map_lookup(icmp_limit, &zero);

	if (!limit)
		return false;
	if (limit->seen != now) {
		limit->seen = now;
		limit->left = ICMP_BURST;
	}
	if (!limit->left) {
		count(COUNT_ICMP_LIMITED);
		return false;
	}
	limit->left--;
	return true;
}

#endif
