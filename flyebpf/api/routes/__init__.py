# SPDX-License-Identifier: Apache-2.0
"""Every route of the API."""

from __future__ import annotations

from flyebpf.api.routes import addresses, apps, deployments, host, machines, orgs, services
from flyebpf.api.table import Route

ROUTES: tuple[Route, ...] = (
    *host.ROUTES,
    *orgs.ROUTES,
    *apps.ROUTES,
    *machines.ROUTES,
    *deployments.ROUTES,
    *services.ROUTES,
    *addresses.ROUTES,
)
