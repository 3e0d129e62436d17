# SPDX-License-Identifier: Apache-2.0
"""Deployments, and the check of a configuration without one."""

from __future__ import annotations

from flyebpf import flytoml
from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref
from flyebpf.api.table import Route
from flyebpf.errors import NotFoundError
from flyebpf.model.records import Deployment
from flyebpf.ops import apps, deploy


def create(call: Call) -> object:
    backend, app, body = call.backend, call.path["app"], call.body
    parsed = flytoml.parse(body["config"], strict=body.get("strict", False))
    result = deploy.deploy(
        call.store,
        backend.config,
        app,
        parsed,
        public_ips=body.get("public_ips", True),
        flycast=body.get("flycast", False),
        remove_services=body.get("remove_services", False),
    )
    lookup = views.Lookup(call.store)
    return {
        "app": result.deployment.app,
        **views.network_fields(lookup.network_of(result.deployment.app)),
        "version": result.deployment.version,
        "services": len(result.deployment.services),
        "warnings": list(result.warnings),
        "allocated": [address.address for address in result.allocated],
    }


def get(call: Call) -> object:
    app = apps.get(call.store, call.path["app"])
    lookup = views.Lookup(call.store)
    deployment = lookup.find(Deployment, app.name)
    if deployment is None:
        raise NotFoundError(
            f"app {app.name} has not been deployed",
            f"Deploy it: flyebpf deploy -a {app.name} -c fly.toml",
        )
    return views.deployment(deployment, lookup)


def validate(call: Call) -> object:
    parsed = flytoml.parse(call.body["config"], strict=call.body.get("strict", False))
    return {
        "app": parsed.app,
        "services": len(parsed.services),
        "warnings": list(parsed.warnings),
    }


ROUTES = (
    Route(
        "POST",
        "/v1/apps/{app}/deployments",
        "deployments_create",
        "Put a fly.toml into force for the app.",
        create,
        ref("DeployReport"),
        body=ref("DeployRequest"),
        status=201,
    ),
    Route(
        "GET",
        "/v1/apps/{app}/deployment",
        "deployments_get",
        "The app's last deployment.",
        get,
        ref("Deployment"),
    ),
    Route(
        "POST",
        "/v1/config/validate",
        "config_validate",
        "Check a fly.toml and change nothing.",
        validate,
        ref("ConfigReport"),
        body=ref("ConfigText"),
    ),
)
