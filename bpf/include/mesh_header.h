/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The IPv6 header (RFC 8200) that carries a packet to another host. */
#ifndef FLYEBPF_MESH_HEADER_H
#define FLYEBPF_MESH_HEADER_H

#include "sixpn.h"

#define MESH_HOP_LIMIT 64
#define NEXT_IPV4 4 /* next header: an IPv4 packet (RFC 2003) */
#define NEXT_IPV6 41 /* and an IPv6 packet (RFC 2473) */

struct mesh_header {
	__be32 version;	  /* 6, no class, no label */
	__be16 length;	  /* of what follows */
	__u8 next_header; /* NEXT_IPV4 or NEXT_IPV6 */
	__u8 hop_limit;
	struct addr src;
	struct addr dst;
};

/* next: what is carried, NEXT_*; length: of that, bytes (of a train, that of the
 * whole: who cuts it writes new ones). machine 0: `host` itself. port: internal,
 * network order. */
inline void mesh_header(struct mesh_header *header, const struct settings *s,
			__u8 next, __u32 length, __u32 host, __u32 machine,
			__be16 port)
{
	/* in mesh form, so what is called network is the host */
	struct sixpn src = { .network = s->host, .suffix = HOST_SUFFIX };
	struct sixpn dst = {
		.network = host,
		.machine = machine,
		.suffix = bpf_ntohs(port),
	};

	header->version = bpf_htonl(6U << 28);
	header->length = bpf_htons(length);
	header->next_header = next;
	header->hop_limit = MESH_HOP_LIMIT;
	sixpn_to(&header->src, &src);
	sixpn_to(&header->dst, &dst);
}

/* The longest TCP payload of an IPv4 packet without options that fits. */
inline __u32 mesh_mss(const struct settings *s)
{
	return s->mesh_mtu - sizeof(struct mesh_header) - 40;
}

/* And of an IPv6 packet without extension headers. */
inline __u32 mesh_mss6(const struct settings *s)
{
	return s->mesh_mtu - sizeof(struct mesh_header) - 60;
}

/* Whether a packet (one segment, if it is a train) fits when carried. */
inline bool mesh_fits(const struct settings *s, __u32 length)
{
	return length + sizeof(struct mesh_header) <= s->mesh_mtu;
}

#endif
