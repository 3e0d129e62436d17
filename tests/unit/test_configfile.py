# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what is accepted, and how each mistake is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyebpf.config import DaemonConfig
from flyebpf.configfile import load, parse
from flyebpf.errors import ConfigError
from flyebpf.tomllines import locate

MINIMAL = 'host = "h1"\nregion = "ams"\nuplinks = ["eth0"]\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return caught.value.message.splitlines()


def test_minimal_file_gives_the_defaults() -> None:
    assert parse(MINIMAL) == DaemonConfig("h1", "ams", ("eth0",))


def test_every_section_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        MINIMAL + '[pools]\nanycast_v4 = ["203.0.113.0/24"]\n[private]\nblock = "172.16.16.0/20"\n'
        '[dataplane]\nxdp_mode = "generic"\nflows = 4096\n[metrics]\nlisten = "unix:/run/m"\n'
        '[log]\nlevel = "debug"\n[api]\ngroup = "ops"\n[egress]\nallow = ["10.0.0.0/8"]\n'
    )
    config = load(file)
    assert config.pools.anycast_v4 == ("203.0.113.0/24",)
    assert config.private.block == "172.16.16.0/20"
    assert (config.dataplane.xdp_mode, config.dataplane.flows) == ("generic", 4096)
    assert config.metrics.listen == "unix:/run/m"
    assert (config.log.level, config.api.group) == ("debug", "ops")
    assert config.egress.allow == ("10.0.0.0/8",)


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        'host = "h1"\nregoin = "ams"\nuplinks = "eth0"\n[dataplane]\nflows = true\nxdp_mod = 1\n'
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["f:1", "region"],
        ["f:2", "regoin"],
        ["f:3", "uplinks"],
        ["f:5", "dataplane.flows"],
        ["f:6", "dataplane.xdp_mod"],
    ]
    assert "did you mean region?" in found[1]
    assert "did you mean dataplane.xdp_mode?" in found[4]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('[pools]\nanycast_v4 = ["203.0.113.5/24"]', "has host bits set; write 203.0.113.0/24"),
        ('[pools]\nanycast_v4 = ["x"]', "'x' is not a network"),
        ('[pools]\nanycast_v4 = ["fd00::/64"]', "is not IPv4"),
        ('[pools]\nanycast_v4 = ["203.0.113.0/24", "203.0.113.128/25"]', "overlaps 203.0.113.0/24"),
        (
            '[pools]\nanycast_v4 = ["172.17.0.0/24"]',
            "172.17.0.0/24 overlaps 172.16.0.0/12 of private.prefix",
        ),
        ('[pools]\nanycast_v4 = ["10.0.0.0/8"]', "dataplane.pool_addresses to at least 16777216"),
        (
            f"[pools]\nanycast_v6 = {[f'2001:db8:{n}::/48' for n in range(1, 10)]}",
            "9 IPv6 pools; use at most 8, merged",
        ),
        ('[pools]\nanycast_v6 = ["203.0.113.0/24"]', "is not IPv6"),
        ("[dataplane]\npool6_addresses = 0", "0 is too small"),
        ('[private]\nblock = "10.0.0.0/20"', "is not inside private.prefix 172.16.0.0/12"),
        ('[private]\nalias = "100.64.0.0/16"', "use a /12"),
        ('[private]\nblock = "172.16.0.0/31"', "use /30 or larger"),
        ("[dataplane]\nflows = 99999999999", "99999999999 is too large; use at most 268435456"),
        ("[dataplane]\nflows = 10000", "10000 is not a power of two; use 8192 or 16384"),
        ("[dataplane]\nservices = 1", "use at least 64"),
        ("[dataplane]\nservices = 999999999999", "use at most"),
        ('[dataplane]\nxdp_mode = "fast"', "use auto or native or generic"),
        ('[mesh]\nunderlay = "vxlan"', "use none or wireguard or plain"),
        ('[metrics]\nlisten = "0.0.0.0:9464"', "is not loopback"),
        ('[metrics]\nlisten = "127.0.0.1"', "is not an address to listen on"),
        ('[metrics]\nlisten = "127.0.0.1:70000"', "is not an address to listen on"),
        ('[api]\nsocket = "api.sock"', "is not an absolute path"),
        ('[log]\nlevel = "loud"', "use debug or info"),
    ],
)
def test_each_rule(extra: str, expected: str) -> None:
    (line,) = problems(MINIMAL + extra)
    assert expected in line
    assert line.startswith("f:5:"), "the line of the key"


@pytest.mark.parametrize(
    ("uplinks", "expected"),
    [
        ("[]", "is empty"),
        ('["eth0", "eth0"]', "listed twice"),
        ('["an-interface-of-mine"]', "cannot be an uplink"),
        ('["lo"]', "cannot be an uplink"),
        (str([f"e{i}" for i in range(9)]), "use at most 8"),
    ],
)
def test_uplinks(uplinks: str, expected: str) -> None:
    (line,) = problems(f'host = "h"\nregion = "ams"\nuplinks = {uplinks}\n')
    assert line.startswith("f:3: uplinks:")
    assert expected in line


def test_listening_on_loopback_and_nowhere_is_accepted() -> None:
    for listen in ("127.0.0.1:1", "[::1]:9464", "127.9.9.9:80", "unix:/x", ""):
        assert parse(f'{MINIMAL}[metrics]\nlisten = "{listen}"').metrics.listen == listen


def test_not_toml_and_not_there(tmp_path: Path) -> None:
    assert "not valid TOML" in problems("host = ")[0]
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bin").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "bin")


def test_locate_sees_through_strings_comments_and_arrays() -> None:
    text = (
        '# x = 1\na = """\nb = 2\n"""\nc = [\n  "d = 3",  # e = 4\n]\n'
        '[t . "u"]\n"v w" = \'[z]\'\nf.g = 1\n[[l]]\nh = { i = 1 }\n'
    )
    assert locate(text) == {
        "a": 2, "c": 5, "t.u": 8, "t.u.v w": 9, "t.u.f.g": 10, "l": 11, "l.h": 12,
    }  # fmt: skip
