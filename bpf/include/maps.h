/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Access to the pinned maps. The loader creates or opens them (their types and
 * sizes are in flyebpf/bpf/maps.py) and passes each one's descriptor as
 * FD_<name>, because bcc rewrites table.lookup() in the main file only.
 */
#ifndef FLYEBPF_MAPS_H
#define FLYEBPF_MAPS_H

#include "layout.h"

#define MAP(name) bpf_pseudo_fd(1, FD_##name)
#define map_lookup(name, key) bpf_map_lookup_elem_(MAP(name), (void *)(key))
#define map_update(name, key, value) \
	bpf_map_update_elem_(MAP(name), (void *)(key), (void *)(value), BPF_ANY)

#define inline static __always_inline

/* Between two comparisons of a value: the compiler would make one of them by
 * subtraction, and Linux 6.1 does not learn a bound from that. */
#define unfold(value) asm volatile("" : "+r"(value))

inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return map_lookup(settings, &zero);
}

inline struct slot *get_slot(__u32 index)
{
	return map_lookup(slots, &index);
}

/* The slot behind a VM's interface, or 0. */
inline __u32 *vm_slot_of(const struct settings *s, __u32 ifindex)
{
	__u32 index = ifindex & (s->vm_buckets - 1), i;
	struct vm_slot_bucket *bucket = map_lookup(vm_slots, &index);

	if (!bucket || !ifindex)
		return 0;
	for (i = 0; i < VM_SLOT_WAYS; i++)
		if (bucket->way[i].ifindex == ifindex)
			return &bucket->way[i].slot;
	return 0;
}

#endif
