/* SPDX-License-Identifier: Apache-2.0 */
/* getaddrinfo NAME: its addresses, by the resolver of the C library that it is
 * linked to. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_family = AF_INET6, .ai_socktype = SOCK_STREAM };
	char text[INET6_ADDRSTRLEN];
	struct addrinfo *found, *at;
	int error = argc == 2 ? getaddrinfo(argv[1], "80", &hints, &found) : EAI_NONAME;

	if (error) {
		fprintf(stderr, "%s\n", gai_strerror(error));
		return 1;
	}
	for (at = found; at; at = at->ai_next) {
		struct sockaddr_in6 *to = (void *)at->ai_addr;

		puts(inet_ntop(AF_INET6, &to->sin6_addr, text, sizeof(text)));
	}
	freeaddrinfo(found);
	return 0;
}
