/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the programs know of the proxies, which speak to machines as processes of
 * their hosts, in plain IPv4: from an address of their host's to TCP ports that
 * they may open connections to. */
#ifndef FLYEBPF_PROXY_H
#define FLYEBPF_PROXY_H

#include "addr.h"

/* skb->mark of what the programs have found to be to or from a proxy: the second
 * fence (nftables) lets that alone pass. flyebpf/drivers/nft.py has it too. */
#define PROXY_MARK 0xf1eb0001

/* Whether it is what machines see as the proxy of a host, this or another one. */
inline bool is_proxy(__be32 address)
{
	return map_lookup(proxies, &address);
}

/* Whether proxies may open connections to a port of the machine. */
inline bool is_proxy_port(__u32 slot, __be16 port)
{
	struct proxy_port_key key = { .slot = slot, .port = port };

	return map_lookup(proxy_ports, &key);
}

#endif
