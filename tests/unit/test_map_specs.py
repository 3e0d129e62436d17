# SPDX-License-Identifier: Apache-2.0
"""Which maps survive a change of layout or size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyebpf.bpf.maps import INDEPENDENT, map_specs
from flyebpf.config import DataplaneConfig

CONFIG = DataplaneConfig()


@pytest.mark.parametrize("size", ["flows", "services", "machines", "maglev_entries"])
def test_maps_with_indexes_of_each_other_change_together(size: str) -> None:
    before = {spec.name: spec.pin_name for spec in map_specs(CONFIG)}
    changed = replace(CONFIG, **{size: 2 * getattr(CONFIG, size)})
    after = {spec.name: spec.pin_name for spec in map_specs(changed)}
    same = {name for name in before if before[name] == after[name]}
    assert same == set(INDEPENDENT)


def test_the_policy_has_room_for_every_host() -> None:
    """A row for each other host's endpoint, beside those of the configuration."""
    for hosts in (16, 4_096, 20_000):
        specs = {spec.name: spec for spec in map_specs(replace(CONFIG, hosts=hosts))}
        assert specs["egress_policy"].max_entries >= hosts + 1000


def test_what_is_no_size_of_a_map_changes_none() -> None:
    assert map_specs(CONFIG) == map_specs(replace(CONFIG, xdp_mode="generic"))
