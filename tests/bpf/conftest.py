# SPDX-License-Identifier: Apache-2.0
"""The programs, loaded once, on a bpffs and in a network namespace of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from flyebpf.bpf import loader
from flyebpf.bpf.loader import Generation
from flyebpf.config import DaemonConfig, DataplaneConfig
from tests.bpf import far as far_world
from tests.bpf import world, world6
from tests.bpf.namespace import Namespace
from tests.bpf.rig import Rig

SIZES = DataplaneConfig(
    flows=16_384,
    services=64,
    machines=16,
    maglev_entries=1024,
    pool_addresses=512,
    pool6_addresses=32,
    fragments=8192,
)


@pytest.fixture(scope="session")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generation]:
    """All programs and maps, compiled from the tree's sources."""
    if os.geteuid() != 0:
        pytest.fail("the packet tests need root: run sudo scripts/test bpf", pytrace=False)
    folder = tmp_path_factory.mktemp("bpffs") / "flyebpf"
    config = DaemonConfig("test", "ams", ("up0",), bpffs=str(folder), dataplane=SIZES)
    try:
        made = loader.ensure(config)
        yield made
        made.close()
    finally:
        if os.path.ismount(folder):
            subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


@pytest.fixture(scope="session")
def loaded(generation: Generation, namespace: Namespace) -> Rig:
    return Rig(generation, namespace)


@pytest.fixture
def rig(loaded: Rig) -> Iterator[Rig]:
    """Reset, with the world's services, and this thread in the namespace."""
    with loaded.namespace.entered():
        loaded.reset()
        world.build(loaded)
        yield loaded


@pytest.fixture
def far(rig: Rig) -> Rig:
    """The rig with services whose machine is on another host."""
    far_world.build(rig)
    return rig


@pytest.fixture
def six(rig: Rig) -> Rig:
    """The rig with services at IPv6 addresses."""
    world6.build(rig)
    return rig
