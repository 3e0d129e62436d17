# SPDX-License-Identifier: Apache-2.0
"""Fly-Replay, and requests for a region or a machine: two regions, two organizations."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.netns.cluster import Cluster
from tests.netns.rig import TOOLS

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
"""
SECURE = """
[[services.ports]]
port = 443
handlers = ["http", "tls"]
tls_options = { default_self_signed = true }
"""
APPS = {
    "front": ("acme", "default", {"front1": "host1", "front2": "host3"}),
    "back": ("acme", "default", {"back1": "host1", "back2": "host3"}),
    "aside": ("acme", "apart", {"aside1": "host1"}),
    "strange": ("others", "default", {"strange1": "host1"}),
    "sticky": ("acme", "default", {"sticky1": "host1"}),
}
"""Organization, network, machines and their hosts: host1 is in ams, host3 in fra. "front"
and "sticky" have an address."""
REMEMBERED = """
[[services.ports.http_options.replay_cache]]
path_prefix = "/"
type = "cookie"
name = "sid"
ttl_seconds = 60
allow_bypass = true
[[services.ports.http_options.replay_cache]]
path_prefix = "/api/"
type = "header"
name = "X-User"
ttl_seconds = 60
"""


@dataclass
class World:
    cluster: Cluster
    vip: str = ""
    sticky: str = ""
    ids: dict[str, str] = field(default_factory=dict)

    def curl(self, *options: str, path: str = "/") -> subprocess.CompletedProcess[str]:
        command = ("curl", "-sS", "-m", "10", *options, f"http://{self.vip}{path}")
        return self.cluster.run("client1", *command, check=False)

    def ask(self, path: str = "/", *options: str, **headers: str) -> dict[str, Any]:
        """What the machine that has answered saw, or ``code`` and ``text`` of an error.
        ``_`` in names of headers stands for ``-``."""
        words = []
        for name, value in headers.items():
            words += ["-H", f"{name.replace('_', '-')}: {value}"]
        done = self.curl(*words, *options, "-w", "\n%{http_code}", path=path)
        text, _, code = done.stdout.rpartition("\n")
        try:
            return dict(json.loads(text))
        except ValueError:
            return {"code": code, "text": text + done.stderr, "name": ""}

    def replay(self, value: str, path: str = "/", *options: str, **more: str) -> dict[str, Any]:
        """By front1, which is the nearest to the client."""
        said = {"x_front1_headers": f"fly-replay: {value}"}
        return self.ask(path, *options, **said, **more)


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[World]:
    made = World(cluster)
    with cluster.proxied("host1", "host3"):
        apps = []
        for name, (org, network, machines) in APPS.items():
            vip = name in ("front", "sticky")
            app = cluster.create_app(name, org=org, network=network, vip=vip)
            apps.append(app)
            cluster.deploy(app, SERVICES + {"sticky": REMEMBERED, "front": SECURE}.get(name, ""))
            for vm, host in machines.items():
                server = (sys.executable, str(TOOLS / "replayer.py"), "8080", vm)
                made.ids[vm] = cluster.make_vm(app, vm, *server, host=host).machine
        made.vip, made.sticky = apps[0].vip, apps[-1].vip
        cluster.settle()
        for vip in (made.vip, made.sticky):
            cluster.edge(vip, "host1")
        for vm in made.ids:
            cluster.until(lambda vm=vm: cluster.listening(vm, "tcp", 8080), f"{vm} listens")  # type: ignore[misc]
        cluster.until(lambda: made.ask()["name"] == "front1", "it is served", 20)
        yield made
        for app in reversed(apps):
            cluster.destroy_app(app)


def src(answer: dict[str, Any]) -> dict[str, str]:
    """The fields of ``fly-replay-src``."""
    return dict(part.split("=", 1) for part in answer["headers"]["fly-replay-src"].split(";"))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "front1"),
        ({"fly_prefer_region": "fra"}, "front2"),
        ({"fly_prefer_region": "lax,fra,ams"}, "front2"),
        ({"fly_prefer_region": "lax"}, "front1"),
        ({"fly_prefer_region": ";;;"}, "front1"),
        ({"fly_force_region": "fra"}, "front2"),
        ({"fly_force_region": "lax, fra"}, "front2"),
    ],
)
def test_regions(world: World, asked: dict[str, str], name: str) -> None:
    answer = world.ask("/x?y=%20z", **asked)
    assert (answer["name"], answer["path"]) == (name, "/x?y=%20z")


