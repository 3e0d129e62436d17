# SPDX-License-Identifier: Apache-2.0
"""Pins: finds the programs of an earlier daemon or loads them anew.

Layout of the bpffs folder (root's, 0700)::

    maps/<name>-<digest>      see flyebpf.bpf.maps
    programs/<hash>/<name>    complete or not there: filled aside, then renamed
    links/<interface>-xdp     made by the netlink driver

A name on a bpffs cannot have a dot in it. Nothing that is attached is touched
here.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from flyebpf.bpf.code import Code, load
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.maps import MapSpec, map_specs
from flyebpf.bpf.program import Program
from flyebpf.bpf.shelf import Shelf
from flyebpf.bpf.source import PROGRAMS, TYPES, code_hash, source_hash, text_size
from flyebpf.config import DaemonConfig
from flyebpf.errors import FlyebpfError, KernelError, UnavailableError

BPF_FS_MAGIC = 0xCAFE4A11
FOREIGN = "foreign-"  # the first part of a pin's name that was set aside
COMPILE_TIMEOUT = 120.0  # seconds; five are usual
Log = Callable[[str], None]


class Origin(StrEnum):
    """Where programs come from."""

    ADOPTED = "adopted"  # pinned and perhaps attached already
    LOADED = "loaded"  # compiled by an earlier start
    COMPILED = "compiled"


@dataclass(frozen=True, slots=True)
class Generation:
    """The programs of one source hash and the maps that they use."""

    hash: str
    maps: dict[str, Map]
    programs: dict[str, Program]
    origin: Origin
    new_maps: tuple[str, ...]
    seconds: float

    def close(self) -> None:
        for owned in (*self.maps.values(), *self.programs.values()):
            owned.close()


def ensure(config: DaemonConfig, log: Log = lambda _: None) -> Generation:
    """Adopt the pins for the present sources, or load and pin programs."""
    begun = time.monotonic()
    root = prepare_bpffs(Path(config.bpffs))
    specs = map_specs(config.dataplane)
    digest = source_hash(specs)
    maps, created = open_maps(root / "maps", specs, log)
    folder = root / "programs" / digest
    origin = Origin.ADOPTED
    if created and folder.is_dir():
        log(f"the pinned programs {digest} use maps that are gone: they are loaded anew")
        shutil.rmtree(folder)
    programs = adopt_programs(folder, log)
    if programs is None:
        code, origin = find_code(Shelf(config.cache_dir, log), specs, log)
        load_aside(folder, code, {name: opened.fd for name, opened in maps.items()})
        programs = {spec.name: Program.open(folder / spec.name) for spec in PROGRAMS}
    return Generation(digest, maps, programs, origin, created, time.monotonic() - begun)


def prepare_bpffs(root: Path) -> Path:
    """A bpffs at ``root`` that only root can enter; mounted if need be."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_bpffs(root):
            run_mount(root)
        info = root.stat()
        if info.st_uid != os.geteuid() or not stat.S_ISDIR(info.st_mode):
            raise UnavailableError(
                f"{root} belongs to user {info.st_uid}, so nothing pinned in it can be trusted",
                f"Find out who made it, remove it, or set another bpffs = … ({root} is not used).",
            )
        root.chmod(0o700)
        for name in ("maps", "programs", "links"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot prepare the bpffs folder {root}: {error.strerror}",
            "Run as root, and check that bpffs = … names a folder that can be made.",
        ) from error
    return root


