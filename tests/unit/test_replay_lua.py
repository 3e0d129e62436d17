# SPDX-License-Identifier: Apache-2.0
"""The proxy's Lua, run by LuaJIT: the JSON reader, the grammar of ``fly-replay``, and who
may replay where to."""

from __future__ import annotations

import base64
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime, lua_type

from flyebpf.model.proxyrows import HTTP_CHAINS
from flyebpf.proxy import names, replay
from flyebpf.proxy.appfiles import AppFiles, Cached
from flyebpf.proxy.chains import Listener, all_listeners
from flyebpf.proxy.listeners import listener

FEW = settings(max_examples=60, deadline=None)


class Lua:
    """The files of ``flyebpf/proxy/lua`` as Envoy has them, text as bytes."""

    def __init__(self, apps: Path) -> None:
        self.runtime = LuaRuntime(encoding=None)
        names = ("json", "grammar", "apps", "decide", "cache", "pass")
        ended = "\nreturn {" + ",".join(f"{name}={name}" for name in names) + "}"
        self.same = self.runtime.eval(b"rawequal")
        self.parts = self.runtime.execute((replay.source(apps) + ended).encode())

    def part(self, name: str) -> Any:
        return self.parts[name.encode()]

    def value(self, found: Any) -> Any:
        """A Lua value as Python's: tables as dicts, or lists where JSON has them."""
        if isinstance(found, bytes):
            return found.decode("utf-8", "surrogateescape")
        if lua_type(found) != "table":
            return found
        reader = self.part("json")
        if self.same(found, reader[b"null"]):
            return None
        items = {self.value(key): self.value(item) for key, item in found.items()}
        is_list = self.runtime.eval(b"function(t, a) return getmetatable(t) == a end")
        return list(items.values()) if is_list(found, reader[b"array"]) else items

    def call(self, part: str, name: str, *arguments: Any) -> Any:
        """What it gives, or the words of what is wrong as ValueError."""
        given = [a.encode() if isinstance(a, str) else a for a in arguments]
        found = self.part(part)[name.encode()](*given)
        if isinstance(found, tuple):
            if found[0] is None:
                raise ValueError(found[1].decode("utf-8", "replace"))
            found = found[0]
        return self.value(found)


@pytest.fixture(scope="module")
def lua(tmp_path_factory: pytest.TempPathFactory) -> Lua:
    return Lua(tmp_path_factory.mktemp("lua") / "apps")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**50), 2**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4)
    ),
    max_leaves=12,
)