def test_a_region_without_machines(world: World) -> None:
    assert world.ask(fly_force_region="lax")["code"] == "503"
    assert world.ask(fly_force_region="!")["code"] == "400"


def test_instances(world: World) -> None:
    for name in ("front1", "front2"):
        assert world.ask(fly_force_instance_id=world.ids[name])["name"] == name
        answer = world.ask(fly_prefer_instance_id=world.ids[name])
        assert answer["name"] == name
        assert "fly-preferred-instance-unavailable" not in answer["names"]
    assert world.ask(fly_force_instance_id=world.ids["back1"])["code"] == "503"
    answer = world.ask(fly_prefer_instance_id="0123456789abcd")
    assert answer["name"] == "front1"
    assert answer["headers"]["fly-preferred-instance-unavailable"] == "0123456789abcd"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("app=back", {"back1", "back2"}),
        ("app=back;region=fra", {"back2"}),
        ('app=back;region="lax,fra"', {"back2"}),
        ("app=back;region=eu", {"back1", "back2"}),
        ("app=back; region=any;", {"back1", "back2"}),
        ("region=fra", {"front2"}),
        ("elsewhere=true", {"front2"}),
        ("instance={front2}", {"front2"}),
        ("app=back;instance={back2}", {"back2"}),
        ("app=back;prefer_instance={back2}", {"back2"}),
        ("app=back;prefer_instance=0123456789abcd", {"back1", "back2"}),
    ],
)
def test_targets(world: World, value: str, names: set[str]) -> None:
    answer = world.replay(value.format(**world.ids), "/a/b?c=%2F")
    assert answer["name"] in names, answer
    assert answer["path"] == "/a/b?c=%2F"


def test_what_the_target_is_told(world: World) -> None:
    before = time.time_ns() // 1000
    lies = {"fly_replay_src": "instance=evil", "fly_replay_failed": "x", "fly_replay": "app=back"}
    answer = world.replay('app=back;state="a;b=c"', **lies)
    assert [answer["names"].count(name) for name in ("host", "fly-replay-src")] == [1, 1]
    told = answer["headers"]["fly-replay-src"]
    assert told.startswith(f"instance={world.ids['front1']};region=ams;t=")
    assert told.endswith(";state=a;b=c")
    assert before <= int(src(answer)["t"]) <= time.time_ns() // 1000
    assert answer["headers"]["fly-client-ip"] == world.cluster.lab.clients["client1"].address
    assert answer["headers"]["x-forwarded-for"] == answer["headers"]["fly-client-ip"]
    assert "fly-replay-failed" not in answer["names"]
    assert not [name for name in answer["names"] if name.startswith(("x-flyebpf", "x-envoy"))]


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("host", ["front.example.com", ""])
def test_over_tls(world: World, host: str, version: str) -> None:
    """With a server name and without one."""
    reached = ("--connect-to", f"::{world.vip}:443", "-k", version)
    asked = ("-H", "x-front1-headers: fly-replay: app=back;region=fra", "-d", "body")
    done = world.cluster.run("client1", "curl", "-sS", "-m", "10", *reached, *asked,
                             f"https://{host or world.vip}/x?y", check=False)  # fmt: skip
    answer = json.loads(done.stdout)
    assert (answer["name"], answer["path"], answer["body"][0]) == ("back2", "/x?y", 4)
    told = answer["headers"]
    assert (told["x-forwarded-proto"], told["host"]) == ("https", host or world.vip)


def test_only_the_last_answer_is_seen(world: World) -> None:
    done = world.curl("-i", "-H", "x-front1-headers: fly-replay: app=back | x-secret: 1")
    head = done.stdout.split("\n\n")[0].lower()
    assert head.startswith("http/1.1 200")
    for name in ("x-secret", "fly-replay", "location", "x-flyebpf", "x-envoy"):
        assert name not in head
    assert "\nserver: flyebpf\n" in head


