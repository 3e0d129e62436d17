# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from flyebpf.errors import InvalidError
from flyebpf.model.hostnames import hostname

GOOD = [
    ("www.example.com", "www.example.com", "as it is"),
    ("WWW.Example.COM", "www.example.com", "in lower case: DNS has one name for both"),
    ("www.example.com.", "www.example.com", "without the root's dot"),
    ("*.example.com", "*.example.com", "a wildcard in the first label"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example", "the form of DNS"),
    ("a_b.example.com", "a_b.example.com", "underscores, which DNS allows"),
    ("1.2.example", "1.2.example", "digits alone in a label"),
    (f"{'a' * 63}.example", f"{'a' * 63}.example", "the longest label"),
]
BAD = [
    ("", "is not valid", "nothing"),
    ("example", "is not valid", "a name without a dot is nobody's"),
    ("*.com.*", "is not valid", "a star elsewhere"),
    ("*", "is not valid", "a star alone"),
    ("*.", "is not valid", "nothing below it"),
    ("w*.example.com", "is not valid", "part of a label"),
    ("www..example.com", "is not valid", "an empty label"),
    (".example.com", "is not valid", "an empty first label"),
    ("www.example.com..", "is not valid", "two dots at its end"),
    ("-www.example.com", "is not valid", "a dash at a label's start"),
    ("www-.example.com", "is not valid", "a dash at its end"),
    ("www.example.com:443", "is not valid", "a port is no part of it"),
    ("https://www.example.com", "is not valid", "nor is a scheme"),
    ("www.exa mple.com", "is not valid", "a blank"),
    ("www.example.com\n", "is not valid", "a line's end"),
    (f"{'a' * 64}.example", "is not valid", "a label that is too long"),
    (".".join(["a" * 49] * 6), "is not valid", "a name that is too long"),
    ("192.0.2.1", "is an address", "an IPv4 address"),
    ("2001:db8::1", "is an address", "an IPv6 address"),
    ("[2001:db8::1]", "is an address", "in brackets"),
    ("bücher.example", "is not in ASCII", "another script"),
]


@pytest.mark.parametrize(("given", "found", "why"), GOOD, ids=[c[2] for c in GOOD])
def test_good(given: str, found: str, why: str) -> None:
    assert hostname(given) == found, why


@pytest.mark.parametrize(("given", "message", "why"), BAD, ids=[c[2] for c in BAD])
def test_bad(given: str, message: str, why: str) -> None:
    with pytest.raises(InvalidError, match=message) as caught:
        hostname(given)
    assert caught.value.remedy, why


def test_other_scripts_are_told_their_form() -> None:
    with pytest.raises(InvalidError) as caught:
        hostname("bücher.example")
    assert "xn--bcher-kva.example" in caught.value.remedy
