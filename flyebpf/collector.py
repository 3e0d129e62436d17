# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collector, where it costs more than the work itself, and
memory that is free but still the process's."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def paused() -> Iterator[None]:
    """For code that makes many objects, none of them garbage: tracing them
    again and again takes as long as making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def settle() -> None:
    """After a start: what there is now mostly stays, so it is not traced again;
    what the start alone needed goes back to the system."""
    gc.freeze()
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
