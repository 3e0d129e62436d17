# SPDX-License-Identifier: Apache-2.0
"""The members of an etcd cluster: requests, failover, and what errors mean.

Requests go through ``etcd3gw``, one client for each member. It knows one member
only, and ends a watch without telling why; failover and watches are ours.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from flyebpf.config import EtcdConfig
from flyebpf.errors import InvalidError
from flyebpf.store.base import CompactedError, Json, StoreUnavailableError

OLDEST = (3, 4)
_ATTEMPTS = 2.5  # requests that fit into the time of an operation
_PAUSE = 0.1  # seconds, after all members have failed
_PIECE = 65_536  # bytes of a watch that are read at once

# gRPC's codes, https://grpc.github.io/grpc/core/md_doc_statuscodes.html, with
# which etcd says that it has not done what was asked.
_INVALID, _NOT_FOUND, _DENIED, _FULL = 3, 5, 7, 8
_PRECONDITION, _OUT_OF_RANGE, _UNAUTHENTICATED = 9, 11, 16
_DEFINITE = {
    _INVALID, _NOT_FOUND, _DENIED, _FULL, _PRECONDITION, _OUT_OF_RANGE, _UNAUTHENTICATED,
}  # fmt: skip
_REMEDY = (
    "A majority of the cluster's members must run and be reachable from here: "
    "`etcdctl endpoint health --cluster`."
)


class LostError(Exception):
    """No answer from a member. ``sent``: the request may have been done."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class OutcomeUnknownError(Exception):
    """A write whose answer was lost."""


class LeaseGoneError(Exception):
    """The lease of a write has expired."""


class Member:
    """One member, at ``url``."""

    def __init__(self, config: EtcdConfig, url: str, timeout: float) -> None:
        self.url = url
        self._checked = False
        parts = urlsplit(url)
        session = requests.Session()
        session.trust_env = False  # no proxy, and no other CA than ours
        session.mount(f"{parts.scheme}://", HTTPAdapter(pool_maxsize=8))
        if config.ca:
            session.verify = config.ca
        if config.cert:
            session.cert = (config.cert, config.key)
        self._timeout = timeout
        self._client = Etcd3Client(
            host=parts.hostname or "",
            port=parts.port or 2379,
            protocol=parts.scheme,
            timeout=timeout,
            api_path="/v3/",
            session=session,
        )

    def post(self, path: str, body: Json) -> Json:
        """The answer. Raises LostError, or what etcd's refusal means."""
        if not self._checked:
            try:
                with self._translated():
                    self._check_version()
            except LostError as error:
                raise LostError(str(error), sent=False) from error
        with self._translated():
            try:
                answer = self._client.post(self._client.get_url(path), json=body)
            except Etcd3Exception as error:
                raise self._meaning(error) from error
        if not isinstance(answer, dict):
            raise LostError("does not answer as etcd does", sent=True)
        return answer

    def stream(self, path: str, body: Json) -> requests.Response:
        """An answer without an end; for :func:`lines`."""
        with self._translated():
            response: requests.Response = self._client.session.post(
                self._client.get_url(path),
                json=body,
                stream=True,
                timeout=(self._timeout, None),
                # etcd ends the watch of a member that has lost its leader
                headers={"Grpc-Metadata-hasleader": "true"},
            )
        if response.status_code != requests.codes.ok:
            response.close()
            raise LostError(f"refuses a watch: {response.text.strip()[:200]}", sent=True)
        return response

    def close(self) -> None:
        self._client.session.close()

    def _check_version(self) -> None:
        answer = self._client.session.get(f"{self._client.base_url}/version", timeout=self._timeout)
        try:
            text = str(answer.json()["etcdserver"])
            version = tuple(int(part) for part in text.split("-", maxsplit=1)[0].split(".")[:2])
        except (ValueError, KeyError, TypeError):
            raise LostError("is no etcd: it does not tell its version", sent=False) from None
        if version < OLDEST:
            raise LostError(f"is etcd {text}; 3.4 or later is needed", sent=False)
        self._checked = True

    def _meaning(self, error: Etcd3Exception) -> Exception:
        """What a refusal or a lost connection is to us."""
        if isinstance(error.__context__, requests.RequestException):
            return _lost(error.__context__)
        detail = error.detail_text or ""
        try:
            answer = json.loads(detail)
            code, text = int(answer["code"]), str(answer["message"])
        except (ValueError, KeyError, TypeError):
            return LostError(
                "does not serve etcd's HTTP gateway (--enable-grpc-gateway): "
                f"{detail.strip()[:200]}",
                sent=True,
            )
        return _refusal(code, text) if code in _DEFINITE else LostError(text, sent=True)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except LostError:
            self._checked = False  # it may come back as another version
            raise
        except requests.RequestException as error:
            self._checked = False
            raise _lost(error) from error
        except OSError as error:  # a file of the TLS settings
            raise LostError(f"TLS cannot be used: {error}", sent=False) from error


