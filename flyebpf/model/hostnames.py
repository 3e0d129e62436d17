# SPDX-License-Identifier: Apache-2.0
"""Host names by which clients ask for an app: the HTTP host, the TLS server name."""

from __future__ import annotations

import re
from ipaddress import ip_address

from flyebpf.errors import InvalidError
from flyebpf.model.names import quoted

LONGEST = 253  # characters of a name in text (RFC 1035, section 2.3.4)
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})+")


def hostname(value: str) -> str:
    """A DNS name of two labels or more, in lower case; its first may be ``*``.

    A dot at its end is taken off. Raises InvalidError.
    """
    text = value.lower().removesuffix(".") if isinstance(value, str) else ""
    if isinstance(value, str) and not value.isascii():
        raise InvalidError(
            f"host name {quoted(value)} is not in ASCII",
            f"write it in the form of DNS, {_punycode(text)}",
        )
    if _is_address(text):
        raise InvalidError(
            f"{quoted(value)} is an address: clients name no address when they ask for a "
            "certificate",
            "use a host name that leads to it",
        )
    if len(text) > LONGEST or not _NAME.fullmatch(text):
        raise InvalidError(
            f"host name {quoted(value)} is not valid",
            "use a full DNS name such as www.example.com, or *.example.com",
        )
    return text


def default_hostname(app: str, domain: str) -> str:
    """The name that every app has under the operator's domain."""
    return f"{app}.{domain}"


def _punycode(text: str) -> str:
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        return "xn--…"


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
