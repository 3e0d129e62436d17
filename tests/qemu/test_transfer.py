# SPDX-License-Identifier: Apache-2.0
"""Much at a time, with a daemon that is killed meanwhile: real TCP and UDP
between this machine and a VM, through a host with NICs that offload."""

from __future__ import annotations

import hashlib
import json
import random
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.qemu.region import CLIENTS, Region, booted

MEGABYTE = 1 << 20
SIZE = 50 * MEGABYTE
ANSWERS = 60.0  # seconds; a VM under TCG starts a process for each datagram


@pytest.fixture(scope="module")
def region(accelerator: str) -> Iterator[Region]:
    with booted(accelerator) as made:
        yield made


@contextmanager
def daemon_killed(region: Region) -> Iterator[threading.Event]:
    """Once the event is set, the daemon is killed. Afterwards a new one runs."""
    now = threading.Event()
    failures = []

    def kill() -> None:
        now.wait()
        try:
            region.kill_daemon()
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            failures.append(error)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield now
        assert now.is_set(), "nothing was killed"
    finally:
        now.set()
        killer.join()
        region.start_daemon()
    assert failures == []


def statistics(region: Region, device: str, name: str) -> int:
    return int(region.host.read(f"/sys/class/net/{device}/statistics/{name}"))


def test_the_uplink_runs_native_xdp(region: Region) -> None:
    said = region.host.run("ip -j link show eth0").output
    (link,) = json.loads(said)
    assert link["xdp"]["mode"] == 1  # XDP_ATTACHED_DRV


def test_offloads_are_on(region: Region) -> None:
    """On both NICs of the host, towards the clients and towards the VM."""
    for device in ("eth0", "eth1"):
        said = region.host.run(["ethtool", "-k", device]).output
        for feature in ("tx-checksumming", "tcp-segmentation-offload"):
            assert f"{feature}: on" in said, f"{device}\n{said}"


def test_upload(region: Region) -> None:
    """50 MB from a client to the VM arrive as they were sent."""
    content = random.Random(1).randbytes(MEGABYTE)
    wanted = hashlib.sha256()
    with daemon_killed(region) as now, region.connect(80, CLIENTS[0]) as client:
        client.sendall(f"put {SIZE}\n".encode())
        for number in range(SIZE // MEGABYTE):
            client.sendall(content)
            wanted.update(content)
            if number == 10:
                now.set()
        answer = client.makefile().readline()
    assert answer.split()[0] == wanted.hexdigest()


def numbers(size: int) -> bytes:
    """What ``get`` answers with: 1, 2, 3, … in lines, as much as was asked for."""
    return "".join(f"{number}\n" for number in range(1, size // 6)).encode()[:size]


def test_download(region: Region) -> None:
    """50 MB from the VM to a client, most of it in trains of segments."""
    packets, size = (statistics(region, "eth1", f"rx_{what}") for what in ("packets", "bytes"))
    with daemon_killed(region) as now, region.connect(80, CLIENTS[1]) as client:
        client.sendall(f"get {SIZE}\n".encode())
        came = bytearray()
        while piece := client.recv(MEGABYTE):
            came += piece
            if len(came) > 10 * MEGABYTE:
                now.set()
    assert len(came) == SIZE
    assert bytes(came) == numbers(SIZE)
    packets = statistics(region, "eth1", "rx_packets") - packets
    size = statistics(region, "eth1", "rx_bytes") - size
    assert size >= SIZE
    assert size / packets > 2 * 1514, "the VM's NIC did not leave segmentation to others"


def test_datagrams_of_100_clients(region: Region) -> None:
    """Each gets the answer to what it said, and the VM has seen its address."""
    ends = [region.datagrams(client) for client in CLIENTS]
    with daemon_killed(region) as now:
        for number, end in enumerate(ends):
            end.sendto(f"datagram {number}".encode(), (region.vip, 53))
        answers = receive(ends[:50], region)
        now.set()
        answers += receive(ends[50:], region)
    wanted = [
        f"{client} {end.getsockname()[1]} datagram {number}"
        for number, (client, end) in enumerate(zip(CLIENTS, ends, strict=True))
    ]
    for end in ends:
        end.close()
    assert answers == wanted


def receive(ends: list[socket.socket], region: Region) -> list[str]:
    """One answer for each; "" for those that get none in time."""
    answers = []
    deadline = time.monotonic() + ANSWERS
    for end in ends:
        ready, _, _ = select.select([end], [], [], max(0.0, deadline - time.monotonic()))
        text = ""
        if ready:
            content, source = end.recvfrom(2048)
            assert source == (region.vip, 53)
            text = content.decode().strip()
        answers.append(text)
    return answers
