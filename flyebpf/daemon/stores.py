# SPDX-License-Identifier: Apache-2.0
"""The store that the configuration names, and a start while it is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flyebpf.config import DaemonConfig
from flyebpf.daemon import notify
from flyebpf.store.base import Store, StoreUnavailableError
from flyebpf.store.sqlite import SqliteStore

log = logging.getLogger(__name__)
T = TypeVar("T")

_EVERY = 2.0  # seconds between attempts
_SAID = 30.0  # seconds between lines in the log that say the same


def open_store(config: DaemonConfig) -> Store:
    """An etcd cluster need not be there: its records are then those that this
    host has read last."""
    folder = Path(config.state_dir)
    if config.store == "sqlite":
        return SqliteStore(folder / "state.db")
    from flyebpf.store.copied import CopiedStore  # noqa: PLC0415 (40 ms that one host saves)
    from flyebpf.store.etcd import EtcdStore  # noqa: PLC0415
    from flyebpf.store.sqlitecopy import Copy  # noqa: PLC0415

    copy = Copy(folder / "etcd-copy.db", config.etcd.prefix)
    return CopiedStore(EtcdStore(config.etcd, client=config.host), copy)


def when_there(config: DaemonConfig, work: Callable[[], T]) -> T:
    """``work``, tried until a shared store is there. Packets are forwarded
    meanwhile as the last daemon left it."""
    said, last = "", -_SAID
    while True:
        try:
            return work()
        except StoreUnavailableError as error:
            if config.store == "sqlite":
                raise
            if error.message != said or time.monotonic() - last > _SAID:
                log.error("waiting for the store: %s %s", error.message, error.remedy)
                said, last = error.message, time.monotonic()
            # systemd gives 90 seconds for a start, unless it hears of progress
            text = f"STATUS=waiting for the store: {error.message}"
            notify.notify(text, "EXTEND_TIMEOUT_USEC=60000000")
            time.sleep(_EVERY)
