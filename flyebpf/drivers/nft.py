# SPDX-License-Identifier: Apache-2.0
"""The driver of nftables: source NAT of the VMs' own traffic, and a second
fence around the host and the mesh.

One table, ``inet flyebpf``, is replaced as a whole in one transaction. It is
ours by its name; whether it is as it should be is told by the digest of the
rules, which is the name of an empty chain in it (nft before 1.0.8 does not list
comments as JSON), together with what is in it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from flyebpf.errors import KernelError
from flyebpf.model.rows import NatRow, Row
from flyebpf.model.sixpn import HOST_PORT
from flyebpf.reconcile.base import Failure

TABLE = "flyebpf"
MARK = "rules_"
TIMEOUT = 10.0  # seconds
COUNTERS = (
    "vm_to_host",
    "vm_no_route",
    "vm_untracked",
    "vm_unsolicited",
    "vm_nat",
    "mesh_to_uplink",
    "uplink_to_mesh",
    "mesh_forward",
    "host_port",
)
SIXPN = "fdaa::/16"
PROXY_MARK = "0xf1eb0001"
"""Of what the programs have found to be to or from a proxy (bpf/include/proxy.h)."""
OTHER_PORTS = "32768-49151"
"""What a VM's UDP port becomes when it is one of WireGuard's."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """``ports``: UDP, the first and the last of WireGuard's, (0, 0) for none.
    ``devices``: of the mesh; what comes in over them is for this host."""

    devices: tuple[str, ...] = ()
    ports: tuple[int, int] = (0, 0)


Run = Callable[[str, Sequence[str]], str]


def run_nft(text: str, arguments: Sequence[str]) -> str:
    """Run nft with ``text`` on its standard input; what it prints."""
    try:
        result = subprocess.run(
            ["nft", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise KernelError("nft is not installed", "Install it: apt-get install nftables") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"nft did not answer within {TIMEOUT:.0f} s") from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise KernelError(f"nft {' '.join(arguments)}: {lines[0]}")
    return result.stdout


def quoted(names: Sequence[str]) -> str:
    return "{ " + ", ".join(f'"{name}"' for name in names) + " }"


def ruleset(rows: Sequence[NatRow], group: int, mesh: Mesh) -> str:
    """The rules inside the table. VMs' interfaces are those of link group
    ``group``; what they send to the host or past the uplinks is dropped here
    too, in case a packet ever gets past the programs at their interfaces; only what
    those have marked is let through, to the proxy and other hosts' proxies. What
    belongs to no connection would leave untranslated, so it does not leave.
    Nothing of the private networks leaves over an uplink, whatever the routes
    say when a mesh device is gone, and nothing comes in there, as ``edge_xdp`` has
    it too: but a frame with a priority tag (VLAN 0) is IP to the stack alone. What
    machines send to the host's own services reaches DNS and nothing else, and nobody
    is forwarded to machines there."""
    uplinks = quoted(sorted({name for row in rows for name in row.uplinks}))
    nat = "\n".join(masquerade(row, group, mesh) for row in sorted(rows, key=lambda r: r.source))
    private = (
        f"ip6 daddr {SIXPN}",
        f"ip6 saddr {SIXPN}",
        *(f"ip daddr {source}" for source in sorted({row.source for row in rows})),
    )
    clear = "\n".join(
        f"    oifname {uplinks} {what} counter name mesh_to_uplink drop" for what in private
    )
    outside = "\n".join(
        f"    iifname {uplinks} {what} counter name uplink_to_mesh drop" for what in private
    )
    counters = "\n".join(f"  counter {name} {{ }}" for name in COUNTERS)
    return f"""{counters}
  chain input {{
    type filter hook input priority -10; policy accept;
    meta iifgroup {group} meta mark {PROXY_MARK} meta l4proto tcp accept
    meta iifgroup {group} counter name vm_to_host drop
    iifname "{HOST_PORT}" ip6 daddr {SIXPN} meta l4proto {{ tcp, udp }} th dport 53 accept
    iifname "{HOST_PORT}" meta mark {PROXY_MARK} meta l4proto {{ tcp, ipv6-icmp }} accept
    iifname "{HOST_PORT}" counter name host_port drop
  }}
  chain outside {{
    type filter hook prerouting priority -310; policy accept;
{outside}
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
{proxied(group, mesh)}
    meta iifgroup {group} oifname != {uplinks} counter name vm_no_route drop
    meta iifgroup {group} ct state {{ invalid, untracked }} counter name vm_untracked drop
    meta oifgroup {group} ct state != {{ established, related }} counter name vm_unsolicited drop
    iifname "{HOST_PORT}" counter name host_port drop
    oifname "{HOST_PORT}" counter name host_port drop
{forward(group, mesh)}
  }}
  chain clear {{
    type filter hook postrouting priority -10; policy accept;
{clear}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
{nat}
  }}
{untracked(group, mesh)}"""


def masquerade(row: NatRow, group: int, mesh: Mesh) -> str:
    """A VM that sends from a port of WireGuard's gets another one: otherwise the
    answers of another host to this one would be taken for the VM's."""
    what = f"    ip saddr {row.source} meta iifgroup {group} oifname {quoted(row.uplinks)}"
    rule = f"{what} counter name vm_nat masquerade"
    if not any(mesh.ports):
        return rule
    ports = f"udp sport {mesh.ports[0]}-{mesh.ports[1]}"
    return f"{what} {ports} counter name vm_nat masquerade to :{OTHER_PORTS}\n{rule}"


