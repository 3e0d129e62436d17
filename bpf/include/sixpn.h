/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses of the private networks, in the form that machines see
 *
 *	fdaa : network (32 bits) : host (32) : machine (32) : 16 bits of its own
 *
 * and in the form in which hosts send them to each other, where network and
 * host have changed places: one /48 for each host then tells who may send what
 * and where it goes. Network numbers have the top bit clear, host numbers have
 * it set, so the two forms cannot be confused. Swapping the fields in an address
 * swaps whole 16-bit words: no Internet checksum changes (RFC 1071).
 *
 * What an edge sends to a machine on another host is carried in IPv6 (next
 * header 4 or 41) from  fdaa:<edge>:0:0::1  to  fdaa:<host>:0:<machine>:<port>,
 * in mesh form with network 0; the port is the machine's, 0 where there is none
 * (later fragments, ICMP). Machine 0 means the host itself: a reply that goes
 * back to the client through the edge.
 */
#ifndef FLYEBPF_SIXPN_H
#define FLYEBPF_SIXPN_H

#include "addr.h"

#define SIXPN_PREFIX 0xfdaa
#define HOST_BIT 0x80000000U
#define PEER_MACHINE 10	 /* machine field of users' WireGuard peers */
#define SIXPN_SUFFIX 2	 /* the address that a machine uses of its own 2^16 */
#define HOST_SUFFIX 1	 /* and a host, with machine 0 */
#define FLYCAST_HOST 1	 /* host field of Flycast addresses */
#define NAMESERVER_SUFFIX 3 /* fdaa::3, all else 0 */
#define DNS_PORT 53

/* The fields, host order. In mesh form `network` and `host` are each other's. */
struct sixpn {
	__u32 network;
	__u32 host;
	__u32 machine;
	__u16 suffix;
};

inline bool in_sixpn(const struct addr *a)
{
	return bpf_ntohl(a->word[0]) >> 16 == SIXPN_PREFIX;
}

/* Words of 16 bits, network order: fdaa nnnn nnnn hhhh hhhh mmmm mmmm ssss. */
inline struct sixpn sixpn_of(const struct addr *a)
{
	const __u32 w0 = bpf_ntohl(a->word[0]), w1 = bpf_ntohl(a->word[1]);
	const __u32 w2 = bpf_ntohl(a->word[2]), w3 = bpf_ntohl(a->word[3]);
	struct sixpn fields = {
		.network = w0 << 16 | w1 >> 16,
		.host = w1 << 16 | w2 >> 16,
		.machine = w2 << 16 | w3 >> 16,
		.suffix = w3 & 0xffff,
	};

	return fields;
}

inline void sixpn_to(struct addr *a, const struct sixpn *fields)
{
	a->word[0] = bpf_htonl(SIXPN_PREFIX << 16 | fields->network >> 16);
	a->word[1] = bpf_htonl(fields->network << 16 | fields->host >> 16);
	a->word[2] = bpf_htonl(fields->host << 16 | fields->machine >> 16);
	a->word[3] = bpf_htonl(fields->machine << 16 | fields->suffix);
}

/* Between the two forms, either way. */
inline void sixpn_swap(struct addr *a)
{
	const __u32 w0 = bpf_ntohl(a->word[0]), w1 = bpf_ntohl(a->word[1]);
	const __u32 w2 = bpf_ntohl(a->word[2]);

	a->word[0] = bpf_htonl((w0 & 0xffff0000) | (w1 & 0xffff));
	a->word[1] = bpf_htonl((w2 & 0xffff0000) | (w0 & 0xffff));
	a->word[2] = bpf_htonl((w1 & 0xffff0000) | (w2 & 0xffff));
}

/* Whether it is in the /112 of the machine of a slot. */
inline bool sixpn_is_of(const struct addr *a, const struct slot *slot)
{
	return slot->network &&
	       a->word[0] == bpf_htonl(SIXPN_PREFIX << 16 | slot->network >> 16) &&
	       a->word[1] == bpf_htonl(slot->network << 16 | slot->host >> 16) &&
	       a->word[2] == bpf_htonl(slot->host << 16 | slot->machine >> 16) &&
	       bpf_ntohl(a->word[3]) >> 16 == (slot->machine & 0xffff);
}

/* Where a machine of this host, in a network, gets what clients send to an IPv6
 * service of its app. */
inline void machine6_addr(struct addr *a, const struct slot *slot)
{
	const struct sixpn fields = {
		.network = slot->network,
		.host = slot->host,
		.machine = slot->machine,
		.suffix = SIXPN_SUFFIX,
	};

	sixpn_to(a, &fields);
}

inline bool is_host_number(__u32 number)
{
	return number & HOST_BIT;
}

inline struct host *get_host(__u32 number)
{
	return map_lookup(hosts, &number);
}

/* fdaa::3, or with a network's number fdaa:<network>::3. */
inline bool is_nameserver(const struct sixpn *a, __u32 network)
{
	return a->network == network && !a->host && !a->machine &&
	       a->suffix == NAMESERVER_SUFFIX;
}

/* The slot of a machine of this host, or 0. */
inline __u32 *sixpn_slot(__u32 network, __u32 machine)
{
	struct sixpn_key key = { .network = network, .machine = machine };

	return map_lookup(sixpn, &key);
}

#endif
