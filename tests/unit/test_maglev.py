# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyebpf.plan import maglev

SEED = 0x1122334455667788


def names(count: int, first: int = 0) -> list[str]:
    return [f"{number:014x}" for number in range(first, first + count)]


def owners(backends: list[str], size: int = maglev.MEDIUM, seed: int = SEED) -> list[str]:
    return [backends[i] for i in maglev.build(backends, size, seed)]


def test_sizes_are_primes() -> None:
    for size in (maglev.SMALL, maglev.MEDIUM, maglev.LARGE):
        assert all(size % d for d in range(2, int(size**0.5) + 1)), size


@pytest.mark.parametrize(
    ("backends", "size"),
    [
        (0, 0), (1, 1), (2, 2039), (16, 2039), (17, 65537), (256, 65537),
        (257, 655373), (5000, 655373),
    ],
)  # fmt: skip
def test_table_size(backends: int, size: int) -> None:
    assert maglev.table_size(backends) == size


def test_empty_and_single() -> None:
    assert maglev.build([], 0, SEED) == array("I")
    assert maglev.build(["a"], 1, SEED) == array("I", [0])


@pytest.mark.parametrize(
    ("backends", "size"),
    [(["a", "a"], maglev.SMALL), ([], maglev.SMALL), (["a", "b"], 1)],
)
def test_impossible_tables(backends: list[str], size: int) -> None:
    with pytest.raises(ValueError, match=r"named twice|do not make"):
        maglev.build(backends, size, SEED)


def test_example_of_the_algorithm() -> None:
    """The table of a size small enough to follow section 3.4 literally."""
    backends, size = names(3), 7
    walks = [maglev._walk(name, size, SEED) for name in backends]
    lists = [[(offset + j * skip) % size for j in range(size)] for offset, skip in walks]
    expected: dict[int, int] = {}
    while len(expected) < size:
        for backend, wanted in enumerate(lists):
            free = [entry for entry in wanted if entry not in expected]
            if free:
                expected[free[0]] = backend
    assert list(maglev.build(backends, size, SEED)) == [expected[i] for i in range(size)]


def test_stable_across_versions() -> None:
    """Hosts of different releases must agree: these entries may never change."""
    table = maglev.build(names(5), maglev.SMALL, SEED)
    assert list(table[:16]) == [0, 4, 4, 2, 0, 2, 0, 0, 3, 3, 3, 2, 4, 2, 1, 0]


@settings(max_examples=20, deadline=None)
@given(st.permutations(names(7)), st.integers(0, (1 << 64) - 1))
def test_order_of_backends_does_not_matter(shuffled: list[str], seed: int) -> None:
    assert owners(shuffled, maglev.SMALL, seed) == owners(names(7), maglev.SMALL, seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(0, (1 << 64) - 1))
def test_shares_differ_by_one_entry_at_most(count: int, seed: int) -> None:
    shares = Counter(maglev.build(names(count), maglev.SMALL, seed))
    assert len(shares) == count
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.parametrize("count", [2, 16, 17, 100, 256])
def test_balance_at_the_chosen_size(count: int) -> None:
    size = maglev.table_size(count)
    shares = Counter(maglev.build(names(count), size, SEED))
    assert max(shares.values()) / (size / count) < 1.01


def test_seed_changes_the_table() -> None:
    assert owners(names(5), maglev.SMALL, 1) != owners(names(5), maglev.SMALL, 2)


@pytest.mark.parametrize("gone", [0, 37, 99])
def test_removing_one_of_100_moves_few_others(gone: int) -> None:
    everyone = names(100)
    lost = everyone[gone]
    before = owners(everyone)
    after = owners([name for name in everyone if name != lost])
    moved = sum(1 for a, b in zip(before, after, strict=True) if a not in (lost, b))
    assert moved <= 0.015 * maglev.MEDIUM


def test_adding_one_to_100_moves_few_others() -> None:
    new = "f" * 14
    before, after = owners(names(100)), owners([*names(100), new])
    moved = sum(1 for a, b in zip(before, after, strict=True) if b not in (new, a))
    assert moved <= 0.015 * maglev.MEDIUM
