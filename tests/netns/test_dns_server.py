# SPDX-License-Identifier: Apache-2.0
"""The DNS process as VMs meet it: over real interfaces, by real clients."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.dns import frames
from flyebpf.dns.forward import ForwardConfig
from flyebpf.dns.limits import LimitsConfig
from flyebpf.dns.server import ServerConfig
from tests.dns_rig import WORLD, at, machine, question, reply
from tests.netns.dns_net import SERVER, Client, DnsNet, framed, is_silent, read_framed, run

RECORDS = (*WORLD, *(machine(100 + number, app="db", host="h2") for number in range(200)))
WEB = sorted([at(16), at(17, "h2"), at(18, "h3")])
LIMITS = LimitsConfig(
    rate=500, burst=500, connections=8, connection_rate=50, connection_burst=100, idle=1.5
)
RESOLVER = "127.0.0.53"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsNet]:
    if os.geteuid() != 0:
        pytest.fail("these tests need root: run sudo scripts/test netns", pytrace=False)
    made = DnsNet(
        tmp_path_factory.mktemp("dns"),
        {"alice": at(16), "bob": at(17, "h1"), "mallory": at(50, network=3)},
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def config(net: DnsNet) -> frames.ProcessConfig:
    return frames.ProcessConfig(
        str(net.directory / "dns.sock"),
        ("::",),
        server=ServerConfig(ForwardConfig((f"{RESOLVER}:53",)), LIMITS),
    )


@pytest.fixture(scope="module", autouse=True)
def server(net: DnsNet, config: frames.ProcessConfig) -> Iterator[int]:
    """Its pid. At the end: no exception has been logged."""
    net.spawn("tests.dns_resolver", RESOLVER, "53")
    yield net.serve(config, RECORDS).pid
    log = net.log()
    assert "Traceback" not in log
    assert "fault" not in log


@pytest.fixture
def alice(net: DnsNet) -> Client:
    """A machine of acme/default."""
    return net.clients["alice"]


@pytest.fixture
def bob(net: DnsNet) -> Client:
    """Another one."""
    return net.clients["bob"]


@pytest.fixture
def mallory(net: DnsNet) -> Client:
    """A machine of globex/default."""
    return net.clients["mallory"]


def counts(net: DnsNet, config: frames.ProcessConfig) -> dict[str, int]:
    connection = net.control(config)
    try:
        found: dict[str, int] = connection.call("metrics")["counts"]
    finally:
        connection.close()
    return found


def recovered() -> None:
    """Wait until earlier tests' queries do not count against the rate any more."""
    time.sleep(LIMITS.burst / LIMITS.rate)