def strict(text: str) -> Any:
    """Python's reader with what RFC 8259 forbids, or leaves open, refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def constant(name: str) -> Any:
        raise ValueError(name)

    def number(text: str) -> float:
        if re.search(r"[eE][+-]?\d{4}", text):
            raise ValueError(text)
        return float(text)

    found = json.loads(
        text,
        object_pairs_hook=once,
        parse_constant=constant,
        parse_int=float,
        parse_float=number,
    )
    json.dumps(found, allow_nan=False)
    json.dumps(found, ensure_ascii=False).encode()  # no halves of characters
    return found


@FEW
@given(value=JSON, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 3))
def test_json_is_read_as_it_was_written(
    lua: Lua, value: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert lua.call("json", "decode", text) == (None if value is None else strict(text))


@FEW
@given(value=JSON, data=st.data())
def test_json_that_is_none_is_refused(lua: Lua, value: Any, data: st.DataObject) -> None:
    """After any change it is read as Python reads it, or by neither."""
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    more = data.draw(st.sampled_from(["", *'[]{}",:\\0-+.eEtn \n\x00\x1f']))
    text = text[:at] + more + text[at + data.draw(st.integers(0, 2)) :]
    try:
        wanted = strict(text)
    except (ValueError, UnicodeEncodeError):
        with pytest.raises(ValueError, match="at byte"):
            lua.call("json", "decode", text)
        return
    found = lua.call("json", "decode", text)
    assert found == wanted or (isinstance(wanted, float) and math.isclose(found, wanted))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "nul",
            "tru",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "1e999",
            "1e-9999",
            "1e99999999",
            "-",
            "NaN",
            "0x10",
            "1 2",
        ),
        *('"', '"\\x"', '"\\u12"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"\n"', '"\x7f'),
        *("[1,]", "[", "[1 2]", "{", '{"a"}', '{"a":}', '{"a":1,}', "{1:2}", "{'a':1}", "[]]"),
        *("[" * 18 + "]" * 18, "[" + "0," * 2000 + "0]", '{"a":1,"a":2}', "/**/1", "\ufeff1"),
    ],
)
def test_json_that_looks_like_some(lua: Lua, text: str) -> None:
    with pytest.raises(ValueError, match="at byte"):
        lua.call("json", "decode", text)


@FEW
@given(data=st.binary(max_size=300))
def test_base64(lua: Lua, data: bytes) -> None:
    assert lua.part("pass")[b"unescape"](base64.b64encode(data)) == data


CODE = st.from_regex(r"[a-z][a-z0-9]{1,4}", fullmatch=True)
FIELDS = st.fixed_dictionaries(
    {"app": st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)},
    optional={
        "region": st.lists(CODE, min_size=1, max_size=4).map(",".join),
        "instance": st.from_regex(r"[0-9a-f]{14}", fullmatch=True),
        "elsewhere": st.just("true"),
        "state": st.text(
            st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"')
        ),
        "timeout": st.sampled_from(["1s", "300ms", "0.5s", "1m"]),
        "fallback": st.sampled_from(["force_self", "prefer_self"]),
    },
)


@FEW
@given(fields=FIELDS, space=st.sampled_from(["", " "]), end=st.sampled_from(["", ";", " ; "]))
def test_header_and_json_say_the_same(
    lua: Lua, fields: dict[str, str], space: str, end: str
) -> None:
    pairs = (f'{key}{space}={space}"{value}"' for key, value in fields.items())
    text = f"{space};{space}".join(pairs)
    found = lua.call("grammar", "header", text + end)
    spec = lua.part("grammar")[b"json"](json.dumps(fields).encode(), lua.part("json"))
    assert found == lua.value(spec)
    assert found["app"] == fields["app"]
    regions = fields.get("region")
    assert list(found.get("regions", {}).values()) == (regions.split(",") if regions else [])
    assert found.get("state") == fields.get("state")


@FEW
@given(text=st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_header(lua: Lua, text: str) -> None:
    """Read, or refused in words; and nothing that is read can be another header."""
    try:
        found = lua.call("grammar", "header", "app=x;state=" + text)
    except ValueError:
        return
    assert not set("\r\n\0") & set(found.get("state", ""))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no target"),
        ("state=x", "names no target"),
        ("app", "name=value"),
        ("app=a;app=b", "twice"),
        ("nothing=1", "no field nothing"),
        ('app="a', "quotation mark"),
        ('app="a"b', "separated by ;"),
        ("app=A", "app is not a name"),
        ("app=../x", "app is not a name"),
        ("instance=a;prefer_instance=b", "exclude each other"),
        ("app=a;timeout=0s", "not above 0"),
        ("app=a;timeout=61s", "not above 0 and up to 60s"),
        ("app=a;timeout=5", "number with ms, s or m"),
        ("app=a;fallback=other", "force_self or prefer_self"),
        ("app=a;elsewhere=yes", "true or false"),
        ("region=a" + ",a" * 40, "too many"),
        ("app=a;state=" + "x" * 5000, "too long"),
        ("app=a;state=" + "x" * 9000, "too long"),
    ],
)
def test_wrong_headers(lua: Lua, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lua.call("grammar", "header", text)


NOT_TO_CHANGE = (
    *("Host", "fly-client-ip", "X-Forwarded-For", "x-flyebpf-ask", "content-length"),
    *("Fly_Client_IP", "x-forwarded_for", "X_Request_Id", "content_length"),
    *("Transfer-Encoding", "a b", "", "a:b", "via"),
)


@pytest.mark.parametrize("name", NOT_TO_CHANGE)
def test_headers_that_no_app_changes(lua: Lua, name: str) -> None:
    for change in ({"delete_headers": [name]}, {"set_headers": [{"name": name, "value": "x"}]}):
        body = json.dumps({"app": "a", "transform": change}).encode()
        found = lua.part("grammar")[b"json"](body, lua.part("json"))
        assert isinstance(found, tuple), "it was taken"
        assert found[0] is None


# Who may, and where to.


def machine(ident: str, region: str, rank: int, usable: bool = True) -> dict[str, Any]:
    areas = ["eu"] if region in ("ams", "fra") else ["na", "us"]
    return {
        "id": ident,
        "address": f"{ident}:80",
        "region": region,
        "rank": rank,
        "usable": usable,
        "areas": areas,
    }


MACHINES = [
    machine("a1", "ams", 0),
    machine("f1", "fra", 1),
    machine("i1", "iad", 2),
    machine("s1", "ams", 0, usable=False),
]


def app(org: str = "o", network: str = "n", **more: Any) -> dict[str, Any]:
    return {"org": org, "network": network, "cross": False, "sources": [], "ports": {"80": "c"},
            "first": "c", "clusters": {"c": MACHINES}, **more}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Lua:
    files = AppFiles(tmp_path / "apps")
    for name, body in {
        "own": app(),
        "same": app(),
        "other-network": app(network="m"),
        "crossed": app(network="m", cross=True),
        "stranger": app(org="p"),
        "friend": app(org="p", sources=["q", "o"]),
        "broken": "no app",
        "silent": app(ports={}, first="", clusters={}),
    }.items():
        files.put(name, body)
    files.complete()
    return Lua(tmp_path / "apps")


def lua_value(runtime: LuaRuntime, value: Any) -> Any:
    if isinstance(value, list):
        return runtime.table_from([item.encode() for item in value])
    return value.encode() if isinstance(value, str) else value


def choose(world: Lua, **spec: Any) -> Any:
    runtime = world.runtime
    table = runtime.table_from({key.encode(): lua_value(runtime, v) for key, v in spec.items()})
    source = world.part("apps")[b"read"](b"own")
    by = runtime.table_from({b"app": b"own", b"cluster": b"c", b"machine": b"a1"})
    found = world.part("decide")[b"by_answer"](by, source, table, b"80")
    return found[1].decode() if isinstance(found, tuple) else world.value(found)


@pytest.mark.parametrize("name", ["own", "same", "crossed", "friend"])
def test_permitted(world: Lua, name: str) -> None:
    assert choose(world, app=name) == {"app": name, "cluster": "c"}


@pytest.mark.parametrize(
    "name", ["other-network", "stranger", "nobody", "broken", "silent", "../apps/same", "same.json"]
)
def test_not_permitted(world: Lua, name: str) -> None:
    assert choose(world, app=name) == "no_candidate"


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ({"regions": ["fra"]}, "f1:80"),
        ({"regions": ["lax", "iad"]}, "i1:80"),
        ({"regions": ["eu"]}, "a1:80"),
        ({"regions": ["us"]}, "i1:80"),
        ({"regions": ["any"]}, "a1:80"),
        ({"instance": "f1"}, "f1:80"),
        ({"prefer": "i1"}, "i1:80"),
        ({"elsewhere": True}, "f1:80"),
        ({"elsewhere": True, "regions": ["ams", "iad"]}, "i1:80"),
    ],
)
def test_where_to(world: Lua, spec: dict[str, Any], address: str) -> None:
    assert choose(world, **spec)["address"] == address


NOWHERE: list[dict[str, Any]] = [
    {"regions": ["lax"]},
    {"regions": ["sa"]},
    {"instance": "s1"},
    {"instance": "none"},
    {"elsewhere": True, "regions": ["ams"]},
]


@pytest.mark.parametrize("spec", NOWHERE)
def test_nowhere(world: Lua, spec: dict[str, Any]) -> None:
    assert choose(world, **spec) == "no_candidate"


def test_a_machine_that_is_preferred_but_away(world: Lua) -> None:
    assert choose(world, prefer="s1") == {"app": "own", "cluster": "c", "unavailable": "s1"}


def test_a_changed_file_is_seen_at_once(world: Lua, tmp_path: Path) -> None:
    assert choose(world, app="same")["cluster"] == "c"
    AppFiles(tmp_path / "apps").put("same", app(org="p"))
    assert choose(world, app="same") == "no_candidate"


def test_files_of_apps_that_are_gone(tmp_path: Path) -> None:
    old = AppFiles(tmp_path / "apps")
    for name in ("one", "two"):
        old.put(name, app())
    new = AppFiles(tmp_path / "apps")
    new.put("two", app())
    new.complete()
    assert [path.name for path in (tmp_path / "apps").iterdir()] == ["two.json"]
    new.remove("two")
    assert not list((tmp_path / "apps").iterdir())


class Worker:
    """One of Envoy's, with a cache of its own in the folder that they share."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.lua = Lua(folder / "apps")
        (folder / "cached").mkdir(exist_ok=True)
        self.cache = self.lua.part("cache")

    def at(self, path: str, now: float, host: str = "h", session: str = "") -> Any:
        runtime = self.lua.runtime
        value = runtime.eval(b"function(text) return function() return text end end")
        rule = {b"prefix": b"/", b"type": b"cookie", b"name": b"sid", b"ttl": 60}
        rules = runtime.table_from([runtime.table_from(rule)] if session else [])
        return runtime.table_from(
            {
                b"app": b"web",
                b"host": host.encode(),
                b"path": path.encode(),
                b"now": now,
                b"rules": rules,
                b"value_of": value(session.encode()),
            }
        )

    def remember(self, at: Any, state: str, prefix: str = "", ttl: int = 60) -> bool:
        runtime = self.lua.runtime
        spec = {b"state": state.encode()}
        if prefix:
            spec[b"cache"] = runtime.table_from({b"prefix": prefix.encode(), b"ttl": ttl})
        found = self.cache[b"remember"](at, runtime.table_from(spec), runtime.table_from({}))
        return bool(found)

    def find(self, at: Any) -> str | None:
        found = self.cache[b"find"](at)
        entry = found[0] if isinstance(found, tuple) else found
        return entry[b"spec"][b"state"].decode() if entry is not None else None