def is_bpffs(path: Path) -> bool:
    """Whether the folder is on a bpffs."""
    result = subprocess.run(
        ["stat", "--file-system", "--format=%t", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() == f"{BPF_FS_MAGIC:x}"


def run_mount(root: Path) -> None:
    result = subprocess.run(
        ["mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise UnavailableError(
            f"cannot mount a bpffs at {root}: {result.stderr.strip()}",
            "Run as root (CAP_SYS_ADMIN), or mount it beforehand.",
        )


def open_maps(
    folder: Path, specs: tuple[MapSpec, ...], log: Log
) -> tuple[dict[str, Map], tuple[str, ...]]:
    """Every map, and the names of those that did not exist."""
    maps = {}
    for spec in specs:
        if (found := open_map(folder / spec.pin_name, spec, log)) is not None:
            maps[spec.name] = found
    drop_incomplete(folder, specs, maps, log)
    created = [spec for spec in specs if spec.name not in maps]
    for spec in created:
        maps[spec.name] = Map.create(spec)
        maps[spec.name].pin(folder / spec.pin_name)
    return maps, tuple(spec.name for spec in created)


def drop_incomplete(
    folder: Path, specs: tuple[MapSpec, ...], maps: dict[str, Map], log: Log
) -> None:
    """A family of which a member is gone is of no use: its indexes lead
    nowhere. Programs that are attached keep the members that they use."""
    family = [spec for spec in specs if spec.family]
    lost = [spec.name for spec in family if spec.name not in maps]
    if not lost or len(lost) == len(family):
        return
    log(f"the pinned maps {', '.join(lost)} are gone: all that belong with them are made anew")
    for spec in family:
        if spec.name in maps:
            maps.pop(spec.name).close()
            (folder / spec.pin_name).unlink()


def open_map(path: Path, spec: MapSpec, log: Log) -> Map | None:
    """The pinned map, if it is what it should be. Anything else at that path
    is moved out of the way, not destroyed."""
    if not os.path.lexists(path):
        return None
    try:
        found = Map.open(path)
    except FlyebpfError as error:
        set_aside(path, f"is not a map ({error.message})", log)
        return None
    if found.matches(spec):
        return found
    set_aside(path, f"has another layout: {found.shape}", log)
    found.close()
    return None


def set_aside(path: Path, why: str, log: Log) -> None:
    """Rename a pin that cannot be ours."""
    aside = path.with_name(f"{FOREIGN}{path.name}-{time.time_ns()}")
    log(f"the pin {path} {why}; renamed to {aside.name} and replaced by a new one")
    path.rename(aside)


def foreign_pins(root: Path) -> list[Path]:
    """What :func:`set_aside` has moved out of the way, now or earlier."""
    return sorted(
        entry
        for folder in ("maps", "programs", "links")
        if (root / folder).is_dir()
        for entry in (root / folder).glob(f"{FOREIGN}*")
    )


def adopt_programs(folder: Path, log: Log) -> dict[str, Program] | None:
    """The pinned programs, all of them and of the right type, or None."""
    if not folder.is_dir():
        return None
    programs: dict[str, Program] = {}
    for spec in PROGRAMS:
        try:
            program = Program.open(folder / spec.name)
        except FlyebpfError as error:
            log(f"pinned programs {folder.name} are not usable: {error.message}")
            break
        programs[spec.name] = program
        if program.type != TYPES[spec.type][0]:
            log(f"pinned program {folder / spec.name} is of type {program.type}, not ours")
            break
    else:
        return programs
    for program in programs.values():
        program.close()
    set_aside(folder, "does not hold our programs", log)
    return None


def find_code(shelf: Shelf, specs: tuple[MapSpec, ...], log: Log) -> tuple[dict[str, Code], Origin]:
    """The code of every program: kept by an earlier start, or compiled now."""
    digest = code_hash()
    code = shelf.take(digest)
    if code is not None and set(code) >= {spec.name for spec in PROGRAMS}:
        return code, Origin.LOADED
    log(f"compiling the BPF programs, source {digest}")
    code = compile_all(tuple(spec.name for spec in specs))
    shelf.put(digest, code)
    return code, Origin.COMPILED


def load_aside(folder: Path, code: Mapping[str, Code], descriptors: Mapping[str, int]) -> None:
    """Load and pin into a folder beside, then rename it: complete or not there."""
    aside = folder.with_name(f"{folder.name}-{os.getpid()}")
    aside.mkdir(mode=0o700)
    try:
        for spec in PROGRAMS:
            with load(spec, code[spec.name].bound(descriptors)) as program:
                program.pin(aside / spec.name)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def compile_all(maps: tuple[str, ...]) -> dict[str, Code]:
    """By processes of the compiler, one for each core, at most four. ``maps``: the
    names of all maps."""
    shares = shared_out(min(4, os.cpu_count() or 1))
    with ThreadPoolExecutor(len(shares)) as pool:
        jobs = [{"programs": share, "maps": maps} for share in shares]
        reports = list(pool.map(run_compiler, jobs))
    return {name: Code.from_json(code) for report in reports for name, code in report.items()}


def shared_out(count: int) -> list[list[str]]:
    """The programs in at most ``count`` shares that take about as long."""
    sizes = {spec.name: text_size(spec.name) for spec in PROGRAMS}
    shares: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        min(shares, key=lambda share: sum(sizes[n] for n in share)).append(name)
    return [share for share in shares if share]


def run_compiler(job: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Run a compiler process; its error text is the message of ours."""
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-m", "flyebpf.bpf.compiler"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError(
            f"compiling the BPF programs took longer than {COMPILE_TIMEOUT:.0f} s",
            "The host is overloaded; the programs in place go on working. Start again.",
        ) from error
    if result.returncode:
        raise KernelError(f"cannot build the BPF programs: {result.stderr.strip()}")
    report: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return report


def collect_garbage(config: DaemonConfig, current: Generation) -> list[str]:
    """Unpin programs and maps of older generations; returns what was removed.

    To be called when the current programs are attached everywhere: a program
    that is still attached lives on without its pin, and holds its maps.
    """
    root = Path(config.bpffs)
    removed = []
    keep = {spec.pin_name for spec in map_specs(config.dataplane)}
    for folder in (root / "programs").iterdir():
        if folder.name != current.hash and not folder.name.startswith(FOREIGN):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(f"programs/{folder.name}")
    for pin in (root / "maps").iterdir():
        if pin.name not in keep and not pin.name.startswith(FOREIGN):
            pin.unlink()
            removed.append(f"maps/{pin.name}")
    return removed