def test_it_has_no_rights(server: int) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{server}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert (status["CapEff"], status["CapPrm"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")


def test_it_takes_all_the_files_that_it_may_have(server: int) -> None:
    (line,) = (
        line
        for line in Path(f"/proc/{server}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    )
    soft, hard = line.split()[3:5]
    assert soft == hard
    assert int(Path(f"/proc/{server}/oom_score_adj").read_text()) >= 0


def is_cut_off(client: Client, source: str = "", server: str = SERVER) -> bool:
    """The reset may come while the client still connects."""
    try:
        stream = client.tcp(source, server)
        stream.send(framed(question("web.internal")))
        return stream.recv(1) == b""
    except ConnectionError:
        return True


# Who asks.


def test_each_network_has_its_own_names(alice: Client, mallory: Client) -> None:
    assert sorted(alice.ask(question("web.internal")).data) == WEB
    assert alice.ask(question("secret.internal")).rcode == "NXDOMAIN"
    assert mallory.ask(question("web.internal")).rcode == "NXDOMAIN"
    assert mallory.ask(question("secret.internal")).data == [at(50, network=3)]


def test_the_network_has_a_server_address_of_its_own(alice: Client) -> None:
    assert alice.ask(question("_api.internal"), server="fdaa:0:1::3").data == ["fdaa:0:1::3"]


def test_another_networks_server_address_is_silent(alice: Client) -> None:
    sock = alice.udp(server="fdaa:0:3::3")
    sock.send(question("web.internal"))
    assert is_silent(sock)
    assert is_cut_off(alice, server="fdaa:0:3::3")


@pytest.mark.parametrize("source", ["fdaa:0:1::99", "fdaa::99", "2001:db8::9", "fd00::9"])
def test_others_are_not_answered(net: DnsNet, alice: Client, source: str) -> None:
    run("ip", "-n", net.host, "route", "add", f"{source}/128", "dev", "vm0")
    with alice.another_address(f"{source}/128"):
        sock = alice.udp(source)
        sock.send(question("web.internal"))
        assert is_silent(sock)
        assert is_cut_off(alice, source)


def test_any_address_of_the_machine_may_ask(alice: Client) -> None:
    other = f"{alice.address[:-1]}99"
    with alice.another_address(f"{other}/112"):
        sock = alice.udp(other)
        sock.send(question("web.internal"))
        assert len(reply(sock.recv(4096)).data) == 3


# Messages.


def test_malformed_queries(alice: Client) -> None:
    sock = alice.udp()
    for message in (b"x", b"x" * 11, b"\0\1\x81\0" + bytes(8), question("a.b")[:2] + b"\xff" * 50):
        sock.send(message)
    assert is_silent(sock)
    for message in (b"\0\1\1\0" + bytes(8), question("web.internal") + b"junk"):
        sock.send(message)
        assert reply(sock.recv(512)).rcode == "FORMERR"
    sock.send(b"\0\1\x28\0" + bytes(8))
    assert reply(sock.recv(512)).rcode == "NOTIMP"


def test_truncation_and_tcp(alice: Client) -> None:
    for values, most in (({}, 512), ({"use_edns": 0, "payload": 4096}, 1232)):
        by_udp = alice.ask(question("db.internal", **values))
        assert by_udp.truncated
        assert by_udp.size <= most
    stream = alice.tcp()
    stream.send(framed(question("db.internal")))
    assert len(reply(read_framed(stream)).data) == 200


def test_pipelined_queries_by_tcp(alice: Client) -> None:
    recovered()
    stream = alice.tcp()
    names = ("web.internal", "nobody.internal", "www.example", "fra.web.internal")
    sent = {number: names[number % 4] for number in range(400)}
    stream.sendall(b"".join(framed(question(name, id=n)) for n, name in sent.items()))
    while sent:
        found = reply(read_framed(stream))
        name = sent.pop(found.message.id)
        assert str(found.message.question[0].name) == f"{name}."
        assert (found.rcode == "NXDOMAIN") == (name == "nobody.internal")


def test_one_byte_at_a_time(alice: Client) -> None:
    stream = alice.tcp()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in framed(question("web.internal")):
        stream.send(bytes([byte]))
        time.sleep(0.002)
    assert len(reply(read_framed(stream)).data) == 3


def test_a_client_that_has_said_all_gets_all(alice: Client) -> None:
    stream = alice.tcp()
    stream.sendall(framed(question("www.example", "A")) + framed(question("web.internal")))
    stream.shutdown(socket.SHUT_WR)
    found = [reply(read_framed(stream)) for _ in range(2)]
    assert sorted(len(one.data) for one in found) == [1, 3]
    assert stream.recv(1) == b""


@pytest.mark.parametrize("said", [b"", b"\0", framed(question("web.internal"))[:-1]])
def test_idle_connections_are_closed(alice: Client, said: bytes) -> None:
    stream = alice.tcp()
    stream.sendall(said)
    begun = time.monotonic()
    assert stream.recv(1) == b""
    assert LIMITS.idle * 0.9 < time.monotonic() - begun < LIMITS.idle + 2


def test_a_client_that_takes_nothing_is_cut_off(
    net: DnsNet, config: frames.ProcessConfig, bob: Client, alice: Client, server: int
) -> None:
    recovered()
    before = counts(net, config)["connections_idle"]
    stream = alice.tcp()
    stream.settimeout(10)
    sent = 0
    with contextlib.suppress(OSError):  # reset, broken pipe or timeout, as it comes
        for number in range(100_000):
            stream.sendall(framed(question("db.internal", id=number & 0xFFFF)))
            sent += 1
            if number % 1000 == 0:
                assert len(bob.ask(question("web.internal")).data) == 3
    assert 100 < sent < 100_000
    assert counts(net, config)["connections_idle"] > before
    resident = int(Path(f"/proc/{server}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    assert resident < 150e6


def test_connections_of_one_machine_are_limited(
    net: DnsNet, config: frames.ProcessConfig, alice: Client, bob: Client
) -> None:
    time.sleep(LIMITS.idle + 0.5)
    before = counts(net, config)["connections_refused"]
    streams = []
    for _ in range(20):
        with contextlib.suppress(ConnectionResetError):
            streams.append(alice.tcp())
    time.sleep(0.3)
    assert counts(net, config)["connections_refused"] - before == 20 - LIMITS.connections
    stream = bob.tcp()
    stream.send(framed(question("web.internal")))
    assert len(reply(read_framed(stream)).data) == 3
    for stream in streams:
        stream.close()
    time.sleep(0.3)
    stream = alice.tcp()
    stream.send(framed(question("web.internal")))
    assert len(reply(read_framed(stream)).data) == 3


def test_a_flood_of_connections_is_reset_and_costs_no_other(
    net: DnsNet, config: frames.ProcessConfig, alice: Client, bob: Client
) -> None:
    time.sleep(LIMITS.connection_burst / LIMITS.connection_rate)
    before = counts(net, config)
    made = 0
    for _ in range(300):
        with contextlib.suppress(ConnectionError):
            alice.tcp().close()
            made += 1
        alice.sockets.pop().close()
    after = counts(net, config)
    assert after["connections_refused"] - before["connections_refused"] > 50
    assert after["connections"] - before["connections"] < 300
    stream = bob.tcp()
    stream.send(framed(question("web.internal")))
    assert len(reply(read_framed(stream)).data) == 3
    time.sleep(LIMITS.connection_burst / LIMITS.connection_rate)
    stream = alice.tcp()
    stream.send(framed(question("web.internal")))
    assert len(reply(read_framed(stream)).data) == 3


def test_a_flood_of_one_machine_does_not_starve_another(
    net: DnsNet, config: frames.ProcessConfig, alice: Client, bob: Client
) -> None:
    """From many ports and addresses of the machine, as fast as it can."""
    recovered()
    before = counts(net, config)["limited"]
    ended = threading.Event()
    message = question("web.internal")
    sockets = [alice.udp() for _ in range(16)]

    def flood() -> None:
        while not ended.is_set():
            for sock in sockets:
                for _ in range(20):
                    sock.send(message)

    thread = threading.Thread(target=flood)
    thread.start()
    times = []
    try:
        sock = bob.udp()
        for number in range(200):
            begun = time.monotonic()
            sock.send(question("web.internal", id=number))
            assert reply(sock.recv(4096)).message.id == number
            times.append(time.monotonic() - begun)
            time.sleep(0.005)
    finally:
        ended.set()
        thread.join()
    limited = counts(net, config)["limited"] - before
    assert limited > 5_000, "that was no flood"
    assert sorted(times)[190] < 0.1
    recovered()
    assert len(alice.ask(message).data) == 3


def test_noise(alice: Client, bob: Client) -> None:
    recovered()
    dice = random.Random(9)
    sock = alice.udp()
    for _ in range(400):
        sock.send(dice.randbytes(dice.randrange(1, 200)))
    for _ in range(10):
        stream = alice.tcp()
        stream.sendall(dice.randbytes(500))
        stream.close()
    assert len(bob.ask(question("web.internal")).data) == 3


# The world.


def test_names_of_the_world_are_forwarded(alice: Client) -> None:
    found = alice.ask(question("www.example", "A"))
    assert (found.rcode, found.data) == ("NOERROR", ["192.0.2.7"])
    assert alice.ask(question("nobody.test", "A")).rcode == "NXDOMAIN"
    cut = alice.ask(question("long.example", "TXT"))
    assert cut.truncated
    stream = alice.tcp()
    stream.send(framed(question("long.example", "TXT")))
    assert len(reply(read_framed(stream)).text) == 2000


# Real clients.


def test_dig(alice: Client) -> None:
    for options in (
        (),
        ("+tcp",),
        ("+noedns",),
        ("+bufsize=4096", "+dnssec"),
        ("+keepopen", "+tcp"),
    ):
        found = alice.run("dig", "+short", *options, "AAAA", "web.internal", "AAAA", "db.internal")
        assert sorted(found.stdout.split()[:3]) == WEB
        assert len(found.stdout.split()) == 203
    assert "status: BADVERS" in alice.run("dig", "+edns=9", "+noednsneg", "web.internal").stdout
    plain = alice.run("dig", "-x", at(16)).stdout
    assert f"{16:014x}.vm.web.internal." in plain
    assert "WARNING" not in plain


def test_getent(alice: Client) -> None:
    found = alice.run("getent", "ahostsv6", "web.internal").stdout
    assert sorted({line.split()[0] for line in found.splitlines()}) == WEB
    assert alice.run("getent", "ahosts", "secret.internal", check=False).returncode == 2
    assert alice.run("getent", "hosts", at(16)).stdout.split()[1] == f"{16:014x}.vm.web.internal"
    assert "2001:db8::7" in alice.run("getent", "ahostsv6", "www.example").stdout


def test_busybox(alice: Client) -> None:
    found = alice.run("busybox", "nslookup", "-type=aaaa", "web.internal", SERVER).stdout
    assert all(address in found for address in WEB)


def test_python(alice: Client) -> None:
    script = (
        "import socket; print(sorted({a[4][0] for a in socket.getaddrinfo("
        "'web.internal', 80, socket.AF_UNSPEC)}))"
    )
    assert alice.run(sys.executable, "-c", script).stdout.strip() == str(WEB)


def test_node(alice: Client) -> None:
    script = (
        "const d = require('dns').promises; (async () => { console.log(JSON.stringify(["
        "(await d.resolve6('web.internal')).sort(), await d.resolveTxt('_apps.internal'),"
        "(await d.lookup('web.internal', {all: true})).map(a => a.address).sort(),"
        f"await d.reverse('{at(16)}'), (await d.resolve6('db.internal')).length,"
        "await d.resolve4('web.internal').catch(e => e.code),"
        "await d.resolve6('nobody.internal').catch(e => e.code)])) })()"
    )
    assert json.loads(alice.run("node", "-e", script).stdout) == [
        *(WEB, [["db,empty,web"]], WEB, [f"{16:014x}.vm.web.internal"], 200, "ENODATA", "ENOTFOUND")
    ]


def test_curl(alice: Client) -> None:
    done = alice.run("curl", "-sv", "--max-time", "1", "http://web.internal:8080", check=False)
    assert any(
        f"Trying {address}:8080" in done.stderr.replace("[", "").replace("]", "") for address in WEB
    )


# Taking over.


def test_a_new_process_takes_over_without_a_lost_query(
    net: DnsNet, config: frames.ProcessConfig, alice: Client
) -> None:
    """As the daemon does it when configuration or code have changed."""
    recovered()
    old = net.control(config)
    pid = old.hello().pid
    ended = threading.Event()
    missing = []

    def load() -> None:
        sock = alice.udp()
        sock.settimeout(1.0)
        while not ended.is_set():
            sock.send(question("web.internal"))
            try:
                assert len(reply(sock.recv(4096)).data) == 3
            except TimeoutError:
                missing.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        other = replace(config, server=replace(config.server, limits=replace(LIMITS, rate=501)))
        net.spawn("flyebpf.dns.process", other.to_json())
        for _ in range(200):
            new = net.control(config)
            if new.hello().pid != pid:
                break
            new.close()
            time.sleep(0.05)
        assert new.hello().pid != pid
        new.call("begin")
        new.call("records", records=list(frames.records(RECORDS)))
        new.call("commit", revision=2)
        old.call("stop")
        time.sleep(1)
    finally:
        ended.set()
        thread.join()
        old.close()
    assert new.hello().revision == 2
    new.close()
    assert (
        not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    )
    assert not missing