def test_the_longest_prefix_is_found_until_its_time(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    assert worker.remember(worker.at("/a/b/c", 100), "short", "/a/", 60)
    assert worker.remember(worker.at("/a/b/c", 100), "long", "/a/b/", 20)
    assert not worker.remember(worker.at("/other", 100), "x", "/a/")
    assert not worker.remember(worker.at("/other", 100), "x")
    assert worker.find(worker.at("/a/b/x", 119)) == "long"
    assert worker.find(worker.at("/a/b/x", 121)) == "short"
    assert worker.find(worker.at("/a/b/x", 161)) is None
    assert worker.find(worker.at("/a", 119)) is None
    assert worker.find(worker.at("/a/b/x", 119, host="other")) is None


def test_sessions_come_before_paths(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.remember(worker.at("/a", 100), "path", "/a")
    worker.remember(worker.at("/a", 100, session="one"), "session")
    assert worker.find(worker.at("/a", 101, session="one")) == "session"
    assert worker.find(worker.at("/a", 101, session="two")) == "path"
    assert worker.find(worker.at("/a", 101, host="other", session="one")) is None


def test_all_workers_forget_what_is_invalid(tmp_path: Path) -> None:
    workers = [Worker(tmp_path), Worker(tmp_path)]
    for worker in workers:
        worker.remember(worker.at("/a", 100), "x", "/a")
    assert Cached(tmp_path / "cached").apps(120) == ["web"]
    assert Cached(tmp_path / "cached").apps(221) == []
    for worker in workers:
        worker.remember(worker.at("/a", 100), "x", "/a")
    workers[0].cache[b"invalidate"](b"web", 101)
    assert [worker.find(worker.at("/a", 102)) for worker in workers] == [None, None]
    workers[1].remember(workers[1].at("/a", 103), "y", "/a")
    assert [worker.find(worker.at("/a", 104)) for worker in workers] == [None, "y"]


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    """The newest stay, however many sessions a client makes up."""
    worker = Worker(tmp_path)
    for number in range(9000):
        worker.remember(worker.at("/", 100, session=str(number)), str(number))
    kept = [n for n in range(9000) if worker.find(worker.at("/", 101, session=str(n)))]
    assert kept[-1] == 8999
    assert 4096 <= len(kept) <= 2 * 4096
    assert kept == list(range(kept[0], 9000))


@pytest.mark.parametrize("what", list(all_listeners()), ids=lambda what: what.name)
def test_a_replay_finds_its_virtual_host_again(what: Listener) -> None:
    """The header that names it is taken off on the way to the machine."""
    if what.chain not in HTTP_CHAINS:
        return
    config = json.dumps(listener(what))
    named = json.dumps({"key": names.VHOST_HEADER, "value": names.vhost_format(what)})
    by_host = what.shared and not what.inner
    assert config.count(named) == (0 if by_host else 2), "set for the client, and set again"


def test_a_hop_comes_back_as_it_was(lua: Lua) -> None:
    """Clusters of several process groups have commas."""
    by = {b"app": b"web", b"cluster": b"web/80:back,front", b"address": b"172.16.0.2:80"}
    part = lua.part("pass")
    hop = part[b"hop"](b"back", 5, lua.runtime.table_from(by), b"force_self")
    ask = lua.value(part[b"ask"](b"replay\tenvoy://replay/\t" + hop + b"\t-\t-\t\tapp=b"))
    assert list(ask["hop"].values()) == [
        *("back", "5", "web", "web/80:back,front", "172.16.0.2:80", "force_self"),
    ]


def test_many_spaces_cost_little(lua: Lua) -> None:
    """An app could keep a thread of Envoy's busy with answers."""
    long = f"a{' ' * 8100}b"
    begun = time.process_time()
    for _ in range(10):
        with pytest.raises(ValueError, match="state is too long"):
            lua.call("grammar", "header", f"app=b;state={long}")
        with pytest.raises(ValueError, match="is not a name of one"):
            lua.call("grammar", "regions", f"a{' ' * 1000}b")
    assert time.process_time() - begun < 0.1


def test_an_app_of_many_machines(world: Lua, tmp_path: Path) -> None:
    many = [machine(f"m{number}", "ams", 0) for number in range(500)]
    AppFiles(tmp_path / "apps").put("same", app(clusters={"c": many}))
    assert choose(world, app="same", instance="m499")["address"] == "m499:80"


def test_no_pattern_looks_for_spaces_at_both_ends() -> None:
    """It would take a time that grows with their number's square, and clients say how
    many there are."""
    for path in replay.LUA.glob("*.lua"):
        text = path.read_text()
        assert "-)%s*$" not in text, path
        assert "-)%s*=" not in text, path


def test_what_is_remembered_takes_no_more_than_some_memory(tmp_path: Path) -> None:
    """However much an app has it remember of each session."""
    worker = Worker(tmp_path)
    used = worker.lua.runtime.eval(b"function() return collectgarbage('count') end")
    collect = worker.lua.runtime.eval(b"function() collectgarbage() end")
    collect()
    before = used()
    for number in range(2000):
        worker.remember(worker.at("/", 100, session=str(number)), f"{number:032000}")
    collect()
    assert used() - before < 20 * 1024  # KiB; 62 MiB went in
    assert worker.find(worker.at("/", 101, session="1999")) == f"{1999:032000}"
    assert worker.find(worker.at("/", 101, session="0")) is None
