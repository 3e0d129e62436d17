# SPDX-License-Identifier: Apache-2.0
"""Clients and servers as people use them, with the proxy between: nginx, gRPC,
WebSocket, Redis; and the options of HTTP ports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flyebpf.api.client import path
from tests.netns.proxied import add_certificate, curl, proxied, said
from tests.netns.rig import App, Rig, tool_argv

pytestmark = pytest.mark.root

HOST = "www.example.com"
PLAIN, PROXIED, H2C, SAY, GRPC, SOCKETS, REDIS = 8081, 8082, 8083, 8080, 50051, 8765, 6379
NGINX = """
daemon off;
master_process off;
user root;

pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  default_type text/plain;
  server {{
    listen 0.0.0.0:8081;
    location / {{
      add_header X-Kept kept;
      add_header X-Dropped dropped;
      add_header X-Replaced before;
      return 200 "$server_protocol $http_host $request_uri $http_x_forwarded_for {long}";
    }}
    location /bare {{ return 204; }}
  }}
  server {{
    listen 0.0.0.0:8082 proxy_protocol;
    return 200 "$proxy_protocol_addr $proxy_protocol_server_addr $proxy_protocol_server_port $http_fly_client_ip";
  }}
  server {{
    listen 0.0.0.0:8083 http2;
    return 200 "$server_protocol $http_fly_client_ip";
  }}
}}
"""  # noqa: E501 (nginx has no way to break a string)


def port(number: int, internal: int, *lines: str) -> str:
    head = f'[[services]]\nprotocol = "tcp"\ninternal_port = {internal}\n[[services.ports]]\n'
    return head + f"port = {number}\n" + "\n".join(lines) + "\n"


HTTP, HTTPS = 'handlers = ["http"]', 'handlers = ["http", "tls"]'
WEB = (
    port(80, PLAIN, HTTP)
    + port(443, PLAIN, HTTPS)
    + port(8101, PROXIED, 'handlers = ["proxy_proto"]')
    + port(8102, PROXIED, 'handlers = ["proxy_proto"]', 'proxy_proto_options = {version = "v2"}')
    + port(8103, PROXIED, 'handlers = ["http", "proxy_proto"]')
    + port(8104, PROXIED, 'handlers = ["http", "proxy_proto"]',
           'proxy_proto_options = {version = "v2"}')
    + port(8105, PROXIED, 'handlers = ["tls", "proxy_proto"]')
    + port(8110, PLAIN, HTTP, "http_options = {compress = true}")
    + port(8111, PLAIN, HTTP, "http_options = {response = {pristine = true}}")
    + port(8112, PLAIN, HTTP, "[services.ports.http_options.response.headers]",
           '"X-Dropped" = false', '"X-Replaced" = "after"', '"X-Added" = ["one", "100%"]')
    + port(8113, H2C, HTTP, "http_options = {h2_backend = true}")
    + port(8114, SAY, HTTP, "http_options = {idle_timeout = 1}")
    + port(8115, SAY, HTTP)
    + port(8116, SAY, HTTP, "http_options = {response = {pristine = true}}")
    + port(8120, GRPC, HTTPS, "http_options = {h2_backend = true}")
    + port(8121, SOCKETS, HTTP)
    + port(8122, SOCKETS, HTTPS)
    + port(REDIS, REDIS)
)  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with proxied("r") as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def web(rig: Rig, folder: Path) -> Iterator[App]:
    """An app whose machine runs all of the servers."""
    app = rig.create_app("web", WEB)
    rig.add_vm(app, "web1")
    add_certificate(rig, folder, app, HOST)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, long="long " * 400))
    servers = {
        PLAIN: ("nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)),
        SAY: tool_argv("say", SAY, "web1"),
        GRPC: tool_argv("grpc_pair", "serve", GRPC),
        SOCKETS: tool_argv("websocket_pair", "serve", SOCKETS),
        REDIS: ("redis-server", "--port", str(REDIS), "--bind", "0.0.0.0", "::", "--save", "",
                "--protected-mode", "no", "--dir", str(folder)),
    }  # fmt: skip
    with ExitStack() as running:
        for command in servers.values():
            running.enter_context(rig.background("web1", *command))
        for number in servers:
            rig.until(lambda n=number: rig.listening("web1", "tcp", n), f"{number} listens", 20)
        done = lambda: curl(rig, app, f"https://{HOST}/", "-k", check=False)  # noqa: E731
        rig.until(lambda: done().returncode == 0, "it is served", 10)
        yield app


def client(rig: Rig) -> str:
    return rig.lab.clients["client1"].address


def head(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Headers of an answer of ``curl -i`` (its line ends are made ours on their way)."""
    found: dict[str, list[str]] = {}
    for line in done.stdout.split("\n\n")[0].splitlines()[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_versions_of_http(rig: Rig, web: App, folder: Path, version: str) -> None:
    """The client's certificate check is on."""
    cert = str(folder / f"{HOST}.pem")
    done = curl(rig, web, f"https://{HOST}/a//b%2F/../c", "--path-as-is", version, "--cacert", cert)
    words = done.stdout.split()[:4]
    assert words == ["HTTP/1.1", HOST, "/a//b%2F/../c", client(rig)]


def test_http2_without_tls(rig: Rig, web: App) -> None:
    done = curl(rig, web, f"http://{HOST}/", "--http2-prior-knowledge", "-w", "%{http_version}")
    assert (done.stdout.split()[1], done.stdout.split()[-1]) == (HOST, "2")


@pytest.mark.parametrize("number", [8101, 8102])
def test_nginx_behind_the_proxy_protocol(rig: Rig, web: App, number: int) -> None:
    done = curl(rig, web, f"http://{HOST}:{number}/")
    assert done.stdout.split() == [client(rig), web.vip, str(number)]


@pytest.mark.parametrize("number", [8103, 8104])
def test_http_and_the_proxy_protocol(rig: Rig, web: App, number: int) -> None:
    """Two clients never share a connection to the app: its header names one."""
    for node, address in (("client1", client(rig)), ("web1", rig.vm("web1").private_ip)):
        for _ in range(2):
            done = curl(rig, web, f"http://{HOST}:{number}/", node=node)
            assert done.stdout.split() == [address, web.vip, str(number), address]


def test_tls_and_the_proxy_protocol(rig: Rig, web: App) -> None:
    done = curl(rig, web, f"https://{HOST}:8105/", "-k", "--http1.1")
    assert done.stdout.split() == [client(rig), web.vip, "8105"]


def test_h2_backend(rig: Rig, web: App) -> None:
    for version in ("--http1.1", "--http2-prior-knowledge"):
        done = curl(rig, web, f"http://{HOST}:8113/", version)
        assert done.stdout.split() == ["HTTP/2.0", client(rig)]


def test_grpc(rig: Rig, web: App, folder: Path) -> None:
    cert = folder / f"{HOST}.pem"
    found = rig.tool("client1", "grpc_pair", "ask", web.vip, 8120, HOST, cert)
    assert found == {
        "once": {"bytes": 1_000_000, "client": client(rig)},
        "trailers": {"spent": "nothing"},
        "each": ["eno", "owt", "eerht"],
        "refused": "FAILED_PRECONDITION: not today",
    }


@pytest.mark.parametrize(("scheme", "number"), [("ws", 8121), ("wss", 8122)])
def test_websocket(rig: Rig, web: App, scheme: str, number: int) -> None:
    url = f"{scheme}://{HOST}:{number}/chat"
    assert rig.tool("client1", "websocket_pair", "ask", url, web.vip) == {
        "client": client(rig),
        "protocol": "chat",
        "text": "text",
        "binary": 300_000,
        "ping": True,
        "closed": 4001,
    }


@pytest.mark.parametrize(("kind", "node"), [("v6", "client1"), ("private_v6", "web1")])
def test_redis(rig: Rig, web: App, kind: str, node: str) -> None:
    """Neither HTTP nor TLS, over Anycast IPv6 and Flycast."""
    address = rig.api().post(path("apps", web.name, "addresses"), {"type": kind})["address"]
    rig.settle()

    def redis(*words: str) -> str:
        command = ("timeout", "1", "redis-cli", "-h", address, "-p", str(REDIS))
        return rig.run(node, *command, *words, check=False).stdout.strip()

    rig.until(lambda: redis("PING") == "PONG", "it is served", 10)
    assert redis("SET", kind, "x" * 50_000) == "OK"
    assert len(redis("GET", kind)) == 50_000
    rig.api().post(path("apps", web.name, "addresses", "release"), {"addresses": [address]})
    rig.settle()
    rig.until(lambda: redis("PING") != "PONG", "it is served no more", 10)


def test_compress(rig: Rig, web: App) -> None:
    ask = ("-H", "Accept-Encoding: gzip", "-i")
    plain = curl(rig, web, f"http://{HOST}/", *ask)
    assert "content-encoding" not in head(plain)
    done = curl(rig, web, f"http://{HOST}:8110/", "--compressed", "-i")
    assert head(done)["content-encoding"] == ["gzip"]
    assert "accept-encoding" in ",".join(head(done)["vary"]).lower()
    assert done.stdout.count("long ") == 400
    bare = curl(rig, web, f"http://{HOST}:8110/", "-i")
    assert "content-encoding" not in head(bare)


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_pristine(rig: Rig, web: App, version: str) -> None:
    """What the app has said, and nothing else but how a connection is kept."""
    asked = ("curl", "-sSi", "-H", f"Host: {HOST}", "-H", f"X-Forwarded-For: {client(rig)}")
    wanted = head(rig.run("web1", *asked, "http://127.0.0.1:8081/"))
    found = head(curl(rig, web, f"http://{HOST}:8111/", "-i", version, "-H", f"Host: {HOST}"))
    del wanted["connection"], wanted["date"], found["date"]
    assert found == wanted
    bare = head(curl(rig, web, f"http://{HOST}:8116/", "-i", version))
    assert bare.keys() == {"server", "content-length", "date"}  # RFC 9110, 6.6.1


def test_response_headers(rig: Rig, web: App) -> None:
    found = head(curl(rig, web, f"http://{HOST}:8112/", "-i"))
    assert "x-dropped" not in found
    assert (found["x-kept"], found["x-replaced"]) == (["kept"], ["after"])
    assert found["x-added"] == ["one", "100%"]
    assert found["server"] == ["flyebpf"]
    assert len(found["fly-request-id"]) == len(found["via"]) == 1


def test_idle_timeout(rig: Rig, web: App) -> None:
    """An app that says nothing for longer than its port allows."""
    slow = curl(rig, web, f"http://{HOST}:8114/?wait=30", "-w", "%{http_code}", check=False)
    assert slow.stdout.endswith("504")
    assert said(curl(rig, web, f"http://{HOST}:8115/?wait=2"))["name"] == "web1"


def test_redirect(rig: Rig, web: App) -> None:
    """To where there is TLS, whatever the port that was asked."""
    secure = WEB.replace(HTTP, f"{HTTP}\nforce_https = true", 1)
    rig.deploy(web, secure + port(8117, SAY, HTTP, "force_https = true"))
    for number, at in ((80, HOST), (8117, f"{HOST}:443")):
        ask = (f"http://{HOST}:{number}/a?b=c", "-o", "/dev/null", "-w")
        said = lambda: curl(rig, web, *ask, "%{http_code} %{redirect_url}", check=False)  # noqa: B023, E731
        wanted = f"301 https://{at}/a?b=c"
        rig.until(lambda: said().stdout == wanted, "it redirects", 10)  # noqa: B023
    rig.deploy(web, WEB)
