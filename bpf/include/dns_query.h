/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Queries that can be answered from `names`: one question for AAAA, perhaps with
 * an OPT record (RFC 6891) that has at most one option. What is not exactly that
 * is the server's to judge. Included by dns.c only.
 */
#ifndef FLYEBPF_DNS_QUERY_H
#define FLYEBPF_DNS_QUERY_H

#include <linux/if_ether.h>
#include <linux/udp.h>
#include "dns_name.h"
#include "ip6.h"

#define DNS_QR 0x8000
#define DNS_OPCODE 0x7800
#define DNS_AA 0x0400
#define DNS_RD 0x0100
#define DNS_RA 0x0080
#define DNS_CD 0x0010

#define QUESTION_BYTES 4 /* type and class, behind the name */
#define AAAA_IN bpf_htonl(0x001c0001)
#define DNS_AT (IP6_END + sizeof(struct udphdr))

struct dns_header {
	__be16 id;
	__be16 flags;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additional;
};

struct dns_query {
	__u32 end;  /* of the question in the message */
	__be16 id;
	__u16 answers;
	bool edns;
	bool dnssec; /* the DO bit, which answers repeat */
};

/* Root name, type and what the fields are for OPT (RFC 6891, 6.1.2). */
struct dns_opt {
	__u8 root;
	__u8 type[2];
	__u8 size[2];
	__u8 rcode;
	__u8 version;
	__u8 flags[2];
	__u8 length[2];
	__u8 option[2];
	__u8 option_length[2];
};
#define OPT_FIXED 11
#define OPTION_FIXED 4

/* The message, if the datagram has one of a length that can be: into the
 * scratch. Returns its bytes or 0. */
inline __u32 dns_load(struct __sk_buff *skb, const struct ip6 *ip,
		      struct dns_scratch *scratch)
{
	struct udphdr udp;
	__u64 size;

	if (bpf_skb_load_bytes(skb, IP6_END, &udp, sizeof(udp)))
		return 0;
	size = bpf_ntohs(udp.len);
	if (udp.len != ip->length || !udp.check || !udp.source ||
	    IP6_END + size > skb->len || skb->gso_size)
		return 0;
	size -= sizeof(udp);
	if (size < sizeof(struct dns_header) + 1 + QUESTION_BYTES)
		return 0;
	unfold(size);
	if (size > DNS_QUERY_MAX)
		return 0;
	if (bpf_skb_load_bytes(skb, DNS_AT, scratch->query, size))
		return 0;
	return size;
}

/* The OPT record, with which the message ends. */
inline bool dns_opt(const struct dns_scratch *scratch, __u32 size,
		    struct dns_query *query)
{
	const struct dns_opt *opt = (void *)scratch->query + (query->end & 0xff);
	__u32 length = opt->length[0] << 8 | opt->length[1];

	if (opt->root || opt->type[0] || opt->type[1] != 41 || opt->version ||
	    query->end + OPT_FIXED + length != size)
		return false;
	if (length && (length < OPTION_FIXED ||
		       (opt->option_length[0] << 8 | opt->option_length[1]) !=
			       (int)length - OPTION_FIXED))
		return false;
	query->edns = true;
	query->dnssec = opt->flags[0] & 0x80;
	return true;
}

/* Whether the message, of `size` bytes, is a query that can be answered here; its
 * name into the key. */
inline bool dns_parse(const struct dns_scratch *scratch, __u32 size,
		      struct dns_query *query, struct name_key *key)
{
	const struct dns_header *header = (const void *)scratch->query;
	__u32 length;

	if (header->flags & bpf_htons(DNS_QR | DNS_OPCODE) ||
	    header->questions != bpf_htons(1) || header->answers ||
	    header->authorities || header->additional & bpf_htons(0xfffe))
		return false;
	length = dns_name_length(scratch);
	if (length < 2 || length > DNS_NAME_MAX ||
	    *(__u32 *)(scratch->query + NAME_AT + length) != AAAA_IN)
		return false;
	query->id = header->id;
	query->end = NAME_AT + length + QUESTION_BYTES;
	if (header->additional ? !dns_opt(scratch, size, query) : size != query->end)
		return false;
	dns_name_hash(scratch, length, key);
	return true;
}

#endif
