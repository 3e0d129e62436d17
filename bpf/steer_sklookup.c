/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* sk_lookup of the host's network namespace: TCP connections to addresses of apps
 * go to the proxy's listening sockets, whatever their address and port.
 *
 * Addresses of the pools are local to the host. What is bound to nobody there is
 * refused: the host's own services listen on all local addresses, and must not be
 * found at an app's. While the proxy is away for a moment its clients get sockets of
 * the daemon's that drop every packet, so they try again after a second, and are
 * refused when there is no daemon to bring the proxy back. Runs for what opens a
 * connection; established ones have been found before.
 */
#define BPF_LICENSE Dual BSD/GPL

#include <linux/types.h>
#include <linux/in.h>
#include "count.h"

#define AF_INET 2
#define AF_INET6 10

/* bcc 0.26 does not know these as helpers of programs of this type. */
static long (*sk_assign)(struct bpf_sk_lookup *ctx, struct bpf_sock *sk,
			 __u64 flags) = (void *)BPF_FUNC_sk_assign;
static long (*sk_release)(struct bpf_sock *sk) = (void *)BPF_FUNC_sk_release;

inline int refuse(__u32 why)
{
	count(why);
	return SK_DROP;
}

inline bool bind_key_of(const struct bpf_sk_lookup *ctx, struct bind_key *key)
{
	__be32 ip4;

	key->prefixlen = 144;
	key->port = bpf_htons((__u16)ctx->local_port);
	if (ctx->family == AF_INET) {
		ip4 = ctx->local_ip4;
		unfold(ip4); /* else both families' loads become one, which the
			      * verifier does not let pass */
		key->addr[2] = bpf_htonl(0xffff);
		key->addr[3] = ip4;
	} else if (ctx->family == AF_INET6) {
		key->addr[0] = ctx->local_ip6[0];
		key->addr[1] = ctx->local_ip6[1];
		key->addr[2] = ctx->local_ip6[2];
		key->addr[3] = ctx->local_ip6[3];
	} else {
		return false;
	}
	return true;
}

/* The listening sockets have ports too, on all of the host's addresses: nobody is
 * to find them there. */
inline int host_own(const struct bpf_sk_lookup *ctx)
{
	__u32 port = ctx->local_port;

	return map_lookup(proxy_own, &port) && ctx->protocol == IPPROTO_TCP ?
		       refuse(COUNT_PROXY_REFUSED) :
		       SK_PASS;
}

/* What is bound there: a listener or BIND_NOBODY; 0 where it is none of ours. */
inline __u32 *bind_find(struct bind_key *key)
{
	__u32 *bound = map_lookup(binds, key);

	if (!bound || *bound != BIND_SHARED)
		return bound;
	key->addr[0] = 0;
	key->addr[1] = 0;
	key->addr[2] = 0;
	key->addr[3] = 0;
	return map_lookup(binds, key);
}

int steer_sklookup(struct bpf_sk_lookup *ctx)
{
	struct bind_key key = {};
	struct bpf_sock *socket;
	__u32 *bound, index, family, what = COUNT_PROXY_STEERED;
	long failed;

	if (!bind_key_of(ctx, &key))
		return SK_PASS;
	bound = bind_find(&key);
	if (!bound)
		return host_own(ctx);
	if (*bound >= PROXY_LISTENERS || ctx->protocol != IPPROTO_TCP)
		return refuse(COUNT_PROXY_REFUSED);
	family = ctx->family == AF_INET6;
	index = 2 * *bound + family;
	socket = map_lookup(proxy_sockets, &index);
	if (!socket) {
		what = COUNT_PROXY_AWAY;
		index = 2 * PROXY_WAITING + family;
		socket = map_lookup(proxy_sockets, &index);
	}
	if (!socket)
		return refuse(COUNT_PROXY_AWAY);
	failed = sk_assign(ctx, socket, 0);
	sk_release(socket);
	if (failed)
		return refuse(COUNT_PROXY_AWAY);
	count(what);
	return SK_PASS;
}
