/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counting. All counters are per CPU: no atomics. */
#ifndef FLYEBPF_COUNT_H
#define FLYEBPF_COUNT_H

#include "maps.h"
#include "reasons.h"

/* length: of the frame, in bytes */
inline void count_drop(__u32 reason, __u32 length)
{
	struct drop_stats *stats = map_lookup(drops, &reason);

	if (stats) {
		stats->packets++;
		stats->bytes += length;
	}
}

inline void count(__u32 what)
{
	__u64 *counter = map_lookup(counts, &what);

	if (counter)
		*counter += 1;
}

/* length: of the IP packet, in bytes */
inline void count_in(__u32 service, __u32 length, bool new_flow)
{
	struct service_stats *stats = map_lookup(service_stats, &service);

	if (stats) {
		stats->in_packets++;
		stats->in_bytes += length;
		stats->flows += new_flow;
	}
}

inline void count_out(__u32 service, __u32 length)
{
	struct service_stats *stats = map_lookup(service_stats, &service);

	if (stats) {
		stats->out_packets++;
		stats->out_bytes += length;
	}
}

#endif
