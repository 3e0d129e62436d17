# SPDX-License-Identifier: Apache-2.0
"""TCP and UDP through Anycast IPv6 addresses to VMs of the same host."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from flyebpf.api.client import path
from flyebpf.lab import addressing
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root

CLIENT = str(addressing.client_link6(1).node)
ECHO = (sys.executable, "-m", "flyebpf.lab.udp_echo", "--bind", "::", "--port", "5000")


@pytest.fixture(scope="module")
def six(create_app: CreateApp, rig: Rig) -> Iterator[App]:
    """nginx on port 80 and UDP echo servers on 7777; ``vip`` is the IPv6 address."""
    services = service("tcp", 8080, 80), service("udp", 5000, 7777)
    app = create_app("six", *services)
    vip = rig.api().post(path("apps", "six", "addresses"), {"type": "v6"})["address"]
    rig.add_nginx(app, "six1")
    rig.add_vm(app, "six2", *ECHO, "--name", "six2")
    rig.until(lambda: rig.listening("six2", "udp", 5000), "the echo server listens")
    rig.machine("cordon", "six2")
    yield App("six", vip)
    rig.api().post(path("apps", "six", "addresses", "release"), {"addresses": [vip]})


def test_curl_to_nginx(rig: Rig, six: App) -> None:
    """By TCP, in the kernel, the client's address preserved."""
    answer = rig.curl("client1", f"http://[{six.vip}]/")
    assert "in VM six1" in answer
    assert f"sees it: {CLIENT}:" in answer


def test_many_connections(rig: Rig, six: App) -> None:
    ends = ["client2", "six1"]
    for node in ends:  # see test_hitless: probes that say nothing about loss
        rig.run(node, "sysctl", "-qw", "net.ipv4.tcp_early_retrans=0")
    before = rig.lost_segments(ends)
    urls = [f"http://[{six.vip}]/?{number}" for number in range(50)]
    answers = rig.run("client2", "curl", "-sS", "-m", "10", "--no-keepalive", *urls).stdout
    assert answers.count("in VM six1") == 50
    assert rig.lost_segments(ends) == before


def test_large_answers_and_requests(rig: Rig, six: App) -> None:
    """Segments as long as the links take, in trains where the VM makes them."""
    script = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "  def do_POST(self):\n"
        "    body = self.rfile.read(int(self.headers['Content-Length']))\n"
        "    self.send_response(200); self.end_headers(); self.wfile.write(body[::-1])\n"
        "  def log_message(self, *a): pass\n"
        "import socket; h.HTTPServer.address_family = socket.AF_INET6\n"
        "h.HTTPServer(('::', 8081), H).serve_forever()"
    )
    rig.deploy(six, service("tcp", 8081, 81), service("tcp", 8080, 80), service("udp", 5000, 7777))
    sent = "head -c 3000000 /dev/zero | tr '\\0' x"
    with rig.background("six1", sys.executable, "-c", script):
        rig.until(lambda: rig.listening("six1", "tcp", 8081), "the server listens")
        url = f"http://[{six.vip}]:81/"
        command = f"{sent} | curl -sS -m 20 --data-binary @- {url} | tr -d x | wc -c; "
        count = f"{sent} | curl -sS -m 20 --data-binary @- {url} | wc -c"
        assert rig.run("client1", "sh", "-c", command + count).stdout.split() == ["0", "3000000"]


def test_udp(rig: Rig, six: App) -> None:
    rig.machine("uncordon", "six2")
    rig.machine("cordon", "six1")
    command = f"echo hi | socat -t 2 - UDP6:[{six.vip}]:7777,sourceport=4321"
    answer = rig.run("client1", "sh", "-c", command).stdout
    assert answer.startswith(f"six2 saw {CLIENT}:4321 say hi")
    long = f"head -c 4000 /dev/zero | tr '\\0' x | socat -b 8192 -t 2 - UDP6:[{six.vip}]:7777"
    assert rig.run("client1", "sh", "-c", long).stdout.endswith("x" * 4000), "in fragments"
    rig.machine("uncordon", "six1")
    rig.machine("cordon", "six2")


def test_an_icmp_error_of_the_vm_reaches_the_client(rig: Rig, six: App) -> None:
    """Nothing listens on UDP in six1: its port-unreachable becomes the client's."""
    script = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(2)\n"
        f"s.connect(('{six.vip}', 7777)); s.send(b'x')\n"
        "try: s.recv(1)\nexcept ConnectionRefusedError: print('refused')"
    )
    assert rig.run("client1", sys.executable, "-c", script, check=False).stdout == "refused\n"


def test_ping_and_a_closed_port(rig: Rig, six: App) -> None:
    assert " 0% packet loss" in rig.run("client1", "ping", "-c", "3", "-i", "0.2", six.vip).stdout
    with rig.dropping("no_service"):
        rig.cannot_curl("client1", f"http://[{six.vip}]:9/")


def test_both_families_lead_to_one_machine(rig: Rig, six: App) -> None:
    """Of one app, at the same time; the counters tell the addresses apart."""
    addresses = rig.api().get(path("addresses"), {"app": "six"})["items"]
    assert sorted(item["type"] for item in addresses) == ["v4", "v6"]
    for item in addresses:
        vip = item["address"]
        host = f"[{vip}]" if ":" in vip else vip
        assert "in VM six1" in rig.curl("client1", f"http://{host}/")


def test_nothing_else_leaves_a_vm(rig: Rig, six: App) -> None:
    """It has no public IPv6 address of its own, nor may it use the VIP's."""
    with rig.dropping("ipv6"):
        rig.run("six1", "ping", "-c", "1", "-W", "1", CLIENT, check=False)
    rig.run("six1", "ip", "address", "add", f"{six.vip}/128", "dev", "eth0", "nodad")
    with rig.dropping("spoofed_ip"):
        rig.run("six1", "ping", "-c", "1", "-W", "1", "-I", six.vip, CLIENT, check=False)
    rig.run("six1", "ip", "address", "del", f"{six.vip}/128", "dev", "eth0")
