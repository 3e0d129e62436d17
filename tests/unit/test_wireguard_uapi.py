# SPDX-License-Identifier: Apache-2.0
"""The text protocol of userspace WireGuard."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.drivers.wireguard import (
    Peer,
    PeerChange,
    canonical,
    join_endpoint,
    split_endpoint,
)
from flyebpf.drivers.wireguard_uapi import (
    check_set,
    decode_get,
    encode_set,
    key_hex,
    key_text,
)
from flyebpf.errors import InvalidError, UnavailableError

KEY = base64.b64encode(bytes(range(32))).decode()
HEX = bytes(range(32)).hex()

# The example of https://www.wireguard.com/xplatform/, shortened.
ANSWER = """\
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
allowed_ip=192.168.4.4/32
endpoint=[abcd:23::33]:51820
persistent_keepalive_interval=0
tx_bytes=38333
rx_bytes=2224
protocol_version=1
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
tx_bytes=1212111
rx_bytes=1929999999
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
persistent_keepalive_interval=111
endpoint=182.122.22.19:3233
allowed_ip=192.168.4.6/32
allowed_ip=fdaa:8000:1::/48
protocol_version=1
errno=0

"""


def test_the_published_example_is_understood() -> None:
    device = decode_get(ANSWER)
    assert device.port == 12912
    assert device.private_key.hex().startswith("e84b5a6d")
    first, second = device.peers.values()
    assert first.endpoint == "[abcd:23::33]:51820"
    assert (first.handshake, first.keepalive, first.sent, first.received) == (0.0, 0, 38333, 2224)
    assert second == Peer(
        key_text("58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376"),
        "182.122.22.19:3233",
        frozenset(("192.168.4.6/32", "fdaa:8000:1::/48")),
        111,
        1700000000.5,
        1929999999,
        1212111,
    )


def test_a_device_never_shows_its_private_key() -> None:
    device = decode_get(ANSWER)
    assert "e84b5a6d" not in repr(device)
    assert repr(device.private_key) not in repr(device)


def test_only_what_is_given_is_written() -> None:
    assert encode_set(None, None, []) == "set=1\n\n"
    assert encode_set(bytes(32), 51820, []) == (
        f"set=1\nprivate_key={'00' * 32}\nlisten_port=51820\n\n"
    )
    change = PeerChange(KEY, endpoint="192.0.2.1:51820", keepalive=25)
    assert encode_set(None, None, [change]) == (
        f"set=1\npublic_key={HEX}\nendpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\n\n"
    )
    change = PeerChange(KEY, allowed=frozenset(("fdaa:8000:1::/48", "172.16.0.0/20")))
    assert encode_set(None, None, [change]) == (
        f"set=1\npublic_key={HEX}\nreplace_allowed_ips=true\n"
        "allowed_ip=172.16.0.0/20\nallowed_ip=fdaa:8000:1::/48\n\n"
    )
    gone = PeerChange(KEY, endpoint="ignored", remove=True)
    assert encode_set(None, None, [gone]) == f"set=1\npublic_key={HEX}\nremove=true\n\n"


@given(st.binary(min_size=32, max_size=32))
def test_keys_are_the_same_in_both_forms(key: bytes) -> None:
    text = base64.b64encode(key).decode()
    assert key_hex(text) == key.hex()
    assert key_text(key.hex()) == text


@pytest.mark.parametrize("text", ["", "AAAA", "x" * 44, KEY[:-1], KEY + "AAAA", "é" * 44])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="not a WireGuard key"):
        key_hex(text)


@pytest.mark.parametrize(
    "answer", ["", "errno=1\n\n", "errno=-5\n\n", "private_key=zz\nerrno=0\n\n", "nonsense\n\n"]
)
def test_other_answers_are_errors(answer: str) -> None:
    with pytest.raises(UnavailableError, match="wireguard-go"):
        decode_get(answer)
    with pytest.raises(UnavailableError, match="wireguard-go"):
        check_set("fly0", answer.replace("private_key=zz\nerrno=0", "errno=x"))


@given(st.text(max_size=200))
def test_no_answer_is_a_fault_of_ours(answer: str) -> None:
    with contextlib.suppress(UnavailableError):
        decode_get(answer)


def test_a_newer_version_may_say_more() -> None:
    added = ANSWER.replace("errno=0", "colour=blue\nerrno=0")
    assert decode_get(added) == decode_get(ANSWER)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("192.0.2.1:51820", "192.0.2.1", 51820), ("[2001:db8::1]:1", "2001:db8::1", 1)],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    assert split_endpoint(text) == (host, port)
    assert join_endpoint(host, port) == text


@pytest.mark.parametrize("text", ["", "192.0.2.1", ":5", "192.0.2.1:0", "192.0.2.1:70000", "a:b"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        split_endpoint(text)


def test_sources_are_whole_prefixes() -> None:
    assert canonical(["fdaa:8000:1:0::/48"]) == {"fdaa:8000:1::/48"}
    with pytest.raises(InvalidError):
        canonical(["fdaa:8000:1::1/48"])
