/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What both sides learn of an IPv4 packet, and the rules it has to obey.
 * Header contents are in network order, lengths and offsets in host order.
 */
#ifndef FLYEBPF_PACKET_H
#define FLYEBPF_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "steer.h"

/* linux/icmp.h drags in the libc's socket headers; this is RFC 792. */
struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4 /* code of ICMP_DEST_UNREACH */
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

#define TH_FIN 1
#define TH_SYN 2
#define TH_RST 4
#define TH_ACK 16

struct ports {
	__be16 source;
	__be16 dest;
};

inline bool is_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(IP_MF | IP_OFFSET);
}

inline bool is_later_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(IP_OFFSET);
}

/* UDP services listen on fly-global-services, TCP ones on the private address,
 * and that is where each answers from. */
inline __be32 machine_addr(const struct slot *slot, __u8 proto)
{
	return proto == IPPROTO_UDP ? slot->services_ip : slot->private_ip;
}

/* The flags byte of a TCP header: at offset 13 (RFC 9293, 3.1). */
inline __u8 tcp_flags(const struct tcphdr *tcp)
{
	return ((const __u8 *)tcp)[13];
}

/* room: bytes of L4 header and payload that the packet really has. Returns a
 * drop reason or 0. */
inline __u32 tcp_check(const struct tcphdr *tcp, __u32 room)
{
	__u8 flags = tcp_flags(tcp);

	if (!tcp->source || !tcp->dest || tcp->doff < 5 || tcp->doff * 4U > room)
		return DROP_BAD_L4_HEADER;
	if (flags & TH_SYN && flags & (TH_FIN | TH_RST))
		return DROP_BAD_L4_HEADER;
	return DROP_NONE;
}

inline __u32 udp_check(const struct udphdr *udp, __u32 room, bool fragment)
{
	__u32 length = bpf_ntohs(udp->len);

	if (!udp->source || !udp->dest || length < sizeof(*udp))
		return DROP_BAD_L4_HEADER;
	if (length > room && !fragment)
		return DROP_BAD_L4_HEADER;
	return DROP_NONE;
}

inline __u32 tcp_how(__u8 flags)
{
	__u32 how = 0;

	if ((flags & (TH_SYN | TH_ACK)) == TH_SYN)
		how |= STEER_NEW;
	if (flags & (TH_FIN | TH_RST))
		how |= STEER_CLOSING;
	return how;
}

/* ICMP errors that quote the packet they are about (RFC 792): destination
 * unreachable, time exceeded, parameter problem. Source quench and redirect
 * are obsolete or dangerous. */
inline bool icmp_is_error(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB;
}

#endif
