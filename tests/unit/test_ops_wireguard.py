# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flyebpf import wireguardkeys
from flyebpf.errors import (
    ConflictError,
    ExhaustedError,
    FlyebpfError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from flyebpf.model.records import Host, WireguardPeer
from flyebpf.ops import orgs, wireguard
from flyebpf.ops.transact import every, find, transact
from flyebpf.store.sqlite import SqliteStore
from tests.stores import GATEWAY_KEY, add_host, config, region

H2 = config(host="h2")
KEY = wireguardkeys.generate()[1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        add_host(store, 2)
        yield store


def change_host(store: SqliteStore, **values: Any) -> None:
    host = replace(find(store, Host, "h2"), **values)
    transact(store, lambda tx: tx.put(host))


def test_users_reach_a_gateway_at_their_own_address(store: SqliteStore) -> None:
    change_host(store, users_endpoint="2001:db8::2")
    made = wireguard.create(store, H2, "laptop", "acme")
    assert "Endpoint = [2001:db8::2]:51822\n" in made.config


def test_a_plain_fabric_is_nothing_that_users_reach(store: SqliteStore) -> None:
    change_host(store, underlay="plain")
    before = store.revision()
    with pytest.raises(
        UnavailableError, match=r"192\.0\.2\.2 of host 'h2'.* plain fabric"
    ) as caught:
        wireguard.create(store, H2, "laptop", "acme")
    assert "mesh.users_endpoint" in caught.value.remedy
    assert store.revision() == before
    change_host(store, users_endpoint="198.51.100.2")
    assert "Endpoint = 198.51.100.2:51822\n" in wireguard.create(store, H2, "laptop", "acme").config


def test_the_configuration_is_that_of_the_contract(store: SqliteStore) -> None:
    made = wireguard.create(store, H2, "laptop", "acme")
    (private,) = re.findall("^PrivateKey = (.*)$", made.config, re.MULTILINE)
    lines = made.config.splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "[Interface]",
        f"PrivateKey = {private}",
        "Address = fdaa:0:1:8000:2:0:a:2/120",
        "DNS = fdaa:0:1::3",
        "",
        "[Peer]",
        f"PublicKey = {GATEWAY_KEY}",
        "AllowedIPs = fdaa:0:1::/48",
        "Endpoint = 192.0.2.2:51822",
        "PersistentKeepalive = 15",
    ]
    peer = made.peer
    assert (peer.org, peer.network, peer.name, peer.host) == ("acme", "default", "laptop", "h2")
    assert peer.address == "fdaa:0:1:8000:2:0:a:0/120"
    assert wireguard.own_address(peer) == "fdaa:0:1:8000:2:0:a:2"
    assert peer.public_key == wireguardkeys.public_half(base64.b64decode(private))
    everything = json.dumps([entry.body for entry in store.snapshot()[1]])
    assert private not in everything


def test_split_dns_is_explained_where_it_is_set(store: SqliteStore) -> None:
    """To be taken as they are: each system's line with the server and all zones."""
    lines = wireguard.create(store, H2, "laptop", "acme", network="back").config.splitlines()
    at = lines.index("DNS = fdaa:0:2::3")
    help_text = lines[at + 1 : lines.index("")]
    assert all(line.startswith("# ") and len(line) < 160 for line in help_text)
    reverse = "2.0.0.0.0.0.0.0.a.a.d.f.ip6.arpa"
    text = "\n".join(help_text)
    assert (
        "#   PostUp = resolvectl dns %i fdaa:0:2::3; "
        f"resolvectl domain %i ~internal ~flycast ~{reverse}"
    ) in help_text
    assert f"for zone in internal flycast {reverse};" in text
    assert (
        f"Add-DnsClientNrptRule -Namespace '.internal','.flycast','.{reverse}'"
        " -NameServers fdaa:0:2::3"
    ) in text


def test_a_key_of_the_users_own(store: SqliteStore) -> None:
    made = wireguard.create(store, H2, "laptop", "acme", network="back", public_key=KEY)
    assert made.peer.public_key == KEY
    assert not re.search("^PrivateKey", made.config, re.MULTILINE)
    assert f"# PrivateKey = (the one whose public half is {KEY})" in made.config
    assert made.peer.address == "fdaa:0:2:8000:2:0:a:0/120"


def test_an_endpoint_of_ipv6_has_brackets(store: SqliteStore) -> None:
    host = replace(add_host(store, 3), endpoint="2001:db8::3")
    transact(store, lambda tx: tx.put(host))
    made = wireguard.create(store, H2, "laptop", "acme", host="h3")
    assert "Endpoint = [2001:db8::3]:51822\n" in made.config


def test_numbers_are_of_network_and_gateway(store: SqliteStore) -> None:
    add_host(store, 3)
    made = [
        wireguard.create(store, H2, name, "acme", network=network, host=host).peer.address
        for name, network, host in (
            ("a", "default", "h2"),
            ("b", "default", "h2"),
            ("c", "back", "h2"),
            ("d", "default", "h3"),
        )
    ]
    assert made == [
        "fdaa:0:1:8000:2:0:a:0/120",
        "fdaa:0:1:8000:2:0:a:100/120",
        "fdaa:0:2:8000:2:0:a:0/120",
        "fdaa:0:1:8000:3:0:a:0/120",
    ]


def test_a_peer_with_an_impossible_address_keeps_nobody_out(store: SqliteStore) -> None:
    first = wireguard.create(store, H2, "a", "acme").peer
    transact(store, lambda tx: tx.put(replace(first, address="somewhere")))
    other = wireguard.create(store, H2, "b", "acme").peer
    assert other.address == "fdaa:0:1:8000:2:0:a:100/120"


@pytest.mark.parametrize("values", [{"endpoint": "nowhere"}, {"number": 5}])
def test_a_gateway_whose_record_is_damaged(store: SqliteStore, values: dict[str, Any]) -> None:
    host = find(store, Host, "h2")
    transact(store, lambda tx: tx.put(replace(host, **values)))
    before = store.revision()
    with pytest.raises(InvalidError, match="the record of host h2 or of network acme/default"):
        wireguard.create(store, H2, "a", "acme")
    assert store.revision() == before


def test_a_number_rests_before_it_is_used_again(store: SqliteStore) -> None:
    first = wireguard.create(store, H2, "a", "acme").peer
    wireguard.remove(store, "acme", "a")
    assert wireguard.create(store, H2, "a", "acme").peer.address != first.address


def test_all_256_and_no_more(store: SqliteStore) -> None:
    made = [wireguard.create(store, H2, f"p{n}", "acme").peer for n in range(256)]
    assert len({peer.address for peer in made}) == 256
    assert wireguard.own_address(made[255]) == "fdaa:0:1:8000:2:0:a:ff02"
    before = store.revision()
    with pytest.raises(ExhaustedError, match="acme/default has 256 WireGuard peers on host 'h2'"):
        wireguard.create(store, H2, "one-more", "acme")
    assert store.revision() == before
    wireguard.remove(store, "acme", "p77")
    assert wireguard.create(store, H2, "one-more", "acme").peer.address == made[77].address


def test_threads_share_no_number(store: SqliteStore) -> None:
    def work(worker: int) -> list[WireguardPeer]:
        return [wireguard.create(store, H2, f"p{worker}-{n}", "acme").peer for n in range(20)]

    with ThreadPoolExecutor(4) as threads:
        made = [peer for part in threads.map(work, range(4)) for peer in part]
    assert len({peer.address for peer in made}) == 80
    assert {peer.ident for peer in every(store, WireguardPeer)} == {peer.ident for peer in made}


def test_list_and_remove(store: SqliteStore) -> None:
    orgs.create(store, "beta")
    one = wireguard.create(store, H2, "laptop", "acme").peer
    two = wireguard.create(store, H2, "laptop", "beta").peer
    assert wireguard.list_all(store) == [one, two]
    assert wireguard.list_all(store, "beta") == [two]
    assert wireguard.get(store, "acme", "laptop") == one
    assert wireguard.remove(store, "acme", "laptop") == one
    assert wireguard.list_all(store) == [two]


def test_a_key_belongs_to_one_peer_of_a_gateway(store: SqliteStore) -> None:
    """WireGuard knows a peer by its key: with two networks on one key, one's
    packets would come in as the other's."""
    orgs.create(store, "beta")
    wireguard.create(store, H2, "laptop", "acme", public_key=KEY)
    before = store.revision()
    with pytest.raises(ConflictError, match="that of WireGuard peer acme/laptop on host 'h2'"):
        wireguard.create(store, H2, "laptop", "beta", public_key=KEY)
    assert store.revision() == before


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({"name": "laptop"}, ConflictError, "has a WireGuard peer 'laptop' already"),
        ({"name": "La ptop"}, InvalidError, "WireGuard peer name 'La ptop'"),
        ({"name": ""}, InvalidError, "WireGuard peer name ''"),
        ({"org": "nobody"}, NotFoundError, "organization 'nobody'"),
        ({"network": "lan"}, NotFoundError, "network 'acme/lan'"),
        ({"network": "1x"}, InvalidError, "network name '1x'"),
        ({"host": "h9"}, NotFoundError, "host 'h9'"),
        ({"host": "h1"}, UnavailableError, "host 'h1' has no address"),
        ({"host": "h3"}, UnavailableError, "host 'h3' takes no WireGuard peers"),
        ({"public_key": "x"}, InvalidError, "public key 'x'"),
        ({"public_key": ""}, InvalidError, "public key ''"),
    ],
)
def test_wrong_input_changes_nothing(
    store: SqliteStore, more: dict[str, str], error: type[FlyebpfError], match: str
) -> None:
    wireguard.create(store, H2, "laptop", "acme")
    keyless = replace(add_host(store, 3), keys={})
    transact(store, lambda tx: tx.put(keyless))
    before = store.revision()
    values = {"name": "new", "org": "acme", **more}
    with pytest.raises(error, match=match) as caught:
        wireguard.create(store, H2, values.pop("name"), values.pop("org"), **values)
    assert caught.value.remedy
    assert store.revision() == before


def test_peers_that_are_not_there(store: SqliteStore) -> None:
    wireguard.create(store, H2, "laptop", "acme")
    for operation in (wireguard.get, wireguard.remove):
        with pytest.raises(NotFoundError, match="WireGuard peer 'acme/laptpo'") as caught:
            operation(store, "acme", "laptpo")
        assert 'did you mean "acme/laptop"' in caught.value.remedy
    with pytest.raises(NotFoundError, match="'nobody'"):
        wireguard.list_all(store, "nobody")
