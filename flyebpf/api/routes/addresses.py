# SPDX-License-Identifier: Apache-2.0
"""Public addresses of apps."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.errors import InvalidError
from flyebpf.model.records import Address, AddressKind, App, Network
from flyebpf.ops import addresses, flycast


def list_all(call: Call) -> object:
    store, app = call.store, call.query.get("app")
    found = addresses.list_all(store, app)
    return _page(found, views.Lookup(store) if app else views.Lookup(store, App, Network))


def allocate(call: Call) -> object:
    store, config, app = call.store, call.backend.config, call.path["app"]
    kind = AddressKind(call.body["type"])
    callers = {name: call.body.get(name) for name in ("network", "org")}
    if kind is AddressKind.PRIVATE_V6:
        record = flycast.allocate(store, config, app, **callers)
    elif any(name is not None for name in callers.values()):
        raise InvalidError(
            f"network and org are of Flycast addresses: a {kind} address has none",
            "ask for the type private_v6 (--private), or leave them out",
        )
    elif kind is AddressKind.SHARED_V4:
        record = addresses.allocate_shared_v4(store, config, app)
    elif kind is AddressKind.V6:
        record = addresses.allocate_v6(store, config, app)
    else:
        record = addresses.allocate_v4(store, config, app)
    return views.address(record, views.Lookup(store))


def release(call: Call) -> object:
    released = addresses.release(call.store, call.path["app"], call.body["addresses"])
    return _page(released, views.Lookup(call.store))


def _page(records: list[Address], lookup: views.Lookup) -> object:
    return page([views.address(record, lookup) for record in records])


ROUTES = (
    Route(
        "GET",
        "/v1/addresses",
        "addresses_list",
        "All allocated addresses.",
        list_all,
        items("Address"),
        query={"app": string("Only this app's.")},
    ),
    Route(
        "POST",
        "/v1/apps/{app}/addresses",
        "addresses_allocate",
        "Give the app an address: out of the operator's pools, or a private one.",
        allocate,
        ref("Address"),
        body=ref("AddressAllocate"),
        status=201,
    ),
    Route(
        "POST",
        "/v1/apps/{app}/addresses/release",
        "addresses_release",
        "Give addresses back, all of them or none; answers what they were.",
        release,
        items("Address"),
        body=ref("AddressRelease"),
    ),
)
