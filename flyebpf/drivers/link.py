# SPDX-License-Identifier: Apache-2.0
"""What drivers need to know of a network interface, whoever looks it up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """An interface that exists now. ``mac``: its own, 6 bytes (zeros when it
    has none). ``redirect``: it takes packets that XDP redirects to it."""

    ifindex: int
    mac: bytes
    redirect: bool


LinkOf = Callable[[str], Link | None]
"""The interface of that name, or None."""