def test_redirects_of_apps_are_their_own(world: World) -> None:
    """The router follows none, not even one that would have it be taken for ours."""
    own = {"x_front1_headers": "location: http://x/other", "x_front1_status": "307"}
    answer = world.ask(**own)
    assert (answer["name"], answer["path"]) == ("front1", "/")
    hop = "back;0;strange;strange/8080:app;172.16.0.9:8080;force_self"
    own["x_front1_headers"] += f" | x-flyebpf-ask: replay | x-flyebpf-hop: {hop}"
    answer = world.ask(**own)
    assert answer["code"] == "502"
    assert "it names no target" in answer["text"]
    there = world.ask(**own, fly_force_instance_id=world.ids["front2"], x_front2_status="307",
                      x_front2_headers=own["x_front1_headers"])  # fmt: skip
    assert there["name"] == "front2"


def test_a_replay_by_a_machine_that_was_asked_for(world: World) -> None:
    answer = world.ask(fly_force_instance_id=world.ids["front2"], fly_force_region="fra",
                       x_front2_headers="fly-replay: app=back;region=ams")  # fmt: skip
    assert answer["name"] == "back1"
    assert src(answer)["instance"] == world.ids["front2"]


@pytest.mark.parametrize("size", [0, 1, 65_537, 1 << 20])
@pytest.mark.parametrize("how", ["whole", "early"])
def test_bodies(world: World, tmp_path: Path, size: int, how: str) -> None:
    sent = tmp_path / "body"
    sent.write_bytes(os.urandom(size))
    more = {"x_front1_early": "1"} if how == "early" else {}
    options = ("--data-binary", f"@{sent}", "-H", "Expect:")
    answer = world.replay("app=back;region=fra", "/", *options, **more)
    assert answer.get("body") == [size, hashlib.sha256(sent.read_bytes()).hexdigest()], answer
    assert (answer["name"], answer["method"]) == ("back2", "POST")


def test_a_chunked_body(world: World, tmp_path: Path) -> None:
    sent = tmp_path / "body"
    sent.write_bytes(os.urandom(300_000))
    options = ("-T", str(sent), "-H", "Transfer-Encoding: chunked", "-H", "Expect:")
    answer = world.replay("app=back", "/up", *options)
    assert answer.get("body") == [300_000, hashlib.sha256(sent.read_bytes()).hexdigest()], answer
    assert answer["method"] == "PUT"


def test_too_long_a_body(world: World, tmp_path: Path) -> None:
    sent = tmp_path / "body"
    sent.write_bytes(bytes((1 << 20) + 1))
    options = ("--data-binary", f"@{sent}", "-H", "Expect:")
    refused = world.replay("app=back", "/", *options)
    assert refused["code"] == "502"
    assert "longer than 1048576 bytes" in refused["text"]
    passed = world.ask("/", *options)
    assert passed["body"][0] == (1 << 20) + 1


JSON = "content-type: application/vnd.fly.replay+json"


def by_json(world: World, body: object, path: str = "/", **more: str) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return world.ask(path, x_front1_headers=JSON, x_front1_body=text, **more)


def test_json(world: World) -> None:
    changes = {
        "path": "/other?q=1",
        "delete_headers": ["x-gone"],
        "set_headers": [{"name": "X-Set", "value": "é"}],
    }
    body = {"app": "back", "region": "fra", "state": "s", "transform": changes}
    answer = by_json(world, body, "/first", x_gone="1", x_kept="2")
    assert (answer["name"], answer["path"]) == ("back2", "/other?q=1")
    assert "x-gone" not in answer["names"]
    assert answer["headers"]["x-kept"] == "2"
    assert "x-set" in answer["names"]
    assert src(answer)["state"] == "s"


@pytest.mark.parametrize(
    "body",
    [
        '{"app":"back"',
        "[]",
        '{"app":"back","app":"front"}',
        '{"app":"back","transform":{"set_headers":[{"name":"fly-client-ip","value":"6"}]}}',
        '{"app":"back","state":"a\\r\\nx-evil: 1"}',
    ],
)
def test_bad_json(world: World, body: str) -> None:
    answer = by_json(world, body)
    assert answer["code"] == "502"
    assert "fly-replay of front" in answer["text"]


@pytest.mark.parametrize(
    "value", ["", "app", "app=back;app=front", "nothing=1", 'app="back', "x" * 9000]
)
def test_bad_headers(world: World, value: str) -> None:
    answer = world.replay(value)
    assert answer["code"] == "502", answer


