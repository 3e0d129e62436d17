# SPDX-License-Identifier: Apache-2.0
"""The names that can be answered without this process: which they are, and with
what. Those that depend on where the asker is are not among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flyebpf.dns.view import View
from flyebpf.dns.wire import LABEL_MAX, NAME_MAX, name_of

Listed = tuple[bytes, Sequence[bytes]]
"""A name in wire form and lower case, and addresses of 16 bytes, none or more."""


def app_names(view: View, number: int, app: str) -> Iterator[Listed]:
    """The AAAA names of an app of the network of a number; none if it is not
    there. What ``zone.answer`` answers to them is the same."""
    if not view.app_in(number, app):
        return
    table = view.table(app)
    own = name_of(f"{app}.internal")
    yield own, table.usable
    yield b"\6global" + own, table.usable
    yield from _below(own, table.by_region)
    yield from _below(b"\2vm" + own, table.by_id)
    yield from _below(b"\7process" + own, table.by_group)
    pairs = {pair: found for pair, found in table.by_metadata.items() if found}
    yield from _below(b"\2kv\x09_metadata" + own, pairs)


def network_names(view: View, number: int) -> Iterator[Listed]:
    """Those of a network itself: its peers' and its Flycast addresses'."""
    for peer in view.peers_of(number):
        yield from _below(name_of("_peer.internal"), {peer.name.lower().encode(): (peer.address,)})
    for app, found in view.flycast_of(number).items():
        yield name_of(f"{app}.flycast"), found


def _below(end: bytes, found: Mapping[bytes, Sequence[bytes]]) -> Iterator[Listed]:
    """``end`` with each key before it, of which a dot makes several labels. What
    cannot be a name is left out: nobody can ask for it."""
    for key, addresses in found.items():
        labels = key.split(b".")
        if all(0 < len(label) <= LABEL_MAX for label in labels):
            name = b"".join(bytes([len(label)]) + label for label in labels) + end
            if len(name) <= NAME_MAX:
                yield name, addresses
