# SPDX-License-Identifier: Apache-2.0
"""The tables [mesh] and [etcd]: what is accepted, and how mistakes are reported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flyebpf.config import EtcdConfig, MeshConfig
from flyebpf.configfile import load, parse
from flyebpf.errors import ConfigError

MINIMAL = 'host = "h1"\nregion = "ams"\nuplinks = ["eth0"]\n'
MESH = '[mesh]\nunderlay = "wireguard"\nendpoint = "192.0.2.1"\n'
PLAIN = '[mesh]\nunderlay = "plain"\nendpoint = "192.0.2.1"\n'
ETCD = 'store = "etcd"\n[etcd]\n'
MEMBERS = 'endpoints = ["https://10.0.0.1:2379", "https://[fd00::2]:2379", "https://etcd-3"]\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return caught.value.message.splitlines()


def test_every_key_is_read() -> None:
    config = parse(
        MINIMAL.replace("uplinks", 'store = "etcd"\nuplinks')
        + '[mesh]\nunderlay = "plain"\nendpoint = "2001:db8::1"\nport = 65533\ninterface = "eth1"\n'
        'mtu = 8900\nreturn_path = "edge"\nlatency = ["ams fra 8", "ams nrt 240.5"]\n'
        'users_endpoint = "192.0.2.9"\n'
        f'[etcd]\n{MEMBERS}ca = "/a"\ncert = "/b"\nkey = "/c"\nprefix = "/a/b/"\ntimeout = 3\n'
    )
    assert config.store == "etcd"
    assert config.mesh == MeshConfig(
        "plain",
        "2001:db8::1",
        65533,
        "eth1",
        8900,
        "edge",
        ("ams fra 8", "ams nrt 240.5"),
        "192.0.2.9",
    )
    members = ("https://10.0.0.1:2379", "https://[fd00::2]:2379", "https://etcd-3")
    assert config.etcd == EtcdConfig(members, "/a", "/b", "/c", "/a/b/", 3)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('[mesh]\nunderlay = "wireguard"', 4, "mesh.endpoint: is missing, with mesh.underlay"),
        (
            '[mesh]\nunderlay = "plain"\nendpoint = "192.0.2.1:51820"\ninterface = "eth1"',
            6,
            "'192.0.2.1:51820' is not an IP address; give the address at which the other hosts "
            "reach this one, without a port",
        ),
        ('[mesh]\nunderlay = "wireguard"\nendpoint = "host-1"', 6, "is not an IP address"),
        ('[mesh]\nendpoint = "host-1"', 5, "is not an IP address"),
        (MESH + 'users_endpoint = "host-1"', 7, "mesh.users_endpoint: 'host-1' is not an IP"),
        (MESH + 'users_endpoint = "172.16.0.1"', 7, "mesh.users_endpoint: 172.16.0.1 is in"),
        ('[mesh]\nusers_endpoint = "192.0.2.1"', 5, "is given without mesh.endpoint"),
        ('[mesh]\nunderlay = "wireguard"\nendpoint = "127.0.0.1"', 6, "cannot be reached by"),
        ('[mesh]\nunderlay = "wireguard"\nendpoint = "fe80::1%eth0"', 6, "cannot be reached by"),
        ('[mesh]\nunderlay = "wireguard"\nendpoint = "172.16.0.1"', 6, "of private.prefix"),
        ('[mesh]\nunderlay = "wireguard"\nendpoint = "fdaa::1"', 6, "of private networks"),
        (MESH + '[pools]\nanycast_v4 = ["192.0.2.0/24"]', 6, "192.0.2.0/24 of pools.anycast_v4"),
        (MESH + 'interface = "fifteen-letters"', 7, "use 1 to 14 characters"),
        (MESH + 'interface = "a b"', 7, "cannot be the first part of the devices' names"),
        (MESH + 'interface = "eth"', 7, "eth0 is an uplink"),
        (PLAIN + 'interface = "eth0"', 7, "eth0 is an uplink; give the fabric an interface"),
        (PLAIN + 'interface = "lo"', 7, "cannot be an interface's name"),
        (PLAIN + 'interface = ""', 7, "cannot be an interface's name"),
        ("[mesh]\nport = 65534", 5, "the mesh takes 3 ports from it on; use 1 to 65533"),
        ("[mesh]\nport = 0", 5, "use 1 to 65533"),
        ("[mesh]\nmtu = 1279", 5, "use 0, or 1280 to 9000"),
        ("[mesh]\nmtu = -1", 5, "use 0, or 1280 to 9000"),
        ('[mesh]\nreturn_path = "back"', 5, "use direct or edge"),
        ('[mesh]\nlatency = ["ams fra"]', 5, 'write it as in "ams fra 8", in milliseconds'),
        ('[mesh]\nlatency = ["ams fra -8"]', 5, "is not two regions"),
        ('[mesh]\nlatency = ["AMS fra 8"]', 5, "is not two regions"),
        ('[mesh]\nlatency = ["ams ams 8"]', 5, "names one region twice"),
        ('[mesh]\nlatency = ["ams fra 8", "fra ams 9"]', 5, "'fra ams 9' repeats 'ams fra 8'"),
        ('[pools]\nanycast_v6 = ["fdaa:1::/48"]', 5, "overlaps fdaa::/16"),
        ('[pools]\nanycast_v6 = ["fd00::/8"]', 5, "overlaps fdaa::/16"),
        ('[egress]\nallow = ["fdaa::/16"]', 5, "overlaps fdaa::/16"),
        ('store = "etcd"', 1, "etcd.endpoints: is missing"),
        (ETCD + "endpoints = []", 6, "is missing, with store"),
        (ETCD + 'endpoints = ["10.0.0.1:2379"]', 6, "is not the URL of a member; write it as in"),
        (ETCD + 'endpoints = ["https://a/v3"]', 6, "is not the URL of a member"),
        (ETCD + 'endpoints = ["https://u:p@a:1"]', 6, "is not the URL of a member"),
        (ETCD + 'endpoints = ["https://a:99999"]', 6, "is not the URL of a member"),
        (ETCD + 'endpoints = ["ftp://a"]', 6, "is not the URL of a member"),
        (ETCD + 'endpoints = ["http://a", "http://a"]', 6, "is listed twice"),
        (ETCD + 'endpoints = ["http://a", "https://b"]', 6, "has both http and https"),
        (ETCD + 'endpoints = ["http://a"]\nca = "/x"', 7, "but the endpoints are http"),
        (ETCD + 'endpoints = ["https://a"]\nca = "x"', 7, "is not an absolute path"),
        (ETCD + 'endpoints = ["https://a"]\ncert = "/x"', 5, "etcd.key: is missing"),
        (ETCD + MEMBERS + 'prefix = "flyebpf"', 7, "use letters and digits between slashes"),
        (ETCD + MEMBERS + 'prefix = "/"', 7, "use letters and digits between slashes"),
        (ETCD + MEMBERS + "timeout = 0", 7, "use 1 to 60"),
    ],
)
def test_each_rule(text: str, line: int, expected: str) -> None:
    (problem,) = problems(MINIMAL + text)
    assert problem.startswith(f"f:{line}:")
    assert expected in problem


def test_without_a_mesh_the_rest_of_it_need_not_make_sense() -> None:
    assert parse(MINIMAL + '[mesh]\ninterface = "eth0"').mesh.underlay == "none"


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A folder with two certificates and their keys."""
    for name in ("one", "two"):
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-days", "2",
            "-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem"),
        )  # fmt: skip
        (tmp_path / f"{name}.key").chmod(0o600)
    return tmp_path