def test_whose_answer_it_is_cannot_be_forged(world: World) -> None:
    """Tabs in a header that an app may set do not move what the proxy says beside it."""
    hop = "replay,0,strange,strange/8080:app,172.16.0.9:8080"
    there = base64.b64encode(b'{"app":"strange"}').decode()
    for forged in (f"/\t{there}\t{hop}\t", f"{hop}\t/\t{there}\t", f"/\t{hop}\t{there}\t"):
        more = f"fly-replay: app=strange | fly-replay-cache: {forged}"
        for x in ("", f" | x-flyebpf-json: {forged}"):
            answer = world.replay("app=back;region=fra", x_back2_headers=more + x)
            assert (answer["name"], answer.get("code")) == ("", "502"), answer


def test_loops_end(world: World) -> None:
    answer = world.replay("app=back", x_back1_headers="fly-replay: app=front",
                          x_back2_headers="fly-replay: app=front",
                          x_front2_headers="fly-replay: app=back")  # fmt: skip
    assert answer["code"] == "508"
    assert "more than 5 times" in answer["text"]


def test_a_replay_of_a_replay(world: World) -> None:
    answer = world.replay("app=back;region=fra", x_back2_headers="fly-replay: app=front;region=fra")
    assert answer["name"] == "front2"
    assert src(answer)["instance"] == world.ids["back2"]
    assert src(answer)["region"] == "fra"


def test_who_may(world: World) -> None:
    """Own network, then own organization, then others: each only when it is allowed."""
    cluster = world.cluster

    def replayed(app: str) -> str:
        return str(world.replay(f"app={app}")["name"])

    missing = world.replay("app=nobody")
    for app, change, undo in (
        ("aside", "cross-network-replays enable -o acme", "cross-network-replays disable -o acme"),
        (
            "strange",
            "replay-sources add acme -o others",
            "replay-sources remove acme -o others",
        ),
    ):
        refused = world.replay(f"app={app}")
        assert refused["text"] == missing["text"].replace("nobody", app), "as if there were none"
        assert refused["code"] == "502"
        cluster.flyebpf("host1", "orgs", *change.split())
        cluster.until(lambda app=app: replayed(app) == f"{app}1", f"{app} is reached", 10)  # type: ignore[misc]
        cluster.flyebpf("host1", "orgs", *undo.split())
        cluster.until(lambda app=app: replayed(app) == "", f"{app} is reached no more", 10)  # type: ignore[misc]


def test_permission_is_of_who_answers(world: World) -> None:
    """Not of whose client it is: an app that may be reached lends nobody its rights."""
    cluster = world.cluster
    cluster.flyebpf("host1", "orgs", "replay-sources", "add", "acme", "-o", "others")
    cluster.until(lambda: world.replay("app=strange")["name"] == "strange1", "it is reached", 10)
    answer = world.replay("app=strange", x_strange1_headers="fly-replay: app=back")
    assert answer["code"] == "502"
    assert "no app back for strange" in answer["text"]
    cluster.flyebpf("host1", "orgs", "replay-sources", "remove", "acme", "-o", "others")


FAILURES = {
    "no_candidate": "app=back;region=lax",
    "timeout": "app=back;region=fra;timeout=300ms",
}


@pytest.mark.parametrize("fallback", ["force_self", "prefer_self"])
@pytest.mark.parametrize("reason", list(FAILURES))
def test_fallbacks(world: World, reason: str, fallback: str) -> None:
    answer = world.replay(f"{FAILURES[reason]};fallback={fallback}", "/x", "-d", "body",
                          x_back2_wait="3")  # fmt: skip
    assert answer["name"] == "front1", answer
    assert (answer["body"][0], answer["path"]) == (4, "/x")
    failed = dict(part.split("=", 1) for part in answer["headers"]["fly-replay-failed"].split(";"))
    assert failed["reason"] == reason
    elapsed = int(failed.pop("elapsed_ms"))
    assert elapsed >= (250 if reason == "timeout" else 0)  # Envoy's clock is a coarse one
    assert failed == {
        "instance": "",
        "app": "back",
        "region": "lax" if reason == "no_candidate" else "fra",
        "replay_source": world.ids["front1"],
        "reason": reason,
    }
    assert "fly-replay-src" not in answer["names"]


def test_a_timeout_without_a_fallback(world: World) -> None:
    for _ in range(3):  # which does not put the machine out of service
        timed = world.replay("app=back;region=fra;timeout=300ms", x_back2_wait="3")
        assert timed["code"] == "504", timed
    assert world.replay("app=back;region=fra;timeout=9s", x_back2_wait="0.2")["name"] == "back2"