class Members:
    """All of them. Thread safe. ``timeout``: seconds for one operation."""

    def __init__(self, config: EtcdConfig) -> None:
        self.timeout = float(config.timeout)
        self._attempt = self.timeout / _ATTEMPTS
        self.all = [Member(config, url, self._attempt) for url in config.endpoints]
        self._current = random.randrange(len(self.all))  # spreads the hosts
        self._answered = time.monotonic()
        self._closed = threading.Event()

    def read(self, path: str, body: Json) -> Json:
        """For what may be asked again: the first answer of any member."""
        return self._ask(path, body, repeat=True)

    def write(self, path: str, body: Json, deadline: float | None = None) -> Json:
        """Like :meth:`read`, but raises OutcomeUnknownError where the request
        may have been done although its answer was lost. ``deadline``: of the
        operation that this is a part of, by the monotonic clock."""
        return self._ask(path, body, repeat=False, deadline=deadline)

    def close(self) -> None:
        self._closed.set()
        for member in self.all:
            member.close()

    def _ask(self, path: str, body: Json, *, repeat: bool, deadline: float | None = None) -> Json:
        deadline = (deadline or time.monotonic() + self.timeout) - self._attempt
        failures: dict[str, str] = {}
        while not self._closed.is_set():
            number = self._current
            member = self.all[number]
            try:
                answer = member.post(path, body)
            except LostError as error:
                failures[member.url] = str(error)
                self._current = (number + 1) % len(self.all)
                if error.sent and not repeat:
                    raise OutcomeUnknownError(described(failures)) from error
                if len(failures) == len(self.all):
                    if not self._worth_trying(deadline):
                        break
                    self._closed.wait(_PAUSE)
                continue
            self._answered = time.monotonic()
            return answer
        if self._closed.is_set():
            raise StoreUnavailableError("the connection to etcd has been closed")
        raise StoreUnavailableError(f"etcd is away: {described(failures)}", _REMEDY)

    def _worth_trying(self, deadline: float) -> bool:
        """Once all members have been asked: a cluster that was there a moment
        ago may be electing a leader."""
        now = time.monotonic()
        return now < deadline and now - self._answered < 2 * self.timeout


def described(failures: dict[str, str]) -> str:
    """``https://a:2379 refuses connections; …``."""
    return "; ".join(f"{url} {text}" for url, text in sorted(failures.items()))


def lines(response: requests.Response) -> Iterator[Json]:
    """The answers of a stream, one a line. Raises LostError at its end."""
    rest = b""
    try:
        for piece in response.iter_content(_PIECE):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield json.loads(line)
    except (requests.RequestException, ValueError, OSError, AttributeError) as error:
        raise LostError(f"ended the watch: {error}", sent=True) from error
    raise LostError("ended the watch", sent=True)


def _lost(error: requests.RequestException) -> LostError:
    """Which sort of failure, in words that name the cause."""
    inner = error.args[0] if error.args else None
    reason = inner.reason if isinstance(inner, MaxRetryError) else inner
    text = str(reason or error)
    unsent = isinstance(reason, NewConnectionError | ConnectTimeoutError)
    if isinstance(error, requests.exceptions.SSLError) or "alert" in text:
        why = _tls(text)
        other = "ended TLS: it speaks none, or refuses our certificate, or has died"
        return LostError(f"{why or other} ({text.strip()})", sent=not why)
    if isinstance(error, requests.Timeout) and not unsent:
        return LostError("does not answer in time", sent=True)
    if isinstance(reason, NewConnectionError):
        return LostError(f"cannot be reached: {text.rpartition('] ')[2] or text}", sent=False)
    if isinstance(reason, ConnectTimeoutError):
        return LostError("cannot be reached: no answer", sent=False)
    return LostError(f"broke the connection: {text}", sent=True)


def _tls(text: str) -> str:
    """Why no connection came about; "" when there was one."""
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return "has a certificate that etcd.ca does not vouch for"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "does not speak TLS: use http:// in etcd.endpoints, or turn TLS on at the member"
    if "alert" in text:
        return "refuses our certificate: check etcd.cert and etcd.key"
    return ""


def _refusal(code: int, text: str) -> Exception:
    """etcd did not do it, and no other member would."""
    text = text.removeprefix("etcdserver: ")
    if "compacted" in text or "future revision" in text:
        return CompactedError(f"etcd: {text}", "take a new snapshot")
    if "lease not found" in text:
        return LeaseGoneError(text)
    if code in (_DENIED, _UNAUTHENTICATED) or "user name" in text:
        return StoreUnavailableError(
            f"etcd refuses this client: {text}",
            "The common name of etcd.cert must be a user of etcd that may read and write "
            "all keys below etcd.prefix.",
        )
    if "space exceeded" in text:
        return StoreUnavailableError(
            f"etcd is full: {text}",
            "Compact and defragment it, then `etcdctl alarm disarm`; "
            "or give its members a larger --quota-backend-bytes.",
        )
    if "too large" in text or "larger than max" in text or "too many operations" in text:
        return InvalidError(
            f"this change is more than etcd takes at once: {text}",
            "Make it in smaller steps, or give etcd larger --max-request-bytes.",
        )
    return StoreUnavailableError(f"etcd refused a request: {text}", _REMEDY)
