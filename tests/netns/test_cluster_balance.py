# SPDX-License-Identifier: Apache-2.0
"""Which machine gets what: limits, checks, cordoned machines, drained hosts; real
clients, and servers that hold what they are asked until they are told to answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from flyebpf.api.client import path
from tests.netns.cluster import PATIENCE, Cluster
from tests.netns.rig import TOOLS, App

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[services.concurrency]
type = "requests"
soft_limit = 1
hard_limit = {hard}
[[services.ports]]
port = 80
handlers = ["http"]
[[services.ports]]
port = 81
handlers = ["http"]
http_options = {{ idle_timeout = 1 }}
[[services.ports]]
port = 9001
handlers = ["proxy_proto"]
[[services.ports]]
port = 7000
[[services.http_checks]]
interval = "1s"
grace_period = "1s"
path = "/health"
[checks.nobody]
type = "tcp"
port = 8081
interval = "1s"
"""
NEAR, FAR = ("near1", "near2"), "far"


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> Iterator[App]:
    """Two machines on host1, one in another region; clients come in at host1."""
    with cluster.proxied("host1", "host3"):
        made = cluster.create_app("busy")
        cluster.deploy(made, SERVICES.format(hard=2))
        for name, host in ((NEAR[0], "host1"), (NEAR[1], "host1"), (FAR, "host3")):
            command = (sys.executable, str(TOOLS / "busy.py"), "8080", name)
            cluster.add_vm(made, name, *command, host=host)
        cluster.edge(made.vip, "host1")
        sound = lambda: statuses(cluster).get(SERVICE) == {"passing"}  # noqa: E731
        cluster.until(sound, "their checks pass", PATIENCE)
        cluster.until(lambda: ask(cluster, made, "/") in NEAR, "it is served", PATIENCE)
        yield made
        cluster.destroy_app(made)


def ask(cluster: Cluster, app: App, what: str, port: int = 80) -> str:
    """The name of who answers, else the status."""
    command = ("curl", "-sS", "-m", "20", f"http://{app.vip}:{port}{what}", "-w", "\n%{http_code}")
    body, _, status = cluster.run("client1", *command, check=False).stdout.rpartition("\n")
    return str(json.loads(body)["name"]) if status == "200" else status


def tell(cluster: Cluster, name: str, what: str) -> dict[str, object]:
    """Ask a server from inside its VM."""
    done = cluster.run(name, "curl", "-sS", "-m", "5", f"http://127.0.0.1:8080{what}")
    return dict(json.loads(done.stdout))


def held(cluster: Cluster) -> list[int]:
    return [int(str(tell(cluster, name, "/seen")["held"])) for name in (*NEAR, FAR)]


