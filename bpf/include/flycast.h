/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Flycast: a private address of an app, served by the proxy of the caller's own host,
 * which the host port leads to. */
#ifndef FLYEBPF_FLYCAST_H
#define FLYEBPF_FLYCAST_H

#include "ip6.h"
#include "proxy.h"
#include "sixpn.h"

/* Whether a packet may go between a machine of this network and a Flycast address:
 * TCP for the proxy, pings and errors for the host's stack. */
inline bool is_flycast(const struct sixpn *a, __u32 network, __u8 protocol)
{
	return a->host == FLYCAST_HOST && a->network == network && network &&
	       (protocol == IPPROTO_TCP || protocol == NEXT_ICMP6);
}

#endif
