# SPDX-License-Identifier: Apache-2.0
"""Clients that lie about who they are, where a request ends, and whom it is for.

Two tenants' apps, on one shared address and each on one of its own. Their servers take
what they get literally and write it down, so a test sees what an app would see.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.client import path
from tests.netns.proxied import add_certificate, create_shared, curl, envoy_of, proxied
from tests.netns.rig import TOOLS, App, Rig

pytestmark = pytest.mark.root

HOST, OTHER = "www.example.com", "other.example.com"
SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
[[services.ports]]
port = 443
handlers = ["http", "tls"]
"""


class Tenant:
    """An app, its own address, and what its server has written down."""

    def __init__(self, app: App, own: str, log: Path) -> None:
        self.app, self.own, self._log = app, own, log
        self._seen = 0

    def seen(self) -> list[dict[str, Any]]:
        """What has come since the last look."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        new, self._seen = lines[self._seen :], len(lines)
        return [json.loads(line) for line in new]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with proxied("h") as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def tenant(rig: Rig, folder: Path, name: str, host: str) -> Tenant:
    app = create_shared(rig, name, SERVICES)
    own = rig.api().post(path("apps", name, "addresses"), {"type": "v4"})["address"]
    log = folder / name
    rig.add_vm(app, f"{name}1", sys.executable, str(TOOLS / "strict_http.py"), "8080", name,
               str(log))  # fmt: skip
    rig.until(lambda: rig.listening(f"{name}1", "tcp", 8080), "the server listens")
    add_certificate(rig, folder, app, host)
    made = Tenant(app, own, log)
    for address in (app.vip, own):
        asked = lambda a=address: curl(rig, App(name, a), f"https://{host}/", "-k", check=False)  # noqa: E731
        rig.until(lambda ask=asked: ask().stdout == name, f"{name} is served", 10)  # type: ignore[misc]
    made.seen()
    return made


@pytest.fixture(scope="module")
def tenants(rig: Rig, folder: Path) -> tuple[Tenant, Tenant]:
    return tenant(rig, folder, "web", HOST), tenant(rig, folder, "other", OTHER)


def send(rig: Rig, folder: Path, address: str, *payloads: str, port: int = 80) -> list[str]:
    file = folder / "payloads"
    file.write_text(json.dumps(payloads))
    found: list[str] = rig.tool("client1", "raw_http", address, port, file)
    return found


def status(answer: str) -> str:
    """ "" for a connection that was ended without a word."""
    return answer.split(" ", 2)[1] if answer.startswith("HTTP/1.") else answer


def get(host: str = HOST, *lines: str, target: str = "/") -> str:
    fields = "".join(f"{line}\r\n" for line in lines)
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n"


def post(body: str, *lines: str) -> str:
    fields = "".join(f"{line}\r\n" for line in lines)
    return f"POST /first HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}"


INNER = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
AMBIGUOUS = {
    "both, chunked first": post(f"0\r\n\r\n{INNER}", "Transfer-Encoding: chunked",
                                f"Content-Length: {5 + len(INNER)}"),
    "both, length first": post("5\r\nhello\r\n0\r\n\r\n", "Content-Length: 5",
                               "Transfer-Encoding: chunked"),
    "two lengths": post("hello", "Content-Length: 5", "Content-Length: 0"),
    "a list of lengths": post("hello", "Content-Length: 5, 0"),
    "a sign": post("hello", "Content-Length: +5"),
    "a negative length": post("hello", "Content-Length: -5"),
    "hexadecimal": post("hello", "Content-Length: 0x5"),
    "too large a length": post("hello", "Content-Length: 18446744073709551621"),
    "an empty length": post("hello", "Content-Length:"),
    "an unknown coding": post("0\r\n\r\n", "Transfer-Encoding: xchunked"),
    "chunked not last": post("0\r\n\r\n", "Transfer-Encoding: chunked, identity"),
    "chunked twice": post("0\r\n\r\n", "Transfer-Encoding: chunked",
                          "Transfer-Encoding: chunked"),
    "a coding after it": post("0\r\n\r\n", "Transfer-Encoding: chunked",
                              "Transfer-Encoding: identity"),
    "a space before the colon": post("0\r\n\r\n", "Transfer-Encoding : chunked"),
    "a control character": post("0\r\n\r\n", "Transfer-Encoding: \x0bchunked"),
    "a null": post("0\r\n\r\n", "Transfer-Encoding: chunked\0"),
    "a bare CR": post("0\r\n\r\n", "X: a\rTransfer-Encoding: chunked"),
    "a folded line": post(f"0\r\n\r\n{INNER}", "X: a", " Transfer-Encoding: chunked",
                          f"Content-Length: {5 + len(INNER)}"),
    "a folded coding": post("0\r\n\r\n", "Transfer-Encoding:", " chunked"),
    "a line without a colon": post("", "Transfer-Encoding chunked", "Content-Length: 0"),
    "bare line feeds": f"POST / HTTP/1.1\nHost: {HOST}\nTransfer-Encoding: chunked\n\n0\n\n",
    "a chunk too long": post("FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
                             "Transfer-Encoding: chunked"),
    "a negative chunk": post("-5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "a chunk's signs": post("0x5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "more than the chunk": post("2\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "chunks with line feeds": post("5\nhello\n0\n\n", "Transfer-Encoding: chunked"),
    "a line feed in an extension": post("5;a\nX\r\nhello\r\n0\r\n\r\n",
                                        "Transfer-Encoding: chunked"),
    "HTTP/1.0 chunked": f"POST / HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
                        "0\r\n\r\n",
    "a tab in the line": f"GET /\tHTTP/1.1\r\nHost: {HOST}\r\n\r\n",
    "a space in the target": f"GET /a b HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
    "HTTP/2 in words": f"GET / HTTP/2.0\r\nHost: {HOST}\r\n\r\n",
    "no version": "GET /\r\n\r\n",
    "no host": "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    "two hosts": get(HOST, f"Host: {OTHER}"),
    "the same host twice": get(HOST, f"Host: {HOST}"),
    "a line's name with a null": get(HOST, "Fly\0-Client-IP: 6.6.6.6"),
}  # fmt: skip
"""What two readers of RFC 9112 could take for different things."""


UNDERSTOOD = {
    "a bare CR": "",  # part of the value, and not sent on
    "a folded line": f"0\r\n\r\n{INNER}",  # one line
    "a folded coding": "",
    "more than the chunk": "he",
    "HTTP/1.0 chunked": "",
    "HTTP/2 in words": "",
    "a tab in the line": "",
    "two hosts": "",  # one, which is nobody's
    "the same host twice": "",
}
"""Of those, what the app gets, as a request with one clear end: its body."""


def test_what_is_ambiguous_hides_no_request(
    rig: Rig, folder: Path, tenants: tuple[Tenant, Tenant]
) -> None:
    """Refused, or made unambiguous: the app sees no more than the client's one request."""
    web, other = tenants
    payloads = []
    for place, payload in enumerate(AMBIGUOUS.values()):
        end = f"GET /after-{place} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        payloads.append(payload.replace(" /", f" /{place:02}-", 1) + end)
    answers = dict(zip(AMBIGUOUS, send(rig, folder, web.own, *payloads), strict=True))
    seen = web.seen()
    assert not any("malformed" in request for request in seen), seen
    bodies = {r["line"].split()[1][1:3]: r["body"] for r in seen if "after" not in r["line"]}
    names = list(AMBIGUOUS)
    assert {names[int(place)]: body for place, body in bodies.items()} == UNDERSTOOD
    refused = {name: status(answers[name]) for name in AMBIGUOUS.keys() - UNDERSTOOD.keys()}
    assert set(refused.values()) <= {"400", "501"}
    assert other.seen() == []


