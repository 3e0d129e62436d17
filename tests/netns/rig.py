# SPDX-License-Identifier: Apache-2.0
"""A lab as a rig: what the end-to-end tests say to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyebpf.api.client import Client, path
from flyebpf.lab import net, process, sample, state
from flyebpf.lab.state import Host, Lab, Paths, Vm

TOOLS = Path(__file__).with_name("tools")
ORG = "test"


def service(protocol: str, internal: int, *ports: int | tuple[int, int]) -> str:
    """One ``[[services]]`` of a fly.toml, without handlers."""
    lines = ["[[services]]", f'protocol = "{protocol}"', f"internal_port = {internal}"]
    for port in ports:
        lines.append("[[services.ports]]")
        if isinstance(port, tuple):
            lines += [f"start_port = {port[0]}", f"end_port = {port[1]}"]
        else:
            lines.append(f"port = {port}")
    return "\n".join(lines) + "\n"


@dataclass
class App:
    """``vip`` is its Anycast address."""

    name: str
    vip: str
    vms: list[str] = field(default_factory=list)


@dataclass
class Load:
    """Traffic that goes on while a test does something."""

    running: subprocess.Popen[str]

    def finish(self) -> Any:
        """End it; its JSON answer."""
        self.running.terminate()
        try:
            output, _ = self.running.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.communicate()
            raise
        return json.loads(output)


class Rig:
    """One lab, reached by the command line as a user would."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.where = Paths(directory)
        self.loads: list[subprocess.Popen[str]] = []
        self.environment = {
            **os.environ,
            "FLYEBPF_LAB_NAME": name,
            "FLYEBPF_LAB_DIR": str(directory),
            "PYTHONPATH": net.python_path(),
        }

    # The lab itself.

    def command(
        self, *arguments: str, check: bool = True, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """``flyebpf ARGUMENTS`` outside the lab."""
        done = subprocess.run(
            [sys.executable, "-m", "flyebpf", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"flyebpf {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    @property
    def lab(self) -> Lab:
        return state.load(self.where)

    def host(self, name: str = "host1") -> Host:
        return self.lab.hosts[name]

    def vm(self, name: str) -> Vm:
        return self.lab.vms[name]

    def api(self, host: str = "host1") -> Client:
        return Client(self.host(host).socket)

    def logs(self) -> str:
        """The ends of the daemons' logs, for a failure's report."""
        return "\n".join(
            f"{name}:\n{process.tail(self.where.host(name) / 'daemon.log', 30)}"
            for name in self.lab.hosts
        )

    # Commands in nodes.

    def argv(self, node: str, command: Sequence[str]) -> list[str]:
        return net.exec_argv(self.lab.namespaces()[node], command)

    def run(
        self, node: str, *command: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(node, command),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{node}$ {' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    @contextmanager
    def background(self, node: str, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that is ended when the block is left."""
        running = subprocess.Popen(
            self.argv(node, command),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield running
        finally:
            running.kill()
            running.communicate()

    def tool(self, node: str, name: str, *arguments: object, timeout: float = 120) -> Any:
        """A program of ``tools/``; its JSON answer."""
        output = self.run(node, *tool_argv(name, *arguments), timeout=timeout).stdout
        return json.loads(output.splitlines()[-1])

    def begin(self, node: str, name: str, *arguments: object) -> Load:
        """A program of ``tools/`` that runs until :meth:`Load.finish`."""
        argv = self.argv(node, tool_argv(name, *arguments))
        pipe = subprocess.PIPE
        running = subprocess.Popen(argv, env=self.environment, stdout=pipe, text=True)
        assert running.stdout is not None
        self.loads.append(running)
        assert running.stdout.readline() == "ready\n"  # from then on SIGTERM is understood
        return Load(running)

    def end_loads(self) -> None:
        """Those that a test that failed has left running."""
        for running in self.loads:
            running.kill()
            running.wait()
            if running.stdout is not None:
                running.stdout.close()
        self.loads.clear()

    # Apps and VMs.

    def create_app(self, name: str, *services: str) -> App:
        api = self.api()
        if ORG not in {org["name"] for org in api.get(path("orgs"))["items"]}:
            api.post(path("orgs"), {"name": ORG})
        api.post(path("apps"), {"name": name, "org": ORG})
        vip = api.post(path("apps", name, "addresses"), {"type": "v4"})["address"]
        app = App(name, vip)
        self.deploy(app, *services)
        return app

    def deploy(self, app: App, *services: str) -> None:
        config = f'app = "{app.name}"\n' + "".join(services)
        self.api().post(path("apps", app.name, "deployments"), {"config": config})
        self.settle()

    def add_vm(self, app: App, name: str, *command: str, host: str = "host1") -> Vm:
        tail = ["--", *command] if command else []
        self.command("lab", "vm", "add", "--host", host, "-a", app.name, "--name", name, *tail)
        app.vms.append(name)
        self.settle()
        return self.vm(name)

    def add_nginx(self, app: App, name: str, host: str = "host1") -> Vm:
        """A VM with nginx on port 8080 that says its name and the client's address."""
        vm = self.add_vm(app, name, *sample.nginx_command(self.where, name), host=host)
        self.until(lambda: self.listening(name, "tcp", 8080), f"nginx listens in {name}")
        return vm

    def add_echo(self, app: App, name: str, port: int = 5000, host: str = "host1") -> Vm:
        """A VM with a UDP echo server on fly-global-services."""
        command = [sys.executable, "-m", "flyebpf.lab.udp_echo", "--name", name]
        vm = self.add_vm(app, name, *command, "--port", str(port), host=host)
        self.until(lambda: self.listening(name, "udp", port), f"the echo server runs in {name}")
        return vm

    def remove_vm(self, app: App, name: str) -> None:
        self.command("lab", "vm", "remove", name)
        app.vms.remove(name)
        self.settle()

    def destroy_app(self, app: App) -> None:
        for name in list(app.vms):
            self.remove_vm(app, name)
        api = self.api()
        api.post(path("apps", app.name, "addresses", "release"), {"addresses": [app.vip]})
        api.delete(path("apps", app.name))
        self.settle()

    def machine(self, verb: str, name: str) -> None:
        """``start``, ``stop``, ``cordon``, ``uncordon`` of a VM's machine."""
        self.api().post(path("machines", self.vm(name).machine, verb))
        self.settle()

    # Observation.

    def listening(self, node: str, protocol: str, port: int) -> bool:
        flag = {"tcp": "-t", "udp": "-u"}[protocol]
        return bool(self.run(node, "ss", "-Hln", flag, f"sport = :{port}").stdout.strip())

    def until(self, condition: Callable[[], bool], what: str, patience: float = 5.0) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"not within {patience:g} s: {what}\n{self.logs()}"
            time.sleep(0.02)

    def settle(self, host: str = "host1") -> None:
        """Wait until the kernel holds what the store says."""

        def settled() -> bool:
            status = self.api(host).get("/v1/status")
            return bool(status["in_sync"]) and not status["pending"]

        self.until(settled, f"{host} applies everything", patience=10.0)

    def drops(self, host: str = "host1") -> dict[str, int]:
        """Packets dropped so far, by reason."""
        items = self.api(host).get("/v1/drops")["items"]
        return {item["reason"]: item["packets"] for item in items}

    @contextmanager
    def dropping(self, reason: str, at_least: int = 1) -> Iterator[None]:
        """What happens inside is dropped for this reason."""
        before = self.drops()
        yield
        after = self.drops()
        grown = {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}
        assert grown.get(reason, 0) >= at_least, f"expected drops for {reason}, got {grown}"

    def counters(self, app: App) -> list[dict[str, Any]]:
        """The app's services with their counters."""
        items = self.api().get(path("services"), {"app": app.name})["items"]
        return [dict(item) for item in items]

    def lost_segments(self, nodes: Iterable[str]) -> int:
        """TCP segments that these nodes, which talk to each other, have sent
        again because they were lost.

        Those that a receiver knew as duplicates (DSACK, RFC 2883) had arrived:
        on a busy machine segments overtake each other, or an answer takes longer
        than the timeout. Its own count is taken, because a sender that has
        closed its connection no longer hears of it.
        """
        lost = 0
        for node in nodes:
            tcp = self.kernel_counters(node)
            duplicates = tcp["TcpExt.TCPDSACKOldSent"] + tcp["TcpExt.TCPDSACKOfoSent"]
            lost += tcp["Tcp.RetransSegs"] - duplicates
        return lost

    def kernel_counters(self, node: str) -> dict[str, int]:
        """``/proc/net/snmp`` and ``netstat`` of the node: ``Group.Name``."""
        files = ["/proc/net/snmp", "/proc/net/netstat"]
        lines = [line.split() for line in self.run(node, "cat", *files).stdout.splitlines()]
        return {
            names[0].rstrip(":") + "." + name: int(value)
            for names, values in zip(lines[::2], lines[1::2], strict=True)
            for name, value in zip(names[1:], values[1:], strict=True)
        }

    def curl(self, node: str, url: str, *, seconds: float = 5) -> str:
        return self.run(node, "curl", "-sS", "-m", str(seconds), url).stdout

    def cannot_curl(self, node: str, url: str, *, seconds: float = 0.6) -> None:
        done = self.run(node, "curl", "-sS", "-m", str(seconds), url, check=False)
        assert done.returncode in {7, 28}, f"{url} answered {node}: {done.stdout}{done.stderr}"


def tool_argv(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(TOOLS / f"{name}.py"), *(str(a) for a in arguments)]