def forward(group: int, mesh: Mesh) -> str:
    """What comes over the mesh goes to a VM or to this host."""
    if not mesh.devices:
        return ""
    return f"    iifname {quoted(mesh.devices)} oifgroup != {group} counter name mesh_forward drop"


def proxied(group: int, mesh: Mesh) -> str:
    """Between a VM and the proxy of another host."""
    if not mesh.devices:
        return ""
    devices, marked = quoted(mesh.devices), f"meta mark {PROXY_MARK} meta l4proto tcp accept"
    return f"""    iifname {devices} meta oifgroup {group} {marked}
    meta iifgroup {group} oifname {devices} {marked}"""


def untracked(group: int, mesh: Mesh) -> str:
    """WireGuard's own packets belong to no connection of conntrack's, so none of
    a VM's can stand in their way. Nor do VMs' queries: each could be a connection
    of its own, and a VM with 2^16 addresses would leave others none."""
    arriving, leaving = f'iifname "{HOST_PORT}" notrack', f'oifname "{HOST_PORT}" notrack'
    if any(mesh.ports):
        ports = f"{mesh.ports[0]}-{mesh.ports[1]}"
        arriving += f"""
    meta iifgroup != {group} fib daddr type local udp dport {ports} notrack"""
        leaving += f"\n    udp sport {ports} notrack"
    return f"""  chain arriving {{
    type filter hook prerouting priority -300; policy accept;
    {arriving}
  }}
  chain leaving {{
    type filter hook output priority -300; policy accept;
    {leaving}
  }}
"""


def script(rows: Sequence[NatRow], group: int, mesh: Mesh) -> str:
    """Replaces the table in one transaction; counters start at zero."""
    body = ruleset(rows, group, mesh)
    head = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
    return f"{head}table inet {TABLE} {{\n  chain {digest(body)} {{ }}\n{body}}}\n"


def digest(body: str) -> str:
    """The name of the chain that stands for the rules."""
    return MARK + blake2b(body.encode(), digest_size=8).hexdigest()


class NftDriver:
    """``group``: link group of the VMs' interfaces."""

    name = "nft"
    kinds: tuple[type[Row], ...] = (NatRow,)

    def __init__(self, group: int, mesh: Mesh = Mesh(), run: Run = run_nft) -> None:
        self._group = group
        self._mesh = mesh
        self._run = run
        self._rows: dict[Hashable, NatRow] = {}
        self._written = ""  # what our last table looked like when read back

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        found = self._listing()
        if found is None:
            return {}
        mark, shape = found
        rows = list(self._rows.values())
        mine = mark == digest(ruleset(rows, self._group, self._mesh)) and shape == self._written
        # A table of an earlier daemon is not understood, only replaced.
        return {row.key: row if mine else "changed" for row in rows} or {"table": mark}

    def fingerprint(self, row: Row) -> object:
        return row

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        before = dict(self._rows)
        self._rows.update((row.key, row) for row in puts if isinstance(row, NatRow))
        for key in deletes:
            self._rows.pop(key, None)
        try:
            self._write()
        except KernelError as error:
            self._rows = before
            keys = [*(row.key for row in puts), *deletes]
            return [Failure(NatRow, key, error.message, error.remedy) for key in keys]
        return []

    def _write(self) -> None:
        rows = list(self._rows.values())
        found = self._listing()
        if (
            rows
            and found
            and found == (digest(ruleset(rows, self._group, self._mesh)), self._written)
        ):
            return
        if rows:
            text = script(rows, self._group, self._mesh)
        else:
            text = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
        self._run(text, ("-f", "-"))
        written = self._listing()
        self._written = written[1] if written else ""

    def _listing(self) -> tuple[str, str] | None:
        """Digest and contents of our table, without the counters' values and
        the handles; None when there is none."""
        if TABLE not in self._run("", ("list", "tables", "inet")).split():
            return None
        items = json.loads(self._run("", ("-j", "list", "table", "inet", TABLE)))["nftables"]
        chains = [item["chain"]["name"] for item in items if "chain" in item]
        mark = next((name for name in chains if name.startswith(MARK)), "")
        shape = [strip(item) for item in items if "metainfo" not in item]
        return mark, json.dumps(shape, sort_keys=True)

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by counter; empty when the table is not there."""
        if TABLE not in self._run("", ("list", "tables", "inet")).split():
            return {}
        items = json.loads(self._run("", ("-j", "list", "counters", "table", "inet", TABLE)))
        found = (item["counter"] for item in items["nftables"] if "counter" in item)
        return {c["name"]: (c["packets"], c["bytes"]) for c in found}


def strip(item: Any) -> Any:
    """A listed object without what changes by itself."""
    if isinstance(item, dict):
        volatile = ("handle", "packets", "bytes")
        return {key: strip(value) for key, value in item.items() if key not in volatile}
    return [strip(value) for value in item] if isinstance(item, list) else item
