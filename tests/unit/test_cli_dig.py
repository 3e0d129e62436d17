# SPDX-License-Identifier: Apache-2.0
"""``flyebpf dig``, against the API on its socket; and what it asks the process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dns.message
import pytest

from flyebpf.api.backend import DigRecord
from flyebpf.daemon import dig
from flyebpf.dns import wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.errors import InvalidError, UnavailableError
from tests.dns_rig import ID, view
from tests.unit.test_cli_commands import Cli, cli  # noqa: F401 - a fixture


@pytest.fixture
def web(cli: Cli) -> Cli:  # noqa: F811
    cli.ok("orgs create acme")
    cli.ok("apps create web -o acme")
    cli.ok("apps create db -o acme --network lab")
    return cli


def test_an_answer(web: Cli) -> None:
    shown = web.ok("dig web.internal")
    assert "NOERROR" in shown
    assert "AAAA web.internal in acme/default" in shown
    assert "fdaa:0:1:8000:1:0:10:2" in shown
    assert web.backend.asked == (1, "web.internal", "AAAA", False)


def test_short_and_json(web: Cli) -> None:
    assert web.ok("dig --short web.internal") == "fdaa:0:1:8000:1:0:10:2\n"
    found: Any = web.json("dig web.internal")
    assert found["answers"][0]["ttl"] == 5
    assert found["network"] == "default"


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("dig TXT _apps.internal -a web", (1, "_apps.internal", "TXT", False)),
        ("dig _apps.internal txt -a db", (2, "_apps.internal", "TXT", False)),
        ("dig -o acme --network lab web.internal", (2, "web.internal", "AAAA", False)),
        ("dig -o acme web.internal --tcp", (1, "web.internal", "AAAA", True)),
        ("dig vms.db.internal TXT", (2, "vms.db.internal", "TXT", False)),
        ("dig fdaa::3 -a web", (1, f"3{'.0' * 27}.a.a.d.f.ip6.arpa", "PTR", False)),
        ("dig 192.0.2.7 PTR -a web", (1, "7.2.0.192.in-addr.arpa", "PTR", False)),
        ("dig DB.Internal.", (2, "DB.Internal.", "AAAA", False)),
    ],
)
def test_where_it_is_asked(web: Cli, line: str, asked: tuple[int, str, str, bool]) -> None:
    web.ok(line)
    assert web.backend.asked == asked


def test_what_does_not_fit_is_asked_for_by_tcp(web: Cli) -> None:
    web.backend.dig_answer = replace(web.backend.dig_answer, truncated=True)
    web.ok("dig web.internal")
    assert web.backend.asked == (1, "web.internal", "AAAA", True)


def test_a_negative_answer_shows_its_soa(web: Cli) -> None:
    soa = DigRecord("internal.", 1, "SOA", "_api.internal. …")
    answer = replace(web.backend.dig_answer, rcode="NXDOMAIN", answers=(), authority=(soa,))
    web.backend.dig_answer = answer
    shown = web.ok("dig nobody.internal -a web")
    assert "NXDOMAIN" in shown
    assert "SOA" in shown
    assert web.ok("dig nobody.internal -a web --short") == ""


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("dig", 2, "Missing argument"),
        ("dig a b c", 2, "at most one TYPE"),
        ("dig AAAA fdaa::3 -a web", 2, "fdaa::3 is an address, which has no AAAA"),
        ("dig x.internal --network lab", 2, "needs -o"),
        ("dig x.internal -a web -o acme", 2, "contradict"),
        ("dig example.com", 1, "depends on the network"),
        ("dig x.internal -a nobody", 1, "nobody"),
        ("dig x.internal -o acme --network none", 1, "no network acme/none"),
    ],
)
def test_wrong(web: Cli, line: str, code: int, message: str) -> None:
    found, _, err = web(*line.split())
    assert found == code
    assert message in err


class Process:
    """The server's codec and zone, in place of the process."""

    def __init__(self) -> None:
        self.silent = False

    def ask(self, query: bytes, asker: Asker, *, tcp: bool) -> bytes | None:
        if self.silent:
            return None
        parsed = wire.parse(query)
        assert isinstance(parsed, wire.Query)
        found = zone.answer(view(), parsed, asker)
        assert found is not None
        return wire.build(parsed, found, wire.room(parsed, tcp))


def ask(name: str, kind: str, process: Process | None = None) -> Any:
    return dig.dig(process or Process(), (1, 1 << 31 | 1), name, kind, tcp=False)  # type: ignore[arg-type]


def test_the_process_is_asked() -> None:
    found = ask(f"{ID(16)}.vm.web.internal", "AAAA")
    assert found.rcode == "NOERROR"
    assert [record.data for record in found.answers] == ["fdaa:0:1:8000:1:0:10:2"]
    assert ask("nobody.internal", "AAAA").authority[0].type == "SOA"
    assert "ams" in ask("vms.web.internal", "TXT").answers[0].data


@pytest.mark.parametrize(("name", "kind"), [("a" * 64, "AAAA"), ("a..b", "A"), ("a", "NONSENSE")])
def test_what_cannot_be_asked(name: str, kind: str) -> None:
    with pytest.raises(InvalidError):
        ask(name, kind)


def test_silence() -> None:
    process = Process()
    process.silent = True
    with pytest.raises(UnavailableError, match="silent"):
        ask("web.internal", "AAAA", process)


def test_the_query_has_edns() -> None:
    assert dns.message.from_wire(dig.question("web.internal", "AAAA")).payload == dig.PAYLOAD
