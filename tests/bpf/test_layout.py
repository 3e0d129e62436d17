# SPDX-License-Identifier: Apache-2.0
"""C and Python describe the maps alike, and a difference cannot pass unseen."""

from __future__ import annotations

import ctypes as ct
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.bpf import asserts, layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.loader import Generation
from flyebpf.bpf.maps import flow_buckets, map_specs
from flyebpf.bpf.source import source_dir
from tests.bpf.conftest import SIZES
from tests.bpf.expect import row

LAYOUT = (source_dir() / "include" / "layout.h").read_text()
REASONS = (source_dir() / "include" / "reasons.h").read_text()

CHECK = """
import sys
from pathlib import Path
from flyebpf.bpf.compiler import import_bcc
from flyebpf.bpf.source import cflags
folder = sys.argv[1]
flags = [flag for flag in cflags() if not flag.endswith("/bpf/include")]
import_bcc()(text=Path(folder, "check.c").read_text(), cflags=[f"-I{folder}", *flags])
"""


def compile_with(folder: Path, layout_text: str, reasons_text: str = REASONS) -> str:
    """The compiler's complaints about these headers and the assertions."""
    (folder / "layout.h").write_text(layout_text)
    (folder / "reasons.h").write_text(reasons_text)
    (folder / "check.c").write_text(f"#include <linux/types.h>\n{asserts.text()}")
    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(source_dir().parent)},
    )
    return "" if result.returncode == 0 else result.stderr + result.stdout


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in the header"
    return text.replace(old, new)


def test_the_headers_as_they_are(tmp_path: Path) -> None:
    assert compile_with(tmp_path, LAYOUT) == ""


MOVED = [
    row(
        "two fields of one size change places",
        "	__u32 flags;\n	__u32 ifindex;\n	__be32 private_ip;",
        "	__u32 ifindex;\n	__u32 flags;\n	__be32 private_ip;",
        "slot.flags",
    ),
    row("a field grows", "	__u32 pool_count;", "	__u64 pool_count;", "settings"),
    row("a field is added at the end", "	__u32 pad[3];", "	__u32 pad[5];", "size of slot"),
    row(
        "a field is renamed",
        "	__be16 internal_port;\n	__u32 slot;",
        "	__be16 inner_port;\n	__u32 slot;",
        "internal_port",
    ),
    row("an array grows", "#define MAX_POOLS 16", "#define MAX_POOLS 17", "MAX_POOLS"),
    row("a flag changes", "#define SLOT_VIA_TC 2", "#define SLOT_VIA_TC 8", "SLOT_VIA_TC"),
    row("a count changes", "	COUNT_RST = 2,", "	COUNT_RST = 3,", "COUNT_RST"),
]


@pytest.mark.parametrize(("old", "new", "named"), MOVED)
def test_a_difference_is_an_error(tmp_path: Path, old: str, new: str, named: str) -> None:
    """Of the compiler, and it names what differs."""
    complaint = compile_with(tmp_path, replaced(LAYOUT, old, new))
    assert "error" in complaint
    assert named in complaint


def test_a_reason_with_another_number_is_an_error(tmp_path: Path) -> None:
    text = replaced(REASONS, "	DROP_TTL = 9,", "	DROP_TTL = 19,")
    assert "layout.py differs: DROP_TTL" in compile_with(tmp_path, LAYOUT, text)


def test_every_struct_is_mirrored() -> None:
    """No struct, flag or size of layout.h is missing in layout.py."""
    structs = set(re.findall(r"^struct (\w+) {", LAYOUT, re.MULTILINE))
    mirrored = {asserts.c_name(struct) for struct in asserts.structs()}
    assert structs - mirrored == {"addr"}  # Python: 16 bytes
    assert mirrored <= structs
    defined = dict(re.findall(r"^#define (\w+) (\d+)", LAYOUT, re.MULTILINE))
    assert {name: getattr(layout, name, None) for name in defined} == {
        name: int(value) for name, value in defined.items()
    }


def test_every_field_is_mirrored() -> None:
    for struct in asserts.structs():
        name = asserts.c_name(struct)
        body = re.search(rf"^struct {name} {{\n(.*?)^}};", LAYOUT, re.MULTILINE | re.DOTALL)
        assert body, name
        code = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
        fields = re.findall(r"(\w+)(?:\[\w+\])?;", code)
        assert fields == [field for field, *_ in struct._fields_], name


def test_maps_in_the_kernel_are_as_specified(generation: Generation) -> None:
    for spec in map_specs(SIZES):
        assert isinstance(generation.maps[spec.name], Map)
        assert generation.maps[spec.name].matches(spec), spec.name


@pytest.mark.parametrize(
    ("flows", "buckets"), [(0, 1), (1, 1), (4, 1), (5, 1), (8, 2), (12, 4), (1_048_576, 262_144)]
)
def test_flow_buckets_are_a_power_of_two(flows: int, buckets: int) -> None:
    """The programs mask a hash with their number less one."""
    assert flow_buckets(replace(SIZES, flows=flows)) == buckets


def test_one_entry_is_one_line_of_cache() -> None:
    """A flow is looked up by reading 64 bytes at a time."""
    assert ct.sizeof(layout.Flow) == ct.sizeof(layout.Reverse) == ct.sizeof(layout.Slot) == 64
