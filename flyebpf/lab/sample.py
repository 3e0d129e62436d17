# SPDX-License-Identifier: Apache-2.0
"""The sample that `lab up` deploys: a real nginx and a UDP echo server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from flyebpf.api.client import path
from flyebpf.errors import UnavailableError
from flyebpf.lab import hosts, net, vms
from flyebpf.lab.state import Host, Lab, Paths

ORG = "demo"
OTHER_ORG = "elsewhere"
STRANGER = "stranger1"
WEB_PORT = 80
ECHO_PORT = 7777

FLY_TOML = {
    "web": """\
app = "web"

# No handlers: the TCP stream goes to the VM as it is, in the kernel.
[[services]]
  protocol = "tcp"
  internal_port = 8080
  [[services.ports]]
    port = 80
""",
    "echo": """\
app = "echo"

# UDP servers bind fly-global-services and answer from there.
[[services]]
  protocol = "udp"
  internal_port = 5000
  [[services.ports]]
    port = 7777
""",
}

NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type text/plain;
  keepalive_requests 1000000;
  server {{
    listen 0.0.0.0:8080 backlog=4096;
    listen [::]:8080 ipv6only=on backlog=4096;
    location / {{
      return 200 "Hello from nginx/$nginx_version in VM {name}.\\nYour address, as the VM sees it: $remote_addr:$remote_port\\n";
    }}
  }}
}}
"""  # noqa: E501 (nginx has no way to break a string)


def nginx_command(where: Paths, name: str) -> list[str]:
    """Writes VM ``name``'s nginx configuration; what to run there.

    Its workers keep root's rights, as the folder belongs to root; it serves
    one string and no file.
    """
    directory = where.vm(name) / "nginx"
    directory.mkdir(mode=0o755, parents=True)
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, name=name))
    prefix = ["nginx", "-e", "stderr", "-p", str(directory)]
    return [*prefix, "-c", str(config)]


def echo_command(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", "flyebpf.lab.udp_echo", "--port", "5000", "--name", name]


def deploy(where: Paths, lab: Lab, say: Callable[[str], None]) -> None:
    """Org, apps, addresses and services; VMs spread over the hosts: nginx on the
    first two, the echo server on the last."""
    nodes = list(lab.hosts.values())
    api = hosts.api(nodes[0])
    check_nginx()
    api.post(path("orgs"), {"name": ORG})
    for app, config in FLY_TOML.items():
        api.post(path("apps"), {"name": app, "org": ORG})
        address = api.post(path("apps", app, "addresses"), {"type": "v4"})["address"]
        api.post(path("apps", app, "deployments"), {"config": config})
        say(f"app {app} on {address}")
    for app, name, host, command in (
        ("web", "web1", nodes[0], nginx_command(where, "web1")),
        ("web", "web2", nodes[min(1, len(nodes) - 1)], nginx_command(where, "web2")),
        ("echo", "echo1", nodes[-1], echo_command("echo1")),
    ):
        vm = vms.add(where, lab, host=host.name, app=app, name=name, command=command)
        say(f"VM  {name} on {host.name}, {vm.private_ip}: {Path(command[0]).name}")
    if lab.store == "etcd" and len(nodes) > 1:
        add_stranger(where, lab, nodes[0], say)
    for host in nodes:
        hosts.wait_synced(host)


def add_stranger(where: Paths, lab: Lab, host: Host, say: Callable[[str], None]) -> None:
    """A VM of another tenant, with nothing in it."""
    api = hosts.api(host)
    api.post(path("orgs"), {"name": OTHER_ORG})
    api.post(path("apps"), {"name": "stranger", "org": OTHER_ORG})
    vm = vms.add(where, lab, host=host.name, app="stranger", name=STRANGER)
    say(f"VM  {vm.name} on {host.name}, of another organization")


def check_nginx() -> None:
    if not net.tool("nginx"):
        raise UnavailableError(
            "nginx, which the sample runs, is not installed",
            "Install it (apt install nginx-light), or bring the lab up with --empty.",
        )


def address_of(lab: Lab, app: str) -> str:
    """The sample app's Anycast address."""
    host = next(iter(lab.hosts.values()))
    items = hosts.api(host).get(path("addresses"), {"app": app})["items"]
    if not items:
        raise UnavailableError(
            f"the app {app} has no address: this lab is not the sample's",
            "Bring one up without --empty.",
        )
    return str(items[0]["address"])
