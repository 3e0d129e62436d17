# SPDX-License-Identifier: Apache-2.0
"""Pure planning: the state and this host's configuration to desired rows."""

from flyebpf.plan.planner import Planner
from flyebpf.plan.site import HOST, Owner

__all__ = ["HOST", "Owner", "Planner"]
