# SPDX-License-Identifier: Apache-2.0
"""Route configurations in parts, so that a new app changes a small one.

Envoy makes a route configuration anew whenever a virtual host in it changes: 20 to 40 µs
for each host that it has. So there are many, and a request's *scope*, a header that the
listener makes (``names.scope_format``), tells which one is asked: on an app's own address
that address, on shared ones the first letter of the host. A virtual host with a wildcard
is in the parts of all letters. A part may hold hosts of others than its scope's: which
virtual host serves a request is found as ever.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator

LETTERS = string.ascii_lowercase + string.digits + "-_"
"""With which a host can begin."""


def by_letter(of: str) -> bool:
    """Whether the host says which part is asked, and not the address. ``of``: one of
    ``names.ROUTES``."""
    return not of.startswith("own")


def parts(of: str, route: str, domains: Iterable[str]) -> set[str]:
    """The route configurations that a virtual host is in."""
    if not by_letter(of):
        return {f"{of}/{route}"}
    first = {domain[:1].lower() for domain in domains}
    return {f"{of}/{letter}" for letter in (LETTERS if "*" in first else sorted(first))}


def scopes(of: str, domains: Iterable[str]) -> set[str]:
    """Those of a virtual host on its app's own addresses, whose domains end with them."""
    if by_letter(of):
        return set()
    return {f"{of}/{domain.rpartition('/')[2]}" for domain in domains}


def fixed(of: str) -> Iterator[tuple[str, str]]:
    """Scopes that are always there, and their route configurations."""
    if by_letter(of):
        for letter in LETTERS:
            for spelt in {letter, letter.upper()}:
                yield f"{of}/{spelt}", f"{of}/{letter}"
