# SPDX-License-Identifier: Apache-2.0
"""Imports run one way, and each foreign library has one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import flyebpf

ROOT = Path(flyebpf.__file__).parent
ANYBODY = {"errors", "config", "collector", "logs", "rights", "unixpeer"}

# What each part may import, besides itself and what anybody may.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "collector": set(),
    "logs": set(),
    "rights": set(),
    "unixpeer": set(),
    "model": set(),
    "dns": {"model"},
    "checks": set(),
    "proxy": {"model"},
    "acme": set(),
    "flytoml": {"model", "tomllines"},
    "tomllines": set(),
    "configrules": {"model", "bpf.layout", "tomllines"},
    "configcluster": {"model", "configrules"},
    "configmachines": {"model", "configrules"},
    "configacme": {"configrules"},
    "configfile": {
        "model",
        "configrules",
        "configcluster",
        "configmachines",
        "configacme",
        "tomllines",
    },
    "store": set(),
    "wireguardkeys": set(),
    "certificates": set(),
    "ops": {"model", "store", "flytoml", "wireguardkeys", "certificates"},
    "plan": {"model"},
    "reconcile": {"model", "plan"},
    "bpf": {"model"},
    "metrics": {"model", "api.backend", "meshmetrics", "dnsmetrics", "certmetrics", "proxymetrics"},
    "drivers": {"model", "reconcile", "bpf", "proxy", "wireguardkeys"},
    "dnsmetrics": {"dns.metrics"},
    "certmetrics": set(),
    "proxymetrics": {"proxy.appstats"},
    "meshmetrics": {"api.backend"},
    "api": {"model", "store", "ops", "flytoml", "plan", "doctor"},
    "doctor": {"model", "store", "ops", "plan.services", "api.backend", "api.probes"},
    "join": {"model", "store", "ops", "configfile"},
    "cli": {"api.client", "flytoml", "configfile", "daemon", "join"},
    "lab": {"api.client", "cli", "model", "flytoml"},
    "__main__": {"cli"},
}
ANYTHING = {"daemon"}
"""The composition root knows every part but those that stand above it."""

# Which modules may import a foreign library, by module name.
HOMES = {
    "bcc": ["flyebpf.bpf.compiler"],
    "pyroute2": ["flyebpf.drivers.netlink*", "flyebpf.lab.*"],
    "cryptography": ["flyebpf.wireguardkeys", "flyebpf.certificates*", "flyebpf.acme.*"],
    "acme": ["flyebpf.acme.process"],
    "josepy": ["flyebpf.acme.process"],
    "sqlite3": ["flyebpf.store.sqlite*"],
    "etcd3gw": ["flyebpf.store.etcdmembers"],
    "requests": ["flyebpf.store.etcdmembers", "flyebpf.acme.process"],
    "starlette": ["flyebpf.api.*"],
    "envoy": [
        *("flyebpf.proxy.ads", "flyebpf.proxy.load_reports", "flyebpf.proxy.process"),
        "flyebpf.proxy.waking",
    ],
    "grpc": ["flyebpf.proxy.load_reports", "flyebpf.proxy.process", "flyebpf.proxy.waking"],
    "google": ["flyebpf.proxy.ads", "flyebpf.proxy.process"],
    "uvicorn": ["flyebpf.api.server"],
    "click": ["flyebpf.cli.*", "flyebpf.lab.*"],
    "prometheus_client": ["flyebpf.*metrics", "flyebpf.daemon", "flyebpf.daemon.*"],
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["flyebpf", *path.relative_to(ROOT).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def part(module: str) -> str:
    """The part of the package that a module belongs to."""
    return module.removeprefix("flyebpf").strip(".").partition(".")[0]


def may_import(importer: str, imported: str) -> bool:
    above, below = part(importer), part(imported)
    if below in ("", above) or below in ANYBODY:
        return True
    if above in ANYTHING:
        return below not in ("cli", "lab")
    name = imported.removeprefix("flyebpf.")
    return any(name == known or name.startswith(known + ".") for known in ALLOWED[above])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module: str) -> None:
    if part(module) == "":
        return
    wrong = [
        name
        for name in imports(MODULES[module])
        if name.partition(".")[0] == "flyebpf" and not may_import(module, name)
    ]
    assert not wrong, f"{module} must not import {wrong}"


@pytest.mark.parametrize("library", sorted(HOMES))
def test_each_library_has_its_home(library: str) -> None:
    users = [
        module
        for module, path in MODULES.items()
        if any(name.partition(".")[0] == library for name in imports(path))
    ]
    strangers = [u for u in users if not any(fnmatch(u, home) for home in HOMES[library])]
    assert not strangers, f"{library} is imported by {strangers}"


def test_drivers_do_not_import_each_other() -> None:
    """A driver may have helpers of its own: modules that start with its name."""
    drivers = [m for m in MODULES if m.startswith("flyebpf.drivers.")]
    owners = {m for m in drivers if "    kinds" in MODULES[m].read_text()}
    wrong = [
        (module, name)
        for module in drivers
        for name in imports(MODULES[module])
        if module in owners and name in owners and name != module
    ]
    assert not wrong


def test_the_rules_catch_a_wrong_import() -> None:
    assert not may_import("flyebpf.model.state", "flyebpf.plan.planner")
    assert not may_import("flyebpf.plan.apps", "flyebpf.store.sqlite")
    assert not may_import("flyebpf.drivers.maps", "flyebpf.plan.planner")
    assert not may_import("flyebpf.cli.apps", "flyebpf.api.server")
    assert not may_import("flyebpf.daemon", "flyebpf.lab.cli")
    assert may_import("flyebpf.cli.apps", "flyebpf.api.client")


KERNEL = (
    "bcc",
    "pyroute2",
    "sqlite3",
    "starlette",
    "uvicorn",
    "anyio",
    "prometheus_client",
    "requests",
)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["orgs", "list"], ["machines", "list"], ["status"], ["services", "list"]],
    ids=" ".join,
)
def test_client_commands_load_nothing_of_the_kernel(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; from flyebpf.cli.main import run; run(sys.argv[1:]);"
        f"print('LOADED', [m for m in {KERNEL!r} if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, "--socket", str(tmp_path / "none.sock"), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT.parent
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"
