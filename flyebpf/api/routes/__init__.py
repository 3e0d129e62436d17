# SPDX-License-Identifier: Apache-2.0
"""Every route of the API."""

from __future__ import annotations

from flyebpf.api.routes import (
    acme,
    addresses,
    apps,
    certificates,
    checks,
    deployments,
    dns,
    doctor,
    host,
    hosts,
    machines,
    orgs,
    services,
    wireguard,
)
from flyebpf.api.table import Route

ROUTES: tuple[Route, ...] = (
    *host.ROUTES,
    *hosts.ROUTES,
    *orgs.ROUTES,
    *apps.ROUTES,
    *machines.ROUTES,
    *deployments.ROUTES,
    *services.ROUTES,
    *checks.ROUTES,
    *addresses.ROUTES,
    *certificates.ROUTES,
    *acme.ROUTES,
    *wireguard.ROUTES,
    *dns.ROUTES,
    *doctor.ROUTES,
)
