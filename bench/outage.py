# SPDX-License-Identifier: Apache-2.0
"""What a cluster does while etcd is away for minutes, and when it comes back.

Three hosts of the lab with real daemons and three members of etcd. *all away*: every
member is killed; a daemon is killed meanwhile and starts from its copy. *one host
cut off*: it alone reaches no member, while others write and etcd is compacted beyond
what it has heard. All the time datagrams and HTTP requests cross the mesh to a
machine on another host, a VM sends to another one over its private network, and asks
for a name.

Run as root: ``.venv/bin/python -m bench.outage [--seconds N] [--json]``; twice three
minutes by default.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import rig
from bench.live import cluster, progress
from flyebpf.api.client import path
from flyebpf.lab import etcd, net
from tests.netns.cluster import Cluster
from tests.netns.rig import service, tool_argv

SECONDS = 180.0
LONG = 3600
PAUSE = 0.05  # between writes
CUT = (
    "add table inet cut\n"
    "add chain inet cut out { type filter hook output priority 0; }\n"
    "add rule inet cut out tcp dport 2379 drop\n"
)


def prepare(lab: Cluster) -> dict[str, str]:
    """Apps and VMs; where traffic goes, by kind."""
    echo = lab.create_app("echo", service("udp", 5000, 7777))
    lab.add_echo(echo, "o-echo", host="host3")
    web = lab.create_app("web", service("tcp", 8080, 80))
    lab.add_nginx(web, "o-web", host="host2")
    private = lab.create_app("private", vip=False)
    lab.add_vm(private, "o-one", host="host1")
    lab.add_vm(private, "o-two", *tool_argv("udp_mirror", 5000), host="host2")
    lab.until(lambda: lab.listening("o-two", "udp", 5000), "o-two listens")
    for app in (echo, web):
        lab.edge(app.vip, "host1")
    return {"udp": echo.vip, "http": web.vip, "6pn": lab.sixpn("o-two")}


@contextmanager
def traffic(lab: Cluster, targets: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The dictionary holds [sent, lost] of each kind when the block has been left."""
    loads = {
        "udp": lab.begin("client1", "udp_stream", targets["udp"], 7777, LONG, 200),
        "6pn": lab.begin("o-one", "udp_stream", targets["6pn"], 5000, LONG, 200),
        "http": lab.begin("client1", "http_load", targets["http"], 80, LONG, 20),
        "dns": lab.begin("o-one", "dns_stream", "private.internal", LONG, 20),
    }
    found: dict[str, Any] = {}
    time.sleep(1)
    yield found
    time.sleep(1)
    for kind, load in loads.items():
        got = load.finish()
        if kind == "http":
            found[kind] = [got["ok"] + len(got["errors"]), len(got["errors"])]
        elif kind == "dns":
            found[kind] = [got["asked"], got["failed"]]
        else:
            found[kind] = [got["sent"], got["lost"]]


def all_away(lab: Cluster, targets: dict[str, str], seconds: float) -> list[object]:
    with traffic(lab, targets) as found:
        begun = time.monotonic()
        with lab.without_etcd():
            time.sleep(seconds / 3)
            lab.daemon("stop", "host3", "--kill")
            lab.daemon("start", "host3")
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
            lasted = time.monotonic() - begun
        back = time.monotonic()
        while "Error" in lab.flyebpf("host2", "orgs", "create", "after", check=False):
            time.sleep(0.05)
        written = time.monotonic() - back
        lab.settle()
        converged = time.monotonic() - back
    return ["all members away", lasted, 1, written, converged, *counts(found)]


def one_cut_off(lab: Cluster, targets: dict[str, str], seconds: float) -> list[object]:
    machine, api = lab.vm("o-two").machine, lab.api("host2")
    with traffic(lab, targets) as found:
        lab.run("host1", "nft", CUT)
        begun, writes = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            writes += 1
            api.patch(path("machines", machine, "metadata"), {"set": {"n": str(writes)}})
            time.sleep(PAUSE)
        compact(lab)
        target = lab.revision("host2")
        lasted = time.monotonic() - begun
        lab.run("host1", "nft", "delete", "table", "inet", "cut")
        back = time.monotonic()
        lab.until(lambda: lab.applied("host1", target), "host1 follows", 60)
        converged = time.monotonic() - back
        seen = lab.api("host1").get(path("machines", machine))["metadata"]["n"]
        assert seen == str(writes)
    return ["one host cut off, compacted", lasted, writes, 0.0, converged, *counts(found)]


def compact(lab: Cluster) -> None:
    """Forget everything but the present."""
    member = next(iter(lab.lab.members.values()))
    with net.inside(member.namespace):
        url = etcd.client_url(member)
        revision = ask(f"{url}/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        ask(f"{url}/v3/kv/compaction", {"revision": revision, "physical": True})


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def counts(found: dict[str, Any]) -> list[object]:
    return [value for kind in ("udp", "6pn", "http", "dns") for value in found[kind]]


def main() -> None:
    rig.require_root()
    words = sys.argv[1:]
    seconds = float(words[words.index("--seconds") + 1]) if "--seconds" in words else SECONDS
    with cluster("outage", 3) as lab:
        targets = prepare(lab)
        rows = []
        for part in (all_away, one_cut_off):
            progress(part.__name__.replace("_", " "))
            rows.append(part(lab, targets, seconds))
    columns = ("what", "away s", "writes", "write s", "converged s")
    kinds = [text for kind in ("UDP", "6PN", "HTTP", "DNS") for text in (kind, "lost")]
    rig.report("etcd away for minutes", (*columns, *kinds), rows)


if __name__ == "__main__":
    main()
