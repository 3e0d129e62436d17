# SPDX-License-Identifier: Apache-2.0
"""Names and numbers that come from outside: one validator a kind.

Each takes what a user wrote, returns its canonical form and raises
:class:`InvalidError` that quotes the value and says what is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from itertools import islice

from flyebpf.errors import InvalidError

DEFAULT_NETWORK = "default"
DEFAULT_GROUP = "app"

_ORG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NETWORK = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_APP = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*")
_REGION = re.compile(r"[a-z][a-z0-9]+")
_GROUP = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
_MACHINE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_MACHINE_ID = re.compile(r"[0-9a-f]{14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_RESERVED_REGIONS = frozenset(
    # Words that internal DNS and fly-replay use in the place of a region.
    ("all", "any", "global", "regions", "vms", "apac", "eu", "na", "sa", "us")
)
_METADATA_VALUE_MAX = 1024
_METADATA_KEYS_MAX = 64
_INTERFACE_MAX = 15  # IFNAMSIZ of linux/if.h, less the final zero
_CANDIDATES_MAX = 5000


def _matched(what: str, value: object, pattern: re.Pattern[str], longest: int, rule: str) -> str:
    if isinstance(value, str) and len(value) <= longest and pattern.fullmatch(value):
        return value
    raise InvalidError(f"{what} {quoted(value)} is not valid", f"use {rule}")


def quoted(value: object) -> str:
    """A value for a message, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer too long for decimal, say
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def org_name(value: str) -> str:
    """An organization: lower-case letters, digits, single dashes; at most 63."""
    rule = "lower-case letters, digits and single dashes, first a letter, at most 63 characters"
    return _matched("organization name", value, _ORG, 63, rule)


def network_name(value: str) -> str:
    """A network (contract, section 7): letters, digits, dashes, first a letter."""
    rule = "letters, digits and dashes, first a letter, at most 63 characters"
    return _matched("network name", value, _NETWORK, 63, rule)


def app_name(value: str) -> str:
    """An app; its name is a label of the DNS names of the app."""
    rule = "lower-case letters, digits and inner dashes, at most 63 characters"
    return _matched("app name", value, _APP, 63, rule)


def region(value: str) -> str:
    """A region's code, such as ``ams``."""
    rule = "a code of 2 to 16 lower-case letters and digits, such as ams"
    name = _matched("region", value, _REGION, 16, rule)
    if name in _RESERVED_REGIONS:
        raise InvalidError(
            f"region {name!r} is a reserved word", "choose another code: DNS and fly-replay use it"
        )
    return name


def host_name(value: str) -> str:
    """A host's name in the cluster."""
    rule = "letters, digits, dots, dashes and underscores, at most 63 characters"
    return _matched("host name", value, _MACHINE_NAME, 63, rule)


def peer_name(value: str) -> str:
    """A user's WireGuard peer; its name is a label of its DNS name."""
    rule = "lower-case letters, digits and inner dashes, at most 63 characters"
    return _matched("WireGuard peer name", value, _APP, 63, rule)


def group_name(value: str) -> str:
    """A process group."""
    rule = "letters, digits, underscores and inner dashes, at most 63 characters"
    return _matched("process group", value, _GROUP, 63, rule)


def machine_name(value: str) -> str:
    """A machine's display name; may be empty."""
    if value == "":
        return value
    rule = "letters, digits, dots, dashes and underscores, at most 63 characters"
    return _matched("machine name", value, _MACHINE_NAME, 63, rule)


def check_name(value: str) -> str:
    """A named health check."""
    rule = "letters, digits, dots, dashes and underscores, at most 63 characters"
    return _matched("check name", value, _MACHINE_NAME, 63, rule)


def machine_id(value: str) -> str:
    """14 lower-case hex digits."""
    rule = "14 lower-case hex digits, as `flyebpf machines list` shows them"
    return _matched("machine id", value, _MACHINE_ID, 14, rule)


def mac_address(value: str) -> str:
    """A unicast MAC address, in lower case with colons."""
    text = value.lower().replace("-", ":") if isinstance(value, str) else value
    mac = _matched("MAC address", text, _MAC, 17, "six hex bytes, such as 02:00:00:12:34:56")
    if int(mac[:2], 16) & 1:
        raise InvalidError(
            f"MAC address {mac} is a multicast address",
            "use the address of the VM's interface, whose first byte is even",
        )
    if mac == "00:00:00:00:00:00":
        raise InvalidError("MAC address is all zero", "use the address of the VM's interface")
    return mac


def interface_name(value: str) -> str:
    """A network interface's name as the kernel allows it (1 to 15 bytes)."""
    valid = (
        isinstance(value, str)
        and value not in ("", ".", "..")
        and value.isascii()
        and len(value) <= _INTERFACE_MAX
        and not re.search(r"[\s/:]", value)
        and not _CONTROL.search(value)
    )
    if not valid:
        raise InvalidError(
            f"interface name {quoted(value)} is not valid",
            f"use 1 to {_INTERFACE_MAX} ASCII characters without spaces, slashes and colons",
        )
    return value


def metadata_key(value: str) -> str:
    """A key of a machine's metadata."""
    rule = "letters, digits, underscores, inner dots and dashes, at most 63 characters"
    return _matched("metadata key", value, _METADATA_KEY, 63, rule)


def metadata_value(value: str) -> str:
    """A value of a machine's metadata: any text of one line, at most 1024 characters."""
    if not isinstance(value, str) or len(value) > _METADATA_VALUE_MAX or _CONTROL.search(value):
        raise InvalidError(
            f"metadata value {quoted(value)} is not valid",
            f"use one line of at most {_METADATA_VALUE_MAX} characters",
        )
    return value


def metadata(values: Mapping[str, str]) -> dict[str, str]:
    """A machine's whole metadata: at most 64 keys."""
    if len(values) > _METADATA_KEYS_MAX:
        raise InvalidError(
            f"{len(values)} metadata keys are too many", f"use at most {_METADATA_KEYS_MAX}"
        )
    return {metadata_key(key): metadata_value(value) for key, value in values.items()}


def ip_address(value: str) -> str:
    """An IPv4 or IPv6 address, in its canonical form."""
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise InvalidError(
            f"{quoted(value)} is not an IP address", "write it such as 203.0.113.7 or 2001:db8::7"
        ) from None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """``did you mean "x"?`` for the candidate closest to ``word``, or ``""``."""
    import difflib  # noqa: PLC0415 - only errors need it

    near = (c for c in candidates if abs(len(c) - len(word)) <= max(2, len(word) // 2))
    folded = {c.lower(): c for c in islice(near, _CANDIDATES_MAX)}
    found = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f'did you mean "{folded[found[0]]}"?' if found else ""
