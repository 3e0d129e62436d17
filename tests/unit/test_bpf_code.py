# SPDX-License-Identifier: Apache-2.0
"""Compiled code without its maps, and the shelf that keeps it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from flyebpf.bpf.code import INSTRUCTION, Code
from flyebpf.bpf.loader import shared_out
from flyebpf.bpf.shelf import KEPT, Shelf
from flyebpf.bpf.source import PROGRAMS, text_size

MOVE = INSTRUCTION.pack(0xB7, 0x00, 0, 1)  # r0 = 1
EXIT = INSTRUCTION.pack(0x95, 0x00, 0, 0)
SECOND_HALF = INSTRUCTION.pack(0, 0, 0, 0)
# The upper half of a 64-bit number that looks like a load of a map.
MISLEADING = INSTRUCTION.pack(0x18, 0x11, 0, 1)


def map_load(register: int, value: int) -> bytes:
    return INSTRUCTION.pack(0x18, 0x10 | register, 0, value) + SECOND_HALF


CODE = Code(("flows", "vips"), MOVE + map_load(1, 1) + map_load(2, 0) + EXIT)


def test_maps_get_their_descriptors() -> None:
    bound = CODE.bound({"flows": 70, "vips": 71, "others": 72})
    assert bound == MOVE + map_load(1, 71) + map_load(2, 70) + EXIT


def test_a_number_is_no_map() -> None:
    """Neither an immediate value of 64 bits, nor its second half."""
    number = INSTRUCTION.pack(0x18, 0x01, 0, 1) + MISLEADING
    code = Code(("flows",), number + EXIT)
    assert code.bound({}) == code.instructions


def test_a_map_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="vips"):
        CODE.bound({"flows": 70})


def test_json_and_back() -> None:
    assert Code.from_json(CODE.to_json()) == CODE


@pytest.mark.parametrize(
    "given",
    [
        {"maps": [], "instructions": ""},
        {"maps": [], "instructions": "AAAA"},
        {"maps": [], "instructions": "not base64!"},
        {"maps": []},
        {"instructions": "AAAAAAAAAAA="},
    ],
)
def test_no_code(given: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        Code.from_json(given)


def test_a_shelf_gives_back_what_was_put(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path / "new" / "cache"), pytest.fail)
    assert shelf.take("ab") is None
    shelf.put("ab", {"vm_tc": CODE})
    assert shelf.take("ab") == {"vm_tc": CODE}
    assert shelf.take("cd") is None
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "new/cache").iterdir()] == [0o600]


def test_the_oldest_go(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path), pytest.fail)
    for number in range(KEPT):
        shelf.put(str(number), {"vm_tc": CODE})
        os.utime(tmp_path / f"programs-{number}.json", (number, number))
    assert shelf.take("0"), "read just now, so not the oldest any more"
    shelf.put("new", {"vm_tc": CODE})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"programs-{n}.json" for n in (0, *range(2, KEPT), "new")}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"vm_tc": 1}', '{"vm_tc": {"maps": [], "instructions": "AA"}}']
)
def test_a_file_that_is_no_code_is_not_used(tmp_path: Path, text: str) -> None:
    said: list[str] = []
    shelf = Shelf(str(tmp_path), said.append)
    shelf.put("ab", {"vm_tc": CODE})
    (tmp_path / "programs-ab.json").write_text(text)
    assert shelf.take("ab") is None
    assert "programs-ab.json are not used" in said[0]


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_others_can_write_is_not_used(tmp_path: Path, what: str) -> None:
    said: list[str] = []
    folder = tmp_path / "cache"
    shelf = Shelf(str(folder), said.append)
    shelf.put("ab", {"vm_tc": CODE})
    file = folder / "programs-ab.json"
    if what == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        (file if what == "file" else folder).chmod(0o777)
    assert shelf.take("ab") is None
    assert "can be written by others" in said[0]


def test_a_folder_that_cannot_be_made_costs_no_start(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    shelf = Shelf(str(tmp_path / "file" / "cache"), said.append)
    shelf.put("ab", {"vm_tc": CODE})
    assert shelf.take("ab") is None
    assert "cannot be kept in" in said[0]


def test_the_compilers_share_all_programs() -> None:
    names = sorted(spec.name for spec in PROGRAMS)
    for count in (1, 2, 4, 100):
        shares = shared_out(count)
        assert sorted(name for share in shares for name in share) == names
        assert len(shares) == min(count, len(names))
    halves = [sum(text_size(name) for name in share) for share in shared_out(2)]
    assert max(halves) < 2 * min(halves)


def test_an_instruction_is_eight_bytes() -> None:
    assert INSTRUCTION.size == struct.calcsize("<Q")
