# SPDX-License-Identifier: Apache-2.0
"""Logs on standard error: one line an event, logfmt or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

from flyebpf.config import LogConfig


class Structured(logging.Formatter):
    """Time (UTC), level, part and message, and where there is one, the error."""

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("flyebpf."),
            "msg": record.getMessage(),
        }
        if record.exc_info:
            found["error"] = self.formatException(record.exc_info)
        return found


class Logfmt(Structured):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={quoted(text)}" for key, text in self.fields(record).items())


class Json(Structured):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False)


def quoted(text: str) -> str:
    """Text that is not one plain word, in quotes and on one line."""
    plain = text and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def setup(config: LogConfig) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if config.format == "json" else Logfmt())
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, Structured):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    for chatty in ("asyncio", "pyroute2", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