def test_a_target_that_does_not_answer(world: World) -> None:
    """Nobody listens there."""
    cluster = world.cluster
    vm = cluster.vm("back2")
    drop = (
        *("nft", "add table inet shut;"),
        "add chain inet shut in { type filter hook input priority 0; };",
        "add rule inet shut in tcp dport 8080 reject with tcp reset",
    )
    cluster.run("back2", *drop)
    try:
        answer = world.replay(f"app=back;instance={vm.machine};fallback=force_self")
        assert answer["name"] == "front1"
        assert "reason=retries_exhausted" in answer["headers"]["fly-replay-failed"]
        assert world.replay(f"app=back;instance={vm.machine}")["code"] in ("502", "503")
    finally:
        cluster.run("back2", "nft", "delete table inet shut")
    there = "app=back;region=fra"  # one that cannot be reached is left out for a while
    cluster.until(lambda: world.replay(there)["name"] == "back2", "it is reached again", 30)


def test_a_fallback_does_not_replay_again(world: World) -> None:
    answer = world.replay("app=back;region=lax;fallback=force_self", x_front1_again="1")
    assert answer["code"] == "502"
    assert "not replayed again" in answer["text"]


def test_sessions_are_remembered(world: World) -> None:
    """By a cookie, or below another path by a header; for this host name alone."""
    sticky = World(world.cluster, world.sticky, ids=world.ids)
    there = {"x_sticky1_headers": "fly-replay: app=back;region=fra;state=s"}

    def ask(path: str = "/", **headers: str) -> tuple[str, str | None]:
        answer = sticky.ask(path, **headers)
        assert "headers" in answer, answer
        return answer["name"], answer["headers"].get("fly-replay-cache-status")

    assert ask(cookie="a=b; sid=1", **there) == ("back2", "miss")
    hit = sticky.ask("/deep?x=1", cookie="sid=1")
    assert (hit["name"], hit["path"]) == ("back2", "/deep?x=1")
    assert hit["headers"]["fly-replay-cache-status"] == "hit"
    assert (src(hit)["instance"], src(hit)["state"]) == (world.ids["sticky1"], "s")
    assert ask(cookie="sid=2") == ("sticky1", "miss")
    assert ask(cookie="sid=1", host="other.example.com") == ("sticky1", "miss")
    assert ask("/api/x", cookie="sid=1") == ("sticky1", None), (
        "the longest prefix has no such header"
    )
    assert ask("/api/x", x_user="u", **there) == ("back2", "miss")
    assert ask("/api/y", x_user="u") == ("back2", "hit")
    skip = {"fly_replay_cache_control": "skip"}
    assert ask(cookie="sid=1", **skip) == ("sticky1", "bypass")
    assert ask("/api/y", x_user="u", **skip) == ("back2", "hit"), "not allowed there"
    invalid = {"x_back2_headers": "fly-replay-cache: invalidate"}
    assert ask(cookie="sid=1", **invalid) == ("back2", "hit")
    assert ask(cookie="sid=1") == ("sticky1", "miss")


def test_redirects_are_apps_own_where_replays_are_remembered(world: World) -> None:
    sticky = World(world.cluster, world.sticky)
    lines = {"x_sticky1_headers": "location: http://x/other", "x_sticky1_status": "307"}
    answer = sticky.ask(**lines)
    assert (answer["name"], answer["path"]) == ("sticky1", "/")


def test_paths_are_remembered(world: World) -> None:
    cluster = world.cluster
    lines = (
        "fly-replay: app=back;region=fra | fly-replay-cache: /kept/* | fly-replay-cache-ttl-secs: "
    )
    refused = world.ask("/kept/a", x_front1_headers=f"{lines}9")
    assert (refused["code"], "ttl is below 10 s" in refused["text"]) == ("502", True)
    assert world.ask("/kept/a", x_front1_headers=f"{lines}60")["name"] == "back2"
    cluster.until(lambda: world.ask("/kept/b")["name"] == "back2", "it is remembered", 10)
    assert world.ask("/kept/b")["headers"]["fly-replay-cache-status"] == "hit"
    assert world.ask("/other")["name"] == "front1"
    assert world.ask("/kept/b", host="other.example.com")["name"] == "front1"
    again = world.ask("/kept/b", x_back2_headers="fly-replay-cache: invalidate")
    assert again["name"] == "back2"
    assert world.ask("/kept/b")["name"] == "front1"
