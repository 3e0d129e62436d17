/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How edge_xdp hands edge_tc a packet for an interface that takes no XDP
 * redirect, or for another host: in the metadata before the packet, which no
 * sender can write. */
#ifndef FLYEBPF_VIA_TC_H
#define FLYEBPF_VIA_TC_H

#define VIA_TC_MAGIC 0x666c7965

struct via_tc {
	__u32 magic;
	__u32 to; /* ifindex, or a host's number (top bit set) */
};

#endif