LIES = (
    *("Fly-Client-IP", "Fly-Forwarded-Port", "Fly-Region", "Fly-Request-Id"),
    *("Fly-Preferred-Instance-Unavailable", "Fly-Replay-Src", "Fly-Replay-Failed"),
    *("Fly-Replay-Cache-Status", "Via", "X-Forwarded-For", "X-Forwarded-Proto"),
    *("X-Forwarded-Port", "X-Forwarded-Ssl", "X-Forwarded-Host", "X-Request-Id"),
    *("X-Flyebpf-Vhost", "X-Envoy-External-Address", "X-Envoy-Internal"),
    *("X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Retry-On", "X-Envoy-Original-Path"),
    *("X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Decorator-Operation"),
    *("X-Envoy-Attempt-Count", "X-Envoy-Force-Trace", "X-Forwarded-Client-Cert"),
    *("X-Envoy-Original-Host", "X-Envoy-Ip-Tags", "X-Envoy-Hedge-On-Per-Try-Timeout"),
)


def spellings(name: str) -> list[str]:
    """The same header to one app or another."""
    some = name.replace("-", "_", 1)
    return [name, name.lower(), name.upper(), name.replace("-", "_"), some, some.lower()]


def test_lies(rig: Rig, folder: Path, tenants: tuple[Tenant, Tenant]) -> None:
    """However a header is spelt that only the proxy may set, the app sees it once, as
    it is, or not at all."""
    web, _ = tenants
    lies = [f"{spelt}: lie" for name in LIES for spelt in spellings(name)]
    batches = [get(HOST, *lies[at : at + 40]) for at in range(0, len(lies), 40)]
    batches += [get(HOST, f"Connection: {name}, close") for name in LIES]
    answers = send(rig, folder, web.own, *batches)
    seen = web.seen()
    assert {status(answer) for answer in answers} <= {"200", "400"}
    assert len(seen) == [status(answer) for answer in answers].count("200") > len(lies) // 40
    client = rig.lab.clients["client1"].address
    for request in seen:
        names = [name.lower().replace("_", "-") for name, _ in request["headers"]]
        assert len(names) == len(set(names)), names
        found = dict(request["headers"])
        assert "lie" not in found.values(), found
        told = {"fly-client-ip": client, "x-forwarded-for": client, "x-forwarded-proto": "http"}
        assert told.items() <= found.items()
        assert "connection" not in found