@contextmanager
def talking(cluster: Cluster, program: str, app: App) -> Iterator[subprocess.Popen[str]]:
    """A program of a client that is spoken to by its standard input."""
    command = cluster.argv("client1", (sys.executable, "-c", program, app.vip))
    with subprocess.Popen(
        command,
        env=cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        running.kill()


def say(running: subprocess.Popen[str]) -> str:
    """A line, and the answer's first word."""
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write("go on\n")
    running.stdin.flush()
    return running.stdout.readline().split()[0]


@contextmanager
def holding(
    cluster: Cluster, app: App, count: int, before: int = 0
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many requests that are being answered, one after another, beside those
    before."""
    with ExitStack() as stack:
        running = []
        url = f"http://{app.vip}/drip"
        command = ("curl", "-sS", "-m", "60", "-o", "/dev/null", url)
        for number in range(before + 1, before + count + 1):
            running.append(stack.enter_context(cluster.background("client1", *command)))
            are_held = lambda n=number: sum(held(cluster)) == n  # noqa: E731
            cluster.until(are_held, f"{number} are held", 10)
        yield running
        for name in (*NEAR, FAR):
            tell(cluster, name, "/release")
        cluster.until(lambda: held(cluster) == [0, 0, 0], "nothing is held", 10)


def test_limits(cluster: Cluster, app: App) -> None:
    """The least loaded of the region, then the next region, then a queue, then 503."""
    with holding(cluster, app, 2):
        assert held(cluster) == [1, 1, 0]
    with holding(cluster, app, 4):
        # What comes before the region is known to be full waits: no longer than a second.
        cluster.until(lambda: ask(cluster, app, "/", 81) == FAR, "the next region helps", 20)
        with holding(cluster, app, 2, 4):
            limits_of_all(cluster, app)


def limits_of_all(cluster: Cluster, app: App) -> None:
    """Nobody has any room: who comes waits, and is served when there is some."""
    assert held(cluster) == [2, 2, 2]
    assert ask(cluster, app, "/", 81) == "503"  # idle for a second
    with cluster.background("client1", "curl", "-sS", f"http://{app.vip}/") as waiting:
        for name in NEAR:
            tell(cluster, name, "/release")
        assert json.loads(waiting.communicate(timeout=20)[0])["name"] in (*NEAR, FAR)


PROXIED = """
import socket, sys
kept = []
while len(kept) < 10_000:
    kept.append(socket.create_connection((sys.argv[1], 9001), 10))
    kept[-1].settimeout(20)
    try:
        kept[-1].sendall(b"PING\\n")
        if not kept[-1].recv(99):
            break
    except ConnectionError:
        break
else:
    sys.exit("none was closed")
"""


def test_limits_behind_proxy_headers(cluster: Cluster, app: App) -> None:
    """Each client has a connection of its own there: one too many is closed."""
    cluster.run("client1", sys.executable, "-c", PROXIED, app.vip)


def statuses(cluster: Cluster) -> dict[str, set[str]]:
    """By check, of all machines."""
    found: dict[str, set[str]] = {}
    for check in cluster.api().get("/v1/checks", {"app": "busy"})["items"]:
        found.setdefault(check["name"], set()).add(check["status"])
    return found


SERVICE = "servicecheck-00-http-8080"


def test_checks(cluster: Cluster, app: App) -> None:
    """Who fails gets nothing new, from the proxy or from the kernel; what goes on does."""
    expected = {SERVICE: {"passing"}, "nobody": {"critical"}}
    cluster.until(lambda: statuses(cluster) == expected, "the results are there", 20)
    with talking(cluster, TALK, app) as kept:
        first = say(kept)
        other = NEAR[NEAR.index(first) - 1]
        tell(cluster, first, "/health/500")
        seen = lambda port: {ask(cluster, app, "/", port) for _ in range(6)}  # noqa: E731
        for port in (80, 7000):
            cluster.until(lambda port=port: seen(port) == {other}, "the other serves", 20)  # type: ignore[misc]
        listed = lambda: cluster.flyebpf("host2", "checks", "list", "-a", "busy")  # noqa: E731
        cluster.until(lambda: listed().count("HTTP 500") == 1, "another host tells why", 20)
        tell(cluster, other, "/health/302")
        for port in (80, 7000):
            cluster.until(lambda port=port: seen(port) == {FAR}, "the next region does", 20)  # type: ignore[misc]
        tell(cluster, FAR, "/health/404")
        cluster.until(lambda: ask(cluster, app, "/") == "503", "nobody does", 20)
        cluster.until(lambda: ask(cluster, app, "/", 7000) == "000", "nor by the kernel", 20)
        assert say(kept) == first
        for name in (*NEAR, FAR):
            tell(cluster, name, "/health/200")
        cluster.until(lambda: seen(80) == set(NEAR), "both serve again", 20)


TALK = """
import socket, sys
stream = socket.create_connection((sys.argv[1], 7000), 10).makefile("rw")
while True:
    stream.write("PING\\n")
    stream.flush()
    print(stream.readline(), end="", flush=True)
    if not sys.stdin.readline():
        break
"""


def test_results_outlive_the_daemon(cluster: Cluster, app: App) -> None:
    """What was found last stands, for all hosts, until it is found otherwise."""
    tell(cluster, FAR, "/health/500")
    cluster.until(lambda: "critical" in statuses(cluster)[SERVICE], "it is seen", 20)
    cluster.daemon("stop", "host3")
    tell(cluster, FAR, "/health/200")
    assert "critical" in statuses(cluster)[SERVICE]
    cluster.daemon("start", "host3")
    cluster.until(lambda: statuses(cluster)[SERVICE] == {"passing"}, "it is found sound", 20)


KEEP = """
import http.client, json, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
for line in sys.stdin:
    connection.request("GET", "/")
    print(json.loads(connection.getresponse().read())["name"], flush=True)
"""


def test_cordon_and_drain(cluster: Cluster, app: App) -> None:
    """Requests of a connection that is kept move on, and what is being answered is
    answered to its end."""
    with talking(cluster, KEEP, app) as kept:
        served = lambda: {say(kept) for _ in range(6)}  # noqa: E731
        with holding(cluster, app, 2) as running:
            first = NEAR[0]
            cluster.machine("cordon", first)
            cluster.until(lambda: served() == {NEAR[1]}, "the other", 20)
            cluster.api().post(path("hosts", "host1", "drain"), {})
            cluster.until(lambda: served() == {FAR}, "the other host", 20)
            assert held(cluster) == [1, 1, 0]
            assert [one.poll() for one in running] == [None, None]
        assert [one.wait(20) for one in running] == [0, 0]
        cluster.api().post(path("hosts", "host1", "undrain"), {})
        cluster.machine("uncordon", first)
        cluster.until(lambda: served() == set(NEAR), "both again", 20)
