# SPDX-License-Identifier: Apache-2.0
"""The lab's own command line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.lab import net, process
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def app(create_app: CreateApp, rig: Rig) -> App:
    made = create_app("lab-web", service("tcp", 8080, 80))
    rig.add_nginx(made, "vm1")
    return made


@pytest.fixture
def second() -> Iterator[Rig]:
    """Names for another lab; taken down whatever the test did."""
    made = Rig(f"u{os.getpid()}", Path(f"/run/flyebpf-test-{os.getpid()}-second"))
    yield made
    made.command("lab", "down")


def test_exec_passes_on_output_input_and_exit_code(rig: Rig) -> None:
    done = rig.command("lab", "exec", "client1", "--", "sh", "-c", "echo out; exit 7", check=False)
    assert (done.stdout, done.returncode) == ("out\n", 7)
    argv = rig.argv("client1", ["cat"])
    assert subprocess.run(argv, input=b"in", capture_output=True, check=True).stdout == b"in"


def test_exec_of_an_unknown_node_names_the_likely_one(rig: Rig) -> None:
    done = rig.command("lab", "exec", "clent1", "--", "true", check=False)
    assert done.returncode == 1
    assert "no node 'clent1'" in done.stderr
    assert "Did you mean 'client1'? Its nodes: client1, client2, host1" in done.stderr


def test_exec_without_a_command_is_wrong_use(rig: Rig) -> None:
    assert rig.command("lab", "exec", "client1", check=False).returncode == 2


def test_exec_of_an_unknown_command_is_127_as_in_a_shell(rig: Rig) -> None:
    done = rig.command("lab", "exec", "client1", "--", "no-such-command", check=False)
    assert done.returncode == 127
    assert done.stderr == "Error: no-such-command: no such command on client1\n"


def test_a_path_without_sbin_is_enough(rig: Rig) -> None:
    done = subprocess.run(
        [*flyebpf_argv(), "lab", "exec", "client1", "--", "nft", "--version"],
        env={**rig.environment, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("nftables")


def test_exec_on_a_host_reaches_its_daemon(rig: Rig) -> None:
    script = "flyebpf status --json"
    done = rig.command("lab", "exec", "host1", "--", "sh", "-c", script)
    assert json.loads(done.stdout)["host"] == "host1"


def test_list_shows_every_node(rig: Rig, app: App) -> None:
    nodes = {node["name"]: node for node in json.loads(rig.command("lab", "list", "--json").stdout)}
    assert {name: nodes[name]["kind"] for name in ("router", "client2", "host1", "vm1")} == {
        "router": "router",
        "client2": "client",
        "host1": "host",
        "vm1": "vm",
    }
    assert all(node["state"] == "up" for node in nodes.values())
    assert nodes["vm1"]["address"] == rig.vm("vm1").private_ip
    assert "vm1" in rig.command("lab", "list").stdout


def test_up_when_it_is_up_says_so(rig: Rig) -> None:
    assert "up already" in rig.command("lab", "up").stdout


def test_up_with_other_numbers_than_there_are_is_refused(rig: Rig) -> None:
    done = rig.command("lab", "up", "--hosts", "3", check=False)
    assert done.returncode == 1
    assert "a lab is up already, with" in done.stderr
    assert "flyebpf lab down" in done.stderr


def test_a_vm_is_as_the_contract_says(rig: Rig, app: App) -> None:
    vm = rig.vm("vm1")
    done = rig.command("lab", "exec", "vm1", "--", "cat", "/etc/hosts", "/etc/resolv.conf")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [vm.services_ip, "fly-global-services"] in lines
    assert ["nameserver", "fdaa::3"] in lines
    assert any("fly-local-6pn" in line and line[0].startswith("fdaa:") for line in lines)
    env = rig.command("lab", "exec", "vm1", "--", "env").stdout.splitlines()
    assert f"FLY_APP_NAME={app.name}" in env
    assert f"FLY_MACHINE_ID={vm.machine}" in env
    assert "FLY_REGION=ams" in env
    assert "FLY_PROCESS_GROUP=app" in env
    assert any(entry.startswith("FLY_PRIVATE_IP=fdaa:") for entry in env)
    assert vm.private_ip in rig.run("vm1", "ip", "-4", "address", "show", "eth0").stdout
    assert f"src {vm.private_ip}" in rig.run("vm1", "ip", "route", "get", "192.0.2.2").stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--host", "host9", "-a", "lab-web"], "no host 'host9'"),
        (["--host", "host1", "-a", "nothere"], "nothere"),
        (["--host", "host1", "-a", "lab-web", "--name", "vm1"], "a node 'vm1' already"),
        (["--host", "host1", "-a", "lab-web", "--name", "client1"], "a node 'client1' already"),
        (["--host", "host1", "-a", "lab-web", "--name", "No_Name"], "cannot be a VM's name"),
        (["--host", "host1", "-a", "lab-web", "--name", "thirteen-long"], "cannot be a VM's name"),
        (["--host", "host1", "-a", "lab-web", "--", "/does/not/exist"], "ended at once"),
    ],
)
def test_a_vm_that_cannot_be_added_leaves_nothing(
    rig: Rig, app: App, arguments: list[str], complaint: str
) -> None:
    before = (set(rig.lab.vms), set(rig.lab.ledger.namespaces), machines(rig))
    done = rig.command("lab", "vm", "add", *arguments, check=False)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert (set(rig.lab.vms), set(rig.lab.ledger.namespaces), machines(rig)) == before


def machines(rig: Rig) -> set[str]:
    return {item["id"] for item in rig.api().get("/v1/machines")["items"]}


def test_removing_a_vm_removes_its_machine_and_namespace(rig: Rig, app: App) -> None:
    vm = rig.add_vm(app, "gone")
    rig.remove_vm(app, "gone")
    assert vm.machine not in machines(rig)
    assert not net.exists(vm.namespace)
    assert not net.has_link(rig.host().namespace, vm.interface)
    assert not (net.NETNS_CONFIG / vm.namespace).exists()
    done = rig.command("lab", "vm", "remove", "gone", check=False)
    assert done.returncode == 1
    assert "no VM 'gone'" in done.stderr


def test_down_leaves_no_trace_and_can_be_repeated(second: Rig) -> None:
    second.command("lab", "up", "--empty")
    daemon = second.host().daemon
    assert process.alive(daemon)
    second.create_app("short-lived", service("tcp", 8080, 80))
    second.add_nginx(App("short-lived", ""), "vm1")
    assert traces(second)
    said = second.command("lab", "down").stdout
    assert "deleted the network namespace" in said
    assert traces(second) == []
    assert not process.alive(daemon)
    assert "There is no lab" in second.command("lab", "down").stdout


def test_up_that_fails_removes_its_own_and_nothing_else(second: Rig) -> None:
    foreign = f"{second.name}-host1"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        done = second.command("lab", "up", "--empty", check=False)
        assert done.returncode == 1
        assert foreign in done.stderr
        assert traces(second) == [f"/run/netns/{foreign}"]
    finally:
        subprocess.run(["ip", "netns", "delete", foreign], check=True)


def test_up_restarts_daemons_and_names_what_is_gone(second: Rig) -> None:
    second.command("lab", "up", "--empty")
    second.command("lab", "daemon", "stop", "--kill", "host1")
    assert "host1    starting its daemon" in second.command("lab", "up").stdout
    assert process.alive(second.host().daemon)
    subprocess.run(["ip", "netns", "delete", f"{second.name}-client1"], check=True)
    done = second.command("lab", "up", check=False)
    assert done.returncode == 1
    assert "the network namespaces of client1" in done.stderr


def test_up_that_is_told_to_end_removes_what_it_made(second: Rig) -> None:
    with subprocess.Popen(
        ["env", "PYTHONUNBUFFERED=1", *flyebpf_argv(), "lab", "up", "--empty"],
        env=second.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if "starting its daemon" in line:
                break
        up.terminate()
        assert "was interrupted; removing what was made" in up.stdout.read()
    assert up.returncode == 128 + 15
    assert traces(second) == []


def test_up_whose_reader_leaves_removes_what_it_made(second: Rig) -> None:
    with subprocess.Popen(
        [*flyebpf_argv(), "lab", "up", "--empty"],
        env=second.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as up:
        assert up.stdout is not None
        up.stdout.readline()
        up.stdout.close()
    assert up.returncode == 1
    assert traces(second) == []


def test_down_cleans_up_after_an_interrupted_up(second: Rig) -> None:
    with subprocess.Popen(
        ["env", "PYTHONUNBUFFERED=1", *flyebpf_argv(), "lab", "up", "--empty"],
        env=second.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            if "starting its daemon" in line:
                break
        up.kill()
    assert traces(second)
    done = second.command("lab", "exec", "host1", "--", "true", check=False)
    assert done.returncode == 1
    assert "in parts only" in done.stderr
    second.command("lab", "down")
    assert traces(second) == []


@pytest.mark.parametrize("arguments", [["--hosts", "0"], ["--hosts", "17"], ["--clients", "65"]])
def test_a_lab_too_large_or_empty_is_refused(second: Rig, arguments: list[str]) -> None:
    done = second.command("lab", "up", *arguments, check=False)
    assert done.returncode == 2
    assert "is not in the range 1<=x<=" in done.stderr
    assert traces(second) == []


def test_a_folder_that_is_no_lab_is_not_deleted(second: Rig) -> None:
    root = second.where.root
    root.mkdir()
    (root / "precious").write_text("data")
    try:
        done = second.command("lab", "down", check=False)
        assert done.returncode == 1
        assert "not a lab's folder" in done.stderr
        assert (root / "precious").read_text() == "data"
        assert second.command("lab", "up", "--empty", check=False).returncode == 1
        assert (root / "precious").read_text() == "data"
    finally:
        (root / "precious").unlink()
        root.rmdir()


def flyebpf_argv() -> list[str]:
    import sys

    return [sys.executable, "-m", "flyebpf"]


def traces(rig: Rig) -> list[str]:
    """Everything on this machine that bears the lab's name."""
    found = [str(p) for p in net.NETNS_DIR.glob(f"{rig.name}-*")]
    found += [str(p) for p in net.NETNS_CONFIG.glob(f"{rig.name}-*")]
    root = str(rig.where.root)
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [line for line in mounts if line.split()[1].startswith(root + "/")]
    if rig.where.root.exists():
        found.append(root)
    return found
