# SPDX-License-Identifier: Apache-2.0
"""What may be served as a host's certificate, and what is wrong with the rest."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from flyebpf import certificates
from flyebpf.certificates import checks
from flyebpf.errors import InvalidError
from tests.pki import CLIENT, DAY, NOW, Made, chain, key_pem, leaf, make, middle, root

HOST = "www.example.com"
LEAF, CA, ROOT = leaf(HOST), middle(), root()
GOOD = LEAF.pem + CA.pem
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ec_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve)


def test_a_chain_and_its_key() -> None:
    found = certificates.pair(HOST, GOOD, LEAF.key_pem, NOW)
    assert (found.chain, found.key) == (GOOD, LEAF.key_pem)
    assert found.names == (HOST,)
    assert (found.issuer, found.self_issued) == ("Test CA 1", False)
    assert found.key_type == "ECDSA P-256"
    assert (found.not_before, found.not_after) == (NOW - DAY, NOW + 89 * DAY)
    assert len(found.fingerprint) == 64


PARAMETERS = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"

ACCEPTED: dict[str, tuple[str, str, str]] = {
    "without the issuers": (HOST, LEAF.pem, LEAF.key_pem),
    "with the root at the end": (HOST, GOOD + ROOT.pem, LEAF.key_pem),
    "text around the blocks is left out": (
        HOST, f"Subject: x\n{LEAF.pem}\n# CA\n{CA.pem}", LEAF.key_pem),
    "lines that end as on Windows": (
        HOST, GOOD.replace("\n", "\r\n"), LEAF.key_pem.replace("\n", "\r\n")),
    "a key in OpenSSL's older form": (
        HOST, GOOD, key_pem(LEAF.key, serialization.PrivateFormat.TraditionalOpenSSL)),
    "parameters of the curve before the key, as openssl ecparam writes them": (
        HOST, GOOD, PARAMETERS + LEAF.key_pem),
    "a wildcard's own name": ("*.example.com", *chain("*.example.com")),
    "a name that a wildcard covers": (HOST, *chain("*.example.com")),
    "one name of several": (HOST, *chain("example.com", "WWW.Example.COM")),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    found = certificates.pair(*ACCEPTED[case], NOW)
    assert found.chain.startswith("-----BEGIN CERTIFICATE-----\n")
    assert "\r" not in found.chain + found.key
    assert found.key.startswith("-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (RSA, "RSA 2048"),
        (ec_key(ec.SECP384R1()), "ECDSA P-384"),
        (ec_key(ec.SECP521R1()), "ECDSA P-521"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_that_the_proxy_can_serve(key: object, name: str) -> None:
    made = make(HOST, key=key)
    found = certificates.pair(HOST, made.pem, made.key_pem, NOW)
    assert (found.key_type, found.self_issued) == (name, True)


def signed_with(key: object) -> tuple[str, str]:
    """A certificate made for ``key`` and the key, PEM both."""
    return make(HOST, key=key).both


class Refused(NamedTuple):
    chain: str
    key: str
    message: str
    remedy: str


def changed(pem: str) -> str:
    """With another serial number."""
    return pem[:60] + ("A" if pem[60] != "A" else "B") + pem[61:]


def other_issuer() -> Made:
    """An authority of the same name as the one that signed, with another key."""
    return make(issuer=ROOT, subject="Test CA 1", use=())


ENCRYPTED = LEAF.key.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"x"),
).decode()
OLD_ENCRYPTED = LEAF.key.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.BestAvailableEncryption(b"x"),
).decode()
OTHER = make("other.example.com")
SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)
PAST = make(HOST, start=NOW - 30 * DAY, days=29)
FUTURE = make(HOST, start=NOW + DAY)
OLD_CA = make(issuer=ROOT, subject="Old CA", use=(), start=NOW - 30 * DAY, days=29)
OF_OLD_CA = make(HOST, issuer=OLD_CA)
OF = "the certificate of www.example.com"

REFUSED = {
    "nothing at all": Refused("", LEAF.key_pem, f"{OF} is no PEM text", "openssl x509"),
    "a key where the certificate should be": Refused(
        LEAF.key_pem, LEAF.key_pem, "has a private key in it", "--key"),
    "both in one file": Refused(
        GOOD + LEAF.key_pem, LEAF.key_pem, "has a private key in it", "--key"),
    "a block that is cut off": Refused(LEAF.pem[:300], LEAF.key_pem, "no PEM text", "openssl"),
    "a character of it changed": Refused(
        changed(LEAF.pem) + CA.pem, LEAF.key_pem, "is not the issuer of number 1", "own"),
    "base64 that is no certificate": Refused(
        LEAF.pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", LEAF.key_pem,
        "number 2 of its chain is damaged", "get the file again"),
    "a chain of eleven": Refused(GOOD + CA.pem * 9, LEAF.key_pem, "a chain of 11", "at most 10"),
    "much too long": Refused(GOOD + "#" * 65_536, LEAF.key_pem, "over 64 KiB", "alone"),
    "no key": Refused(GOOD, "", "the key of www.example.com is no PEM text", "one private key"),
    "a certificate where the key should be": Refused(
        GOOD, GOOD, "is no PEM text", "one private key"),
    "two keys": Refused(GOOD, LEAF.key_pem * 2, "is several keys", "one private key"),
    "a key with a passphrase": Refused(GOOD, ENCRYPTED, "needs a passphrase", "openssl pkey"),
    "a key with a passphrase, older form": Refused(
        GOOD, OLD_ENCRYPTED, "needs a passphrase", "openssl pkey"),
    "a damaged key": Refused(
        GOOD, LEAF.key_pem.replace("M", "N", 1), "the key of www.example.com cannot be read",
        "get it again"),
    "RSA that is too short": Refused(*signed_with(SHORT), "RSA with 1024 bits", "P-256"),
    "Ed25519, which browsers cannot verify": Refused(
        GOOD, key_pem(ed25519.Ed25519PrivateKey.generate()), "cannot use", "P-256"),
    "a curve that the proxy does not know": Refused(
        *signed_with(ec_key(ec.SECP256K1())), "cannot use", "P-256"),
    "somebody else's key": Refused(
        GOOD, OTHER.key_pem, "was made for another key", "requested with"),
    "the issuer's certificate first": Refused(
        CA.pem + LEAF.pem, LEAF.key_pem, "the key is that of number 2", "own certificate first"),
    "an issuer left out": Refused(
        LEAF.pem + ROOT.pem, LEAF.key_pem,
        "number 2 of the chain (Test Root) is not the issuer of number 1 (issued by Test CA 1)",
        "then its issuer's"),
    "an issuer of the right name with another key": Refused(
        LEAF.pem + other_issuer().pem, LEAF.key_pem, "is not the issuer of number 1", "own"),
    "the host's own twice": Refused(
        LEAF.pem * 2, LEAF.key_pem, "is not the issuer of number 1", "own"),
    "another host's": Refused(
        OTHER.pem, OTHER.key_pem, f"{OF} is for other.example.com", "subject alternative names"),
    "a common name alone is no name": Refused(
        *make(subject=HOST).both, "is for no DNS name at all",
        "subject alternative names"),
    "a wildcard of the host itself": Refused(
        *chain("*.www.example.com"), "is for *.www.example.com", "subject alternative names"),
    "a certificate of clients": Refused(
        *make(HOST, use=(CLIENT,)).both, "not for servers",
        "server authentication"),
    "expired yesterday": Refused(PAST.pem, PAST.key_pem, f"{OF} expired on", "renew"),
    "valid from tomorrow": Refused(FUTURE.pem, FUTURE.key_pem, "is valid only from", "clock"),
    "an issuer that has expired": Refused(
        OF_OLD_CA.pem + OLD_CA.pem, OF_OLD_CA.key_pem, "number 2 of the chain expired on", "renew"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_what_to_do(case: str) -> None:
    chain, key, message, remedy = REFUSED[case]
    with pytest.raises(InvalidError) as caught:
        certificates.pair(HOST, chain, key, NOW)
    assert message in caught.value.message
    assert HOST in caught.value.message
    assert remedy in caught.value.remedy
    assert "PRIVATE KEY-----" not in str(caught.value)
    body = [line for line in key.splitlines() if len(line) > 40]
    assert not any(line in str(caught.value) for line in body), "what is in the key is not told"
    if "key of" in caught.value.message:
        assert caught.value.__cause__ is None, "whose text may tell of it"


def test_the_very_second_of_its_end_is_too_late() -> None:
    end = NOW + 89 * DAY
    certificates.pair(HOST, GOOD, LEAF.key_pem, end - timedelta(seconds=1))
    with pytest.raises(InvalidError, match="expired on"):
        certificates.pair(HOST, GOOD, LEAF.key_pem, end)


COVERS = [
    ("www.example.com", "www.example.com", True, "a name covers itself"),
    ("*.example.com", "www.example.com", True, "a wildcard covers one label"),
    ("*.example.com", "a.b.example.com", False, "and not two"),
    ("*.example.com", "example.com", False, "nor none"),
    ("*.example.com", "*.example.com", True, "it covers its own name"),
    ("*.com", "*.example.com", False, "a wildcard is covered by no wider one"),
    ("*.example.com", "*.www.example.com", False, "nor by one above it"),
    ("www.example.com", "*.example.com", False, "one name is not all of them"),
    ("w*.example.com", "www.example.com", False, "part of a label is no wildcard"),
    ("*", "example", False, "a lone star covers nothing"),
]


@pytest.mark.parametrize(("name", "host", "covered", "why"), COVERS, ids=[c[3] for c in COVERS])
def test_which_names_cover_a_host(name: str, host: str, covered: bool, why: str) -> None:
    assert checks.covers(name, host) is covered, why


def test_self_signed_can_be_served_and_is_for_its_names(tmp_path: Path) -> None:
    chain, key, end = certificates.self_signed(("web.fly.test", "web.flycast"), NOW)
    found = certificates.pair("web.flycast", chain, key, NOW)
    assert found.names == ("web.fly.test", "web.flycast")
    assert found.self_issued
    assert found.not_after == end == NOW + 3650 * DAY
    file = tmp_path / "pair.pem"
    file.write_text(chain + key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
