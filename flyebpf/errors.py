# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can do something about.

Every message names the object and, where there is one, the remedy. Foreign
exceptions become one of these at the boundary of the module that met them.
"""

from __future__ import annotations


class FlyebpfError(Exception):
    """Base of all errors shown to users.

    ``message`` names the operation and the object, ``remedy`` what to do next.
    ``code`` is a stable word for programs (the API's ``error.code``).
    """

    code = "error"
    http_status = 500

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class InvalidError(FlyebpfError):
    """The request itself is wrong (bad value, contradiction)."""

    code = "invalid"
    http_status = 422


class NotFoundError(FlyebpfError):
    """The object does not exist."""

    code = "not_found"
    http_status = 404


class ConflictError(FlyebpfError):
    """The object exists already, or is in use."""

    code = "conflict"
    http_status = 409


class ExhaustedError(FlyebpfError):
    """A pool, block or table has nothing left."""

    code = "exhausted"
    http_status = 409


class UnavailableError(FlyebpfError):
    """Something that the operation needs is not there now."""

    code = "unavailable"
    http_status = 503


class ConfigError(InvalidError):
    """The daemon's configuration file is wrong."""

    code = "config"


class KernelError(FlyebpfError):
    """The kernel refused an operation. ``number``: its errno, or 0."""

    code = "kernel"

    def __init__(self, message: str, remedy: str = "", *, number: int = 0) -> None:
        super().__init__(message, remedy)
        self.number = number
