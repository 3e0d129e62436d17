# SPDX-License-Identifier: Apache-2.0
"""Giving up rights, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flyebpf import rights
from flyebpf.errors import UnavailableError

LOOK = """
import os
from flyebpf import rights
rights.drop("nobody", "this")
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith("NoNewPrivs")][0].split()[1])
print(os.getuid() != 0, os.getgroups(), [line.split()[1] for line in status.splitlines()
      if line.startswith(("CapEff", "CapPrm"))])
try:
    os.setuid(0)
    print("root again")
except PermissionError:
    print("for good")
"""


@pytest.mark.root
def test_a_process_becomes_somebody_else_for_good() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    none = "0" * 16
    assert done.stdout == f"1\nTrue [] ['{none}', '{none}']\nfor good\n"


@pytest.mark.root
def test_a_user_that_there_is_not() -> None:
    with pytest.raises(UnavailableError, match="DNS cannot run as 'no-such-one'") as caught:
        rights.drop("no-such-one", "DNS")
    assert caught.value.remedy == "create it"
