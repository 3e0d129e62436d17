# SPDX-License-Identifier: Apache-2.0
"""A lab of several hosts as a rig."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flyebpf.api.client import path
from flyebpf.lab import addressing, etcd, hosts, process, routes, state, vms
from flyebpf.lab.state import Vm
from tests.netns.rig import ORG, App, Rig, tool_argv

PATIENCE = 30.0  # seconds until every host has what one of them was told


class Cluster(Rig):
    """Changes go to ``host1`` unless said otherwise; :meth:`settle` waits for all."""

    @property
    def hosts(self) -> list[str]:
        return list(self.lab.hosts)

    # Apps and VMs.

    def create_app(
        self, name: str, *services: str, org: str = ORG, network: str = "default", vip: bool = True
    ) -> App:
        api = self.api()
        if org not in {item["name"] for item in api.get(path("orgs"))["items"]}:
            api.post(path("orgs"), {"name": org})
        api.post(path("apps"), {"name": name, "org": org, "network": network})
        app = App(name, "")
        if vip:
            app.vip = api.post(path("apps", name, "addresses"), {"type": "v4"})["address"]
        if services:
            self.deploy(app, *services)
        return app

    def destroy_app(self, app: App) -> None:
        for name in list(app.vms):
            self.delete_vm(app, name)
        api = self.api()
        if app.vip:
            api.post(path("apps", app.name, "addresses", "release"), {"addresses": [app.vip]})
        api.delete(path("apps", app.name))
        self.settle()

    def add_vm(self, app: App, name: str, *command: str, host: str = "host1") -> Vm:
        made = self.make_vm(app, name, *command, host=host)
        self.settle()
        return made

    def make_vm(self, app: App, name: str, *command: str, host: str = "host1") -> Vm:
        """Without waiting for the other hosts, and without a process for the command line."""
        with state.locked(self.where):
            made = vms.add(
                self.where, self.lab, host=host, app=app.name, name=name, command=command
            )
        app.vms.append(name)
        return made

    def delete_vm(self, app: App, name: str) -> None:
        with state.locked(self.where):
            vms.remove(self.where, self.lab, name)
        app.vms.remove(name)

    def remove_vm(self, app: App, name: str) -> None:
        self.delete_vm(app, name)
        self.settle()

    # Hosts and etcd.

    def flyebpf(self, host: str, *arguments: str, check: bool = True) -> str:
        """A command of the command line on a host; its output."""
        command = [sys.executable, "-m", "flyebpf", *arguments]
        done = subprocess.run(
            self.argv(host, command),
            env={**self.environment, "FLYEBPF_SOCKET": self.host(host).socket},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"{host}$ flyebpf {arguments}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def edge(self, target: str, *names: str) -> None:
        """Packets for ``target`` reach the cluster at these hosts."""
        routes.send(self.lab, target, names)

    def daemon(self, verb: str, host: str, *options: str) -> None:
        self.command("lab", "daemon", verb, *options, host)

    @contextmanager
    def without_etcd(self, *members: str, pause: bool = False) -> Iterator[None]:
        """These members (or all) are killed, or hang, inside the block."""
        names = members or tuple(self.lab.members)
        self.command("lab", "etcd", "stop", "--pause" if pause else "--kill", *names)
        try:
            yield
        finally:
            self.command("lab", "etcd", "start", *names)
            etcd.wait_healthy(self.where, self.lab)

    @contextmanager
    def dead(self, host: str) -> Iterator[None]:
        """The host has lost its daemon and its links inside the block."""
        self.daemon("stop", host, "--kill")
        links = ("uplink", "fabric")
        for link in links:
            self.run(host, "ip", "link", "set", link, "down")
        try:
            yield
        finally:
            for link in links:
                self.run(host, "ip", "link", "set", link, "up")
            router = str(addressing.host_link(self.host(host).number).router)
            self.run(host, "ip", "route", "replace", "default", "via", router)
            self.daemon("start", host)
            self.settle()

    @contextmanager
    def reconfigured(self, host: str, section: str, *lines: str) -> Iterator[None]:
        """The host's daemon restarted with more lines in a section of its file."""
        config = self.where.host(host) / "flyebpf.toml"
        before = config.read_text()
        head = f"[{section}]\n"
        assert head in before
        config.write_text(before.replace(head, head + "\n".join(lines) + "\n"))
        try:
            self.restart(host)
            yield
        finally:
            config.write_text(before)
            self.restart(host)

    @contextmanager
    def proxied(self, *names: str) -> Iterator[None]:
        """These hosts run a proxy inside the block, and can start their VMs."""
        files = {name: self.where.host(name) / "flyebpf.toml" for name in names}
        before = {name: file.read_text() for name, file in files.items()}
        try:
            for name, file in files.items():
                more = '\n[proxy]\nengine = "envoy"\nworkers = 1\n'
                file.write_text(before[name] + more + hosts.machine_commands(self.where))
                self.restart(name)
            yield
        finally:
            for name, file in files.items():
                file.write_text(before[name])
                self.restart(name)

    @contextmanager
    def block(self, host: str, cidr: str) -> Iterator[None]:
        """The host, which has no machines, gives out addresses of ``cidr`` alone."""
        config = self.where.host(host) / "flyebpf.toml"
        before = config.read_text()
        own = str(addressing.private_block(self.host(host).number))
        config.write_text(before.replace(f'block = "{own}"', f'block = "{cidr}"'))
        try:
            self.restart(host)
            yield
        finally:
            config.write_text(before)
            self.restart(host)

    def move_vm(self, name: str, host: str) -> Vm:
        with state.locked(self.where):
            moved = vms.move(self.where, self.lab, name, host)
        self.settle()
        return moved

    def restart(self, host: str) -> None:
        self.daemon("stop", host)
        self.daemon("start", host)
        self.settle()

    def settle(self, host: str = "") -> None:
        """Wait until the kernels of all hosts (or one) hold what the store says now."""
        names = [host] if host else self.hosts
        running = [name for name in names if process.alive(self.host(name).daemon)]
        target = max(self.revision(name) for name in running)
        for name in running:
            self.until(
                lambda name=name: self.applied(name, target),  # type: ignore[misc]
                f"{name} applies revision {target}",
                PATIENCE,
            )

    def revision(self, host: str) -> int:
        return int(self.api(host).get("/v1/status")["store_revision"])

    def applied(self, host: str, revision: int) -> bool:
        status = self.api(host).get("/v1/status")
        return int(status["applied_revision"]) >= revision and not status["pending"]

    # Observation.

    def all_drops(self) -> dict[str, int]:
        """Packets dropped so far on all hosts, by reason."""
        total: dict[str, int] = {}
        for host in self.hosts:
            for reason, packets in self.drops(host).items():
                total[reason] = total.get(reason, 0) + packets
        return total

    def sixpn(self, name: str) -> str:
        return self.vm(name).sixpn

    @contextmanager
    def counting(self, address: str) -> Iterator[dict[str, int]]:
        """Bytes for an address that the router gets from each host inside the
        block; the dictionary is filled when it has been left."""
        rules = "".join(
            f'add rule ip count forward iifname "{host}" ip daddr {address} counter\n'
            for host in self.hosts
        )
        hook = "{ type filter hook forward priority 0; }"
        table = f"add table ip count\nadd chain ip count forward {hook}\n{rules}"
        self.run("router", "nft", table)
        found: dict[str, int] = {}
        try:
            yield found
            listed = json.loads(
                self.run("router", "nft", "-j", "list", "table", "ip", "count").stdout
            )
            for item in listed["nftables"]:
                if "rule" in item:
                    host, _, counter = item["rule"]["expr"]
                    found[host["match"]["right"]] = counter["counter"]["bytes"]
        finally:
            self.run("router", "nft", "delete", "table", "ip", "count")

    def script(self, name: str, given: Any = None, *arguments: object, timeout: float = 150) -> Any:
        """A program of ``tools/`` that enters namespaces by itself; its JSON answer."""
        done = subprocess.run(
            tool_argv(name, *arguments),
            env=self.environment,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def scripting(self, name: str, given: Any = None, *arguments: object) -> Iterator[Any]:
        """The same while something else is done. The list is filled with its
        answer when the block has been left."""
        running = subprocess.Popen(
            tool_argv(name, *arguments),
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert running.stdin is not None
        assert running.stdout is not None
        answer: list[Any] = []
        try:
            running.stdin.write(json.dumps(given) + "\n")
            running.stdin.flush()
            assert running.stdout.readline() == "ready\n"
            yield answer
            running.terminate()
            output, _ = running.communicate(timeout=60)
            answer.append(json.loads(output.splitlines()[-1]))
        finally:
            running.kill()
            running.wait()
            running.stdin.close()
            running.stdout.close()

    def reach(self, names: Sequence[str], addresses: str = "sixpn", expected: Any = ()) -> Any:
        """``tools/matrix.py`` between these VMs; pairs are by position."""
        vms_ = [self.vm(name) for name in names]
        nodes = [{"namespace": vm.namespace, "address": str(getattr(vm, addresses))} for vm in vms_]
        return self.script("matrix", {"nodes": nodes, "expected": sorted(expected)})


def wait_host(cluster: Cluster, name: str) -> None:
    """Until a host's daemon answers and has applied what there is."""
    deadline = time.monotonic() + PATIENCE
    while not process.alive(cluster.host(name).daemon):
        assert time.monotonic() < deadline, f"{name} has no daemon"
        time.sleep(0.05)
    hosts.wait_synced(cluster.host(name), PATIENCE)