def write(folder: Path, ca: str = "one.pem", cert: str = "one.pem", key: str = "one.key") -> Path:
    file = folder / "flyebpf.toml"
    names = {"ca": ca, "cert": cert, "key": key}
    lines = "".join(f'{name} = "{folder / value}"\n' for name, value in names.items())
    file.write_text(MINIMAL + ETCD + MEMBERS + lines)
    return file


def test_files_that_are_right(pem: Path) -> None:
    assert load(write(pem)).etcd.key == str(pem / "one.key")


@pytest.mark.parametrize(
    ("names", "line", "expected"),
    [
        ({"ca": "gone.pem"}, 7, "cannot be read: No such file or directory"),
        ({"cert": "gone.pem"}, 8, "put the PEM file there, readable for root"),
        ({"key": "two.key"}, 9, "is not the key of"),
        ({"ca": "one.key"}, 7, "holds no certificate"),
        ({"cert": "one.key"}, 8, "are no certificate and its key"),
    ],
)
def test_files_that_are_wrong(pem: Path, names: dict[str, str], line: int, expected: str) -> None:
    file = write(pem, **names)
    with pytest.raises(ConfigError) as caught:
        load(file)
    (problem,) = caught.value.message.splitlines()
    assert problem.startswith(f"{file}:{line}:")
    assert expected in problem


def test_a_key_that_everybody_may_read(pem: Path) -> None:
    (pem / "one.key").chmod(0o644)
    with pytest.raises(ConfigError, match=r"etcd\.key: .* is open to everybody; run: chmod 600"):
        load(write(pem))
    assert parse(write(pem).read_text()).store == "etcd", "a text alone is not looked up"