def test_trailers_are_no_headers(rig: Rig, folder: Path, tenants: tuple[Tenant, Tenant]) -> None:
    web, _ = tenants
    body = "5\r\nhello\r\n0\r\nFly-Client-IP: 6.6.6.6\r\nHost: x\r\n\r\n"
    send(rig, folder, web.own, post(body, "Transfer-Encoding: chunked", "Connection: close"))
    (request,) = web.seen()
    assert request["body"] == "hello"
    assert dict(request["headers"])["fly-client-ip"] != "6.6.6.6"


WHOSE = {
    get(OTHER): "other",
    get(OTHER.upper()): "other",
    get(f"{OTHER}:80"): "other",
    get(f"{OTHER}:8443"): "other",
    get(f"{OTHER}."): "404",
    get(f"{OTHER}.."): "404",
    get(f".{OTHER}"): "404",
    get(f"{HOST}, {OTHER}"): "400",
    get(f"{HOST}@{OTHER}"): "404",
    get(f"{HOST}#{OTHER}"): "400",
    get(f"{OTHER}/"): "400",
    get(f"{OTHER}:80:80"): "404",
    get(f"{OTHER}:"): "other",
    get(f"{OTHER}\t"): "other",
    get(""): "404",
    get("203.0.113.14"): "404",
    get("[::1]"): "404",
    get(HOST, f"Host: {OTHER}"): "404",
    get(OTHER, f"X-Forwarded-Host: {HOST}", f"X-Flyebpf-Vhost: {HOST}"): "other",
    get(HOST, target=f"http://{OTHER}/"): "other",
    get(OTHER, target=f"http://{HOST}/"): "web",
    get(HOST, target=f"HTTP://{OTHER.upper()}:80/"): "other",
    get(HOST, target=f"https://{OTHER}/"): "403",
    get(OTHER, target=f"//{HOST}/"): "other",
    get(OTHER, target="*"): "400",
    get(HOST, target=f"http://{HOST}@{OTHER}/"): "other",
    f"CONNECT {OTHER}:80 HTTP/1.1\r\nHost: {HOST}\r\n\r\n": "404",
    f"GET / HTTP/1.0\r\nHost: {OTHER}\r\n\r\n": "other",
}
"""Requests at the shared address, and who answers."""


def test_whose_a_request_is(rig: Rig, folder: Path, tenants: tuple[Tenant, Tenant]) -> None:
    """One app's, and that app is told the name by which it was found."""
    web, other = tenants
    answers = send(rig, folder, web.app.vip, *WHOSE)
    found = {}
    for payload, answer in zip(WHOSE, answers, strict=True):
        body = answer.rpartition("\r\n\r\n")[2]
        found[payload] = body if status(answer) == "200" else status(answer)
    for each, host in ((web, HOST), (other, OTHER)):
        for request in each.seen():
            said = dict(request["headers"])["host"].lower()
            assert said.partition(":")[0].strip() == host, request
            assert dict(request["headers"])["x-forwarded-proto"] == "http"
    assert found == WHOSE


H2 = {"plain": "200", "host alone": "200", "another host": "200", "another scheme": "200",
      "connect": "404"}  # fmt: skip
"""Of the requests of ``tools/hostile_h2.py``, those that are answered."""


@pytest.mark.parametrize("shared", [False, True])
def test_h2_requests(rig: Rig, tenants: tuple[Tenant, Tenant], *, shared: bool) -> None:
    """What HTTP/1.1 would read otherwise is refused. A host beside the authority, and a
    scheme that the connection has not, are not passed on."""
    web, other = tenants
    address = web.app.vip if shared else web.own
    found = rig.tool("client1", "hostile_h2", address, 80, HOST, "requests")
    assert {name: code for name, code in found.items() if code != "refused"} == H2
    seen = web.seen()
    assert len(seen) == 4
    for request in seen:
        assert dict(request["headers"])["x-forwarded-proto"] == "http"
        assert [value for name, value in request["headers"] if name == "host"] == [HOST]
    assert other.seen() == []


def test_h2_floods(rig: Rig, tenants: tuple[Tenant, Tenant]) -> None:
    """Each ends its own connection, and costs no memory to speak of."""
    web, _ = tenants
    envoy = Path(f"/proc/{envoy_of(rig)}")
    (envoy / "clear_refs").write_text("5")  # the peak, from now on
    before = peak_mb(envoy)
    found = rig.tool("client1", "hostile_h2", web.own, 80, HOST, "floods")
    assert max(found.values()) < 48 << 20, found
    assert peak_mb(envoy) - before < 48
    assert curl(rig, App("web", web.own), f"http://{HOST}/").stdout == "web"
    web.seen()


def peak_mb(process: Path) -> float:
    lines = (process / "status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
