/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses as the maps hold them, and the prefixes of the settings. */
#ifndef FLYEBPF_ADDR_H
#define FLYEBPF_ADDR_H

#include "maps.h"

/* ::ffff:a.b.c.d (RFC 4291, 2.5.5.2) */
inline void addr_from_ipv4(struct addr *addr, __be32 ip)
{
	addr->quad[0] = 0;
	addr->word[2] = bpf_htonl(0xffff);
	addr->word[3] = ip;
}

inline bool addr_is_ipv4(const struct addr *a)
{
	return !a->quad[0] && a->word[2] == bpf_htonl(0xffff);
}

inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->quad[1] == b->quad[1] && a->quad[0] == b->quad[0];
}

inline bool in_private(const struct settings *s, __u32 ip)
{
	return (ip & s->private_mask) == s->private_prefix;
}

inline bool in_alias(const struct settings *s, __u32 ip)
{
	return (ip & s->private_mask) == s->alias_prefix;
}

/* A VM's private address as another VM sees it behind a VIP. The bits below
 * the prefix stay, so it needs no state and is undone by from_alias. */
inline __be32 to_alias(const struct settings *s, __be32 ip)
{
	return bpf_htonl((bpf_ntohl(ip) & ~s->private_mask) | s->alias_prefix);
}

inline __be32 from_alias(const struct settings *s, __be32 ip)
{
	return bpf_htonl((bpf_ntohl(ip) & ~s->private_mask) | s->private_prefix);
}

#define NOT_IN_POOLS 0xffffffff

/* The index of an address in `vips`, or NOT_IN_POOLS. ip in host order. */
inline __u32 pool_index(const struct settings *s, __u32 ip)
{
	__u32 i;

	for (i = 0; i < MAX_POOLS; i++) {
		if (i >= s->pool_count)
			break;
		if ((ip & s->pool[i].mask) == s->pool[i].prefix)
			return s->pool[i].vip_base + (ip & ~s->pool[i].mask);
	}
	return NOT_IN_POOLS;
}

/* In a pool, but none of the addresses that can be given out. */
#define POOL_REST 0xfffffffe

/* The same of an IPv6 address; it may be POOL_REST, which is in no map. */
inline __u32 pool6_index(const struct settings *s, const struct addr *a)
{
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_POOLS6; i++) {
		const struct pool6 *p = &s->pool6[i];
		__u32 offset;

		if (i >= s->pool6_count)
			break;
		if ((a->quad[0] & p->mask.quad[0]) != p->prefix.quad[0] ||
		    (a->quad[1] & p->mask.quad[1]) != p->prefix.quad[1])
			continue;
		offset = bpf_ntohl(a->word[3] & ~p->mask.word[3]);
		if (a->quad[0] & ~p->mask.quad[0] ||
		    a->word[2] & ~p->mask.word[2] || offset >= p->size)
			return POOL_REST;
		return p->vip_base + offset;
	}
	return NOT_IN_POOLS;
}

/* Whether an index of `vips` is in a pool whose TCP is the proxy's. */
inline bool pool_is_shared(const struct settings *s, __u32 vip_index)
{
	__u32 i;

	for (i = 0; i < MAX_POOLS; i++) {
		if (i >= s->pool_count)
			break;
		/* one that stands for no pool has a prefix beyond its mask */
		if (!(s->pool[i].prefix & ~s->pool[i].mask) &&
		    vip_index - s->pool[i].vip_base <= ~s->pool[i].mask)
			return s->pool[i].flags & POOL_SHARED;
	}
	return false;
}

inline bool is_uplink(const struct settings *s, __u32 ifindex)
{
	__u32 i;

	for (i = 0; i < MAX_UPLINKS; i++) {
		if (i >= s->uplink_count)
			break;
		if (s->uplink[i] == ifindex)
			return true;
	}
	return false;
}

/* A source that no client can have: this network, loopback, multicast,
 * reserved, or an address of our own. ip in host order. */
inline bool bad_source(const struct settings *s, __u32 ip)
{
	return ip >> 24 == 0 || ip >> 24 == 127 || ip >= 0xe0000000 ||
	       in_private(s, ip) || in_alias(s, ip) ||
	       pool_index(s, ip) != NOT_IN_POOLS;
}

/* The same of IPv6: ::/32, where all kinds of IPv4 addresses, loopback and :: are,
 * link-local, multicast, of private networks, or an address of our own. */
inline bool bad_source6(const struct settings *s, const struct addr *a)
{
	const __u32 first = bpf_ntohl(a->word[0]);

	return !first || first >> 22 == 0xfe800000 >> 22 || first >> 24 == 0xff ||
	       first >> 16 == 0xfdaa || pool6_index(s, a) != NOT_IN_POOLS;
}

#endif
