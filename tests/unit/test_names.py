# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.errors import InvalidError
from flyebpf.model import names

VALIDATORS: list[Callable[[str], str]] = [
    names.org_name,
    names.network_name,
    names.app_name,
    names.region,
    names.host_name,
    names.group_name,
    names.machine_name,
    names.check_name,
    names.machine_id,
    names.mac_address,
    names.interface_name,
    names.metadata_key,
    names.metadata_value,
    names.ip_address,
]


@pytest.mark.parametrize(
    ("validate", "value", "canonical"),
    [
        (names.org_name, "acme-2", "acme-2"),
        (names.network_name, "Back-end2", "Back-end2"),
        (names.app_name, "web-1", "web-1"),
        (names.app_name, "a" * 63, "a" * 63),
        (names.region, "ams", "ams"),
        (names.group_name, "web_worker", "web_worker"),
        (names.machine_name, "", ""),
        (names.machine_id, "0123456789abcd", "0123456789abcd"),
        (names.mac_address, "02:AB:00:00:00:01", "02:ab:00:00:00:01"),
        (names.mac_address, "02-ab-00-00-00-01", "02:ab:00:00:00:01"),
        (names.interface_name, "vm-0123456789ab", "vm-0123456789ab"),
        (names.metadata_value, "any text: ü", "any text: ü"),
        (names.ip_address, "2001:DB8:0::7", "2001:db8::7"),
    ],
)
def test_valid(validate: Callable[[str], str], value: str, canonical: str) -> None:
    assert validate(value) == canonical
    assert validate(canonical) == canonical


@pytest.mark.parametrize(
    ("validate", "value"),
    [
        (names.org_name, "a--b"),
        (names.org_name, "1st"),
        (names.org_name, "acme/x"),
        (names.network_name, "2nd"),
        (names.network_name, "a_b"),
        (names.network_name, "a" * 64),
        (names.app_name, ""),
        (names.app_name, "Web"),
        (names.app_name, "web."),
        (names.app_name, "-web"),
        (names.app_name, "web-"),
        (names.app_name, "web\n"),
        (names.app_name, "a" * 64),
        (names.region, "a"),
        (names.region, "vms"),
        (names.region, "any"),
        (names.machine_id, "0123456789ABCD"),
        (names.machine_id, "0123456789abc"),
        (names.mac_address, "02:00:00:00:00"),
        (names.mac_address, "01:00:5e:00:00:01"),
        (names.mac_address, "ff:ff:ff:ff:ff:ff"),
        (names.mac_address, "00:00:00:00:00:00"),
        (names.interface_name, ""),
        (names.interface_name, ".."),
        (names.interface_name, "a/b"),
        (names.interface_name, "a b"),
        (names.interface_name, "a" * 16),
        (names.metadata_key, "a.b."),
        (names.metadata_value, "two\nlines"),
        (names.metadata_value, "x" * 1025),
        (names.ip_address, "203.0.113.256"),
        (names.ip_address, "203.0.113.0/24"),
    ],
)
def test_invalid(validate: Callable[[str], str], value: str) -> None:
    with pytest.raises(InvalidError) as caught:
        validate(value)
    assert caught.value.remedy


@pytest.mark.parametrize("validate", VALIDATORS)
@pytest.mark.parametrize(
    "value", [None, 7, True, b"web", ["web"], pytest.param(10**5000, id="long")]
)
def test_what_is_no_text_is_invalid(validate: Callable[[object], str], value: object) -> None:
    with pytest.raises(InvalidError):
        validate(value)


@given(value=st.text())
def test_validators_are_idempotent_and_raise_nothing_else(value: str) -> None:
    for validate in VALIDATORS:
        with contextlib.suppress(InvalidError):
            canonical = validate(value)
            assert validate(canonical) == canonical


def test_metadata_has_a_limit() -> None:
    allowed = {f"k{n}": "v" for n in range(64)}
    assert names.metadata(allowed) == allowed
    with pytest.raises(InvalidError, match="65 metadata keys"):
        names.metadata({**allowed, "one-more": "v"})


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("wbe", 'did you mean "web"?'),
        ("WEB", 'did you mean "web"?'),
        ("redsi", 'did you mean "Redis"?'),
        ("zzz", ""),
    ],
)
def test_did_you_mean(word: str, hint: str) -> None:
    assert names.did_you_mean(word, ["web", "Redis", "worker"]) == hint
