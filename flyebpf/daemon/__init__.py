# SPDX-License-Identifier: Apache-2.0
"""The host daemon: puts the parts together and runs them."""

from flyebpf.daemon.main import run

__all__ = ["run"]
