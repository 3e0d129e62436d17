# SPDX-License-Identifier: Apache-2.0
"""One order, as a process: ``python -m flyebpf.acme.process USER``.

On standard input it gets the order as a line of JSON (:class:`Order`); it says lines of
JSON on standard output: ``{"account": PEM of its key}`` where it has made one,
``{"challenge": {token, answer, chain, key}}``, upon which it waits for another line of
input, saying that this is answered, and at the end ``{"chain": PEM, "key": PEM}`` or
``{"error": text, "limited": whether there were too many orders}``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import josepy
import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flyebpf import rights
from flyebpf.errors import FlyebpfError

TIMEOUT = 30  # seconds for a request
PATIENCE = 120  # seconds for an authority to look and to issue
ACCOUNT_BITS = 2048
KINDS = {"http-01": challenges.HTTP01, "tls-alpn-01": challenges.TLSALPN01}
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737, section 3


@dataclass(frozen=True, slots=True)
class Order:
    """``account``: PEM of the account's key, "" to make one. Others as
    ``flyebpf.config.AcmeConfig`` has them."""

    hostname: str
    directory: str
    email: str
    challenge: str
    ca_file: str
    account: str


class RefusedError(Exception):
    """``limited``: for there having been too many orders."""

    def __init__(self, text: str, *, limited: bool = False) -> None:
        super().__init__(text)
        self.limited = limited


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def issue(order: Order) -> dict[str, str]:
    """The chain and its key. Raises RefusedError."""
    try:
        found = _register(order)
        key = ec.generate_private_key(ec.SECP256R1())
        made = found.new_order(_request(order.hostname, key))
        for authorization in made.authorizations:
            if authorization.body.status != messages.STATUS_VALID:
                _prove(order, found, authorization)
        # The library compares with local time that has no zone.
        deadline = datetime.now() + timedelta(seconds=PATIENCE)
        done = found.poll_and_finalize(made, deadline)
    except errors.ValidationError as error:
        raise RefusedError(_why(error)) from error
    except messages.Error as error:
        limited = str(error.typ).endswith(":rateLimited")
        raise RefusedError(f"{error.detail or error.typ}", limited=limited) from error
    except errors.TimeoutError as error:
        raise RefusedError(f"{order.directory} has not decided within {PATIENCE} s") from error
    except (errors.Error, requests.RequestException, ValueError, OSError) as error:
        raise RefusedError(f"{order.directory}: {error or type(error).__name__}") from error
    return {"chain": done.fullchain_pem, "key": _pem(key)}


def _register(order: Order) -> client.ClientV2:
    net = client.ClientNetwork(
        josepy.JWKRSA(key=_account(order)),
        user_agent="flyebpf",
        verify_ssl=order.ca_file or True,
        timeout=TIMEOUT,
    )
    directory = client.ClientV2.get_directory(order.directory, net)
    found = client.ClientV2(directory, net=net)
    wanted = messages.NewRegistration.from_data(
        email=order.email or None, terms_of_service_agreed=True
    )
    try:
        found.new_account(wanted)
    except errors.ConflictError as known:
        body = messages.Registration()
        net.account = messages.RegistrationResource(uri=known.location, body=body)
    return found


def _account(order: Order) -> Any:
    if order.account:
        key = serialization.load_pem_private_key(order.account.encode(), password=None)
    else:
        key = rsa.generate_private_key(65537, ACCOUNT_BITS)
        say({"account": _pem(key)})
    return josepy.ComparableRSAKey(key)


def _prove(order: Order, found: client.ClientV2, authorization: Any) -> None:
    """Show what the authority looks for, and have it look."""
    wanted = KINDS[order.challenge]
    offered = [one for one in authorization.body.challenges if isinstance(one.chall, wanted)]
    if not offered:
        raise RefusedError(f"{order.directory} does not look by {order.challenge}")
    (challenge, *_) = offered
    response = challenge.chall.response(found.net.key)
    if order.challenge == "http-01":
        answer = response.key_authorization
        say({"challenge": {"token": challenge.chall.encode("token"), "answer": answer}})
    else:
        chain, key = _shown(order.hostname, response.key_authorization)
        say({"challenge": {"chain": chain, "key": key}})
    if not sys.stdin.readline():
        raise RefusedError("the order was given up")
    found.answer_challenge(challenge, response)


def _shown(hostname: str, authorization: str) -> tuple[str, str]:
    """A certificate of TLS-ALPN-01 (RFC 8737, section 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    digest = hashlib.sha256(authorization.encode()).digest()
    octets = b"\x04" + bytes((len(digest),)) + digest  # an OCTET STRING in DER
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, octets), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)


def _request(hostname: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def _pem(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


def _why(error: errors.ValidationError) -> str:
    """What the authority has found when it looked."""
    found = [
        challenge.error.detail or str(challenge.error.typ)
        for authorization in error.failed_authzrs
        for challenge in authorization.body.challenges
        if challenge.error is not None
    ]
    return "; ".join(found) or "the authority has not found the name to lead here"


def main() -> int:
    rights.drop(sys.argv[1], "what orders certificates")
    try:
        say(issue(Order(**json.loads(sys.stdin.readline()))))
    except RefusedError as error:
        say({"error": str(error), "limited": error.limited})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlyebpfError as error:
        say({"error": error.message, "limited": False})
        sys.exit(1)
