# SPDX-License-Identifier: Apache-2.0
"""Machines that are started by their clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.client import ApiError, path
from tests.netns.proxied import proxied
from tests.netns.rig import TOOLS, App, Rig, tool_argv

pytestmark = pytest.mark.root

WEB = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
[[services.ports]]
port = 9001
handlers = ["proxy_proto"]
"""
CHAT = """
[[services]]
protocol = "tcp"
internal_port = 7000
[[services.ports]]
port = 7000
[[services]]
protocol = "tcp"
internal_port = 7001
[[services.ports]]
port = 80
handlers = ["http"]
"""
AUTO_STOP = 'auto_stop_machines = "stop"\ninternal_port'
MANUAL = "auto_start_machines = false\ninternal_port"
BODY = 20 << 20


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One host with a proxy and commands for its machines, one client."""
    with proxied("w") as made:
        yield made


@pytest.fixture(scope="module")
def web(rig: Rig) -> App:
    """Two machines, one of which is enough."""
    app = rig.create_app("web", WEB)
    for name in ("web1", "web2"):
        rig.add_vm(app, name, sys.executable, str(TOOLS / "say.py"), "8080", name)
    rig.until(lambda: fetch(rig, app)[0] == 200, "it is served", 20)
    return app


@pytest.fixture(scope="module")
def chat(rig: Rig) -> App:
    """Without handlers, at a Flycast address, and with websockets."""
    app = rig.create_app("chat", CHAT)
    rig.add_vm(app, "chat1", sys.executable, str(TOOLS / "greet.py"), "7000")
    return app


def fetch(rig: Rig, app: App, *options: str) -> tuple[int, str]:
    """The status and body of an answer."""
    command = ("curl", "-sS", "-m", "60", "-w", "\n%{http_code}", *options, f"http://{app.vip}/")
    done = rig.run("client1", *command, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def machines(rig: Rig, app: App) -> list[dict[str, Any]]:
    return list(rig.api().get("/v1/machines", {"app": app.name})["items"])


def states(rig: Rig, app: App) -> list[str]:
    return sorted(machine["state"] for machine in machines(rig, app))


def are(rig: Rig, app: App, *wanted: str) -> None:
    """A machine may take connections before its command has come to an end."""
    rig.until(lambda: states(rig, app) == list(wanted), f"they are {wanted}")


def sleep_all(rig: Rig, app: App, verb: str = "stop") -> None:
    """Stop or suspend every machine, at once."""
    targets = [path("machines", machine["id"], verb) for machine in machines(rig, app)]
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(rig.api().post, targets))


def test_one_machine_for_many_requests(rig: Rig, web: App, tmp_path: Path) -> None:
    """All of them are answered, large bodies too, and one machine is started."""
    sleep_all(rig, web)
    assert states(rig, web) == ["stopped", "stopped"]
    body = tmp_path / "body"
    body.write_bytes(os.urandom(BODY))
    command = ("curl", "-sS", "-m", "60", "--data-binary", f"@{body}", f"http://{web.vip}/")
    asked = [
        subprocess.Popen(rig.argv("client1", command), stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in asked]
    assert [answer["body"] for answer in answers] == [BODY] * 4
    assert len({answer["name"] for answer in answers}) == 1
    are(rig, web, "started", "stopped")


def test_suspended_and_what_the_client_says(rig: Rig, web: App) -> None:
    """A machine goes on where it was; whom a request wakes is not for its client to say."""
    sleep_all(rig, web, "suspend")
    assert states(rig, web) == ["suspended", "suspended"]
    lies = ("X-Flyebpf-Cluster: envoy://wake/other/8080:app", "X-Flyebpf-Machine: 127.0.0.1:9464",
            "X-Flyebpf-Refused: none")  # fmt: skip
    status, body = fetch(rig, web, *(word for lie in lies for word in ("-H", lie)))
    assert status == 200
    assert json.loads(body)["name"] in ("web1", "web2")
    are(rig, web, "started", "suspended")


def test_proxy_protocol(rig: Rig, web: App) -> None:
    sleep_all(rig, web)
    done = rig.run("client1", "curl", "-sS", "-m", "60", f"http://{web.vip}:9001/")
    words = json.loads(done.stdout)["proxy"].split()
    assert (words[:4], words[5]) == (
        ["PROXY", "TCP4", rig.lab.clients["client1"].address, web.vip],
        "9001",
    )


def talk(rig: Rig, node: str, address: str, port: int, *options: str) -> Any:
    return rig.tool(node, "talk", address, port, *options)


def test_without_handlers(rig: Rig, web: App, chat: App) -> None:
    """A server that speaks first, from another machine of its network; and for clients
    outside, whom the kernel serves where machines do not sleep."""
    made = rig.api().post(path("apps", chat.name, "addresses"), {"type": "private_v6"})
    rig.machine("start", "web1")
    sleep_all(rig, chat)
    answer = talk(rig, "web1", made["address"], 7000)
    assert answer == {"first": "hello", "repeats": True}
    are(rig, chat, "started")
    assert talk(rig, "client1", chat.vip, 7000) == answer
    rig.deploy(chat, CHAT.replace("internal_port", AUTO_STOP))
    sleep_all(rig, chat)
    assert talk(rig, "client1", chat.vip, 7000) == answer


def test_websockets(rig: Rig, chat: App) -> None:
    sleep_all(rig, chat)
    answer = talk(rig, "client1", chat.vip, 80, "--upgrade")
    assert answer == {"first": "HTTP/1.1 101 Switching Protocols", "repeats": True}


def test_nothing_to_start(rig: Rig, web: App) -> None:
    """A cordoned machine is not for clients, and an app may not want to be woken."""
    sleep_all(rig, web)
    for machine in machines(rig, web):
        rig.api().post(path("machines", machine["id"], "cordon"))
    rig.settle()
    refused = (503, "no machine of this app runs, and none can be started\n")
    rig.until(lambda: fetch(rig, web) == refused, "its clients are refused", 20)
    raw = ("curl", "-sS", "-m", "60", f"http://{web.vip}:9001/")
    assert rig.run("client1", *raw, check=False).returncode in {7, 52, 56}  # closed, at once
    for machine in machines(rig, web):
        rig.api().post(path("machines", machine["id"], "uncordon"))
    rig.deploy(web, WEB.replace("internal_port", MANUAL))
    rig.until(lambda: fetch(rig, web) == (503, "no healthy upstream"), "nobody is held", 20)
    assert states(rig, web) == ["stopped", "stopped"]
    rig.deploy(web, WEB)
    rig.until(lambda: fetch(rig, web)[0] == 200, "a machine is started", 20)


def test_a_machine_that_cannot_be_started(rig: Rig, web: App) -> None:
    """The client hears that, the operator hears why, and the other machine is tried."""
    sleep_all(rig, web)
    config = rig.where.host("host1") / "flyebpf.toml"
    before = config.read_text()
    command = ["/bin/sh", "-c", "echo no memory; exit 12"]
    lines = [f"start = {json.dumps(command)}" if line.startswith("start = ") else line
             for line in before.splitlines()]  # fmt: skip
    config.write_text("\n".join(lines) + "\n")
    restart(rig)
    try:
        assert fetch(rig, web) == (503, "this app's machine could not be started\n")
        found = machines(rig, web)
        assert {m["error"] for m in found} == {"start: exit 12: no memory"}
        assert states(rig, web) == ["stopped", "stopped"]
        with pytest.raises(ApiError, match="is stopped: start: exit 12: no memory"):
            rig.api().post(path("machines", found[0]["id"], "start"))
        problems = rig.api().get("/v1/status")["problems"]
        assert {p["object"] for p in problems} >= {f"machine {m['id']}" for m in found}
    finally:
        config.write_text(before)
        restart(rig)
    assert fetch(rig, web)[0] == 200


def restart(rig: Rig) -> None:
    for verb in ("stop", "start"):
        rig.command("lab", "daemon", verb, "host1")
    rig.settle()


LIMITED = (
    WEB.replace("internal_port", AUTO_STOP)
    + '[services.concurrency]\ntype = "requests"\nsoft_limit = 2\nhard_limit = 4\n'
)


@pytest.fixture(scope="module")
def quick(rig: Rig) -> None:
    """The host looks every second for machines that nobody needs."""
    config = rig.where.host("host1") / "flyebpf.toml"
    config.write_text(config.read_text().replace("[machines]\n", "[machines]\nautostop = 1\n"))
    restart(rig)


def test_more_and_fewer(rig: Rig, web: App, quick: None, tmp_path: Path) -> None:
    """At the soft limit another machine is started; when there is nothing to do one after
    the other is stopped, and the next client wakes one again."""
    sleep_all(rig, web)
    rig.deploy(web, LIMITED)
    body = tmp_path / "body"
    body.write_bytes(bytes(BODY))
    slowly = ("curl", "-sS", "--limit-rate", "10k", "--data-binary", f"@{body}")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(rig.background("client1", *slowly, f"http://{web.vip}/"))
        rig.until(lambda: states(rig, web) == ["started"] * 2, "both are needed", 20)
    rig.until(lambda: "stopped" in states(rig, web), "one is stopped", 30)
    rig.until(lambda: states(rig, web) == ["stopped"] * 2, "so is the other", 30)
    rig.until(lambda: fetch(rig, web)[0] == 200, "one is started again", 20)


def test_connections_are_let_finish(rig: Rig, chat: App, quick: None) -> None:
    """A machine is not stopped while somebody talks to it, however it was started, and
    one that is to be stopped has time for that."""
    sleep_all(rig, chat)
    options = ("--upgrade", "--wait")
    rig.deploy(chat, CHAT.replace("internal_port", AUTO_STOP))
    with rig.background("client1", *tool_argv("talk", chat.vip, 80, *options)) as talking:
        assert talking.stdout is not None
        assert json.loads(talking.stdout.readline())["repeats"]
        (machine,) = machines(rig, chat)
        stopping = ThreadPoolExecutor(1)
        stopped = stopping.submit(rig.api().post, path("machines", machine["id"], "stop"))
        with pytest.raises(TimeoutError):
            stopped.result(2.5)
        assert states(rig, chat) == ["stopping"]
        assert talking.poll() is None
    assert stopped.result(30)["state"] == "stopped"
    stopping.shutdown()
