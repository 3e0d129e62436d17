# SPDX-License-Identifier: Apache-2.0
"""Gets certificates by ACME: looks for names that want one, takes the lease of each in
turn, and has a process order it (``flyebpf.acme.process``)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from flyebpf.api.backend import Problem, Severity
from flyebpf.config import DaemonConfig
from flyebpf.errors import FlyebpfError
from flyebpf.model.acme import AcmeChallenge, AcmeName, AcmeState
from flyebpf.model.certificates import Certificate
from flyebpf.model.state import State, Update
from flyebpf.ops import acme
from flyebpf.ops.transact import every
from flyebpf.store.base import Store

log = logging.getLogger(__name__)
LOOK = 30.0  # seconds between looks, if nothing changes
SPREAD = 1.5
"""Seconds until the proxies of all hosts answer what one has been given."""
LONGEST = 300.0  # seconds for an order
SHOWN = 100


class AcmeAgent:
    """``loaded`` and ``changed`` are for the main thread, ``problems`` for any."""

    def __init__(self, config: DaemonConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._soon = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="acme", daemon=True)
        self._failed: dict[str, AcmeName] = {}
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_wanted(self) -> bool:
        return bool(self._config.acme.directory) and self._config.proxy.engine != "none"

    def start(self) -> None:
        if self.is_wanted:
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._soon.set()
        process = self._process
        if process is not None:
            process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def loaded(self, state: State) -> None:
        self._failed = {
            name.hostname: name
            for name in state.vault.acme_names.values()
            if name.state is AcmeState.FAILED
        }
        self._soon.set()

    def changed(self, state: State, updates: Sequence[Update]) -> None:
        for update in updates:
            for record in (update.before, update.after):
                if isinstance(record, AcmeName):
                    self._failed.pop(record.hostname, None)
            if isinstance(update.after, AcmeName):
                if update.after.state is AcmeState.FAILED:
                    self._failed[update.after.hostname] = update.after
                self._soon.set()

    def problems(self) -> Iterator[Problem]:
        for name in list(self._failed.values())[:SHOWN]:
            yield Problem(
                f"certificate {name.hostname}",
                f"not issued: {name.error} (tried {name.attempts} times, again after "
                f"{name.next_try})",
                f"Correct the cause, then `flyebpf certs check {name.hostname}`.",
                Severity.WARNING,
            )

    def _run(self) -> None:
        while not self._ended.is_set():
            self._soon.wait(LOOK)
            self._soon.clear()
            try:
                for hostname in self._due():
                    if not self._ended.is_set():
                        self._take(hostname)
            except FlyebpfError as error:
                log.error("certificates by ACME: %s", error.message)
            except Exception:  # names that come later want one, too
                log.exception("a fault of flyebpf itself: certificates by ACME")
                self._ended.wait(LOOK)

    def _due(self) -> list[str]:
        now = datetime.now(UTC)
        certificates = {found.hostname: found for found in every(self._store, Certificate)}
        names = every(self._store, AcmeName)
        return [
            name.hostname for name in names if acme.due(name, certificates.get(name.hostname), now)
        ]

    def _take(self, hostname: str) -> None:
        name = acme.lease(self._store, hostname, self._config.host, datetime.now(UTC))
        if name is None:
            return
        log.info("ordering a certificate for %s", hostname)
        limited = False
        try:
            answer = self._order(name)
            error, limited = answer.get("error", ""), bool(answer.get("limited"))
            if not error:
                acme.issued(self._store, self._config, name, answer["chain"], answer["key"])
                log.info("%s has a certificate", hostname)
        except (OSError, ValueError, KeyError) as found:
            error = f"the order has failed: {found or type(found).__name__}"
        except FlyebpfError as found:
            error = found.message
        if error and not self._ended.is_set():
            log.warning("no certificate for %s: %s", hostname, error)
            acme.failed(self._store, name, error, datetime.now(UTC), limited=limited)

    def _order(self, name: AcmeName) -> dict[str, Any]:
        """What the process says at its end."""
        command = [sys.executable, "-P", "-m", "flyebpf.acme.process", self._config.proxy.user]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            self._process = process
            timer = threading.Timer(LONGEST, process.kill)
            timer.start()
            try:
                return self._talk(name, process)
            finally:
                timer.cancel()
                self._process = None
                process.kill()

    def _talk(self, name: AcmeName, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        account = self._account()
        order = {"hostname": name.hostname, "account": _read(account), **asdict(self._config.acme)}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        for text in process.stdout:
            line: dict[str, Any] = json.loads(text)
            if key := line.get("account"):
                _write(account, key)
            elif (found := line.get("challenge")) is not None:
                challenge = AcmeChallenge(name.hostname, name.app, **found)
                if not acme.show(self._store, name, challenge):
                    raise ValueError("it was taken by another host")
                self._ended.wait(SPREAD)
                process.stdin.write("go\n")
                process.stdin.flush()
            else:
                return line
        raise ValueError("its process has ended without a word")

    def _account(self) -> Path:
        """This host's key at this authority."""
        digest = blake2b(self._config.acme.directory.encode(), digest_size=8).hexdigest()
        return Path(self._config.state_dir) / f"acme-{digest}.key"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Readable for root alone, and whole or not at all."""
    aside = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
