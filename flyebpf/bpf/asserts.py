# SPDX-License-Identifier: Apache-2.0
"""C assertions that layout.py says the same as layout.h.

Compiled into every program, so a difference is a compiler error that names the
struct and the field. C names follow from the Python ones: ``FlowBucket`` is
``struct flow_bucket``.
"""

from __future__ import annotations

import ctypes as ct
import re
from collections.abc import Iterator

from flyebpf.bpf import layout
from flyebpf.model.reasons import COUNT_MAX, DROP_REASON_MAX, Count, DropReason

CONSTANTS = re.compile(r"(MAX|DNS|NAME|VIP|VM|MESH|SERVICE|SLOT|REPLY|FLOW|POLICY)_[A-Z0-9_]+")


def structs() -> Iterator[type[ct.Structure]]:
    """Every struct of layout.py."""
    for value in vars(layout).values():
        if isinstance(value, type) and issubclass(value, ct.Structure):
            yield value


def c_name(struct: type[ct.Structure]) -> str:
    """``FlowBucket`` -> ``flow_bucket``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", struct.__name__).lower()


def assertion(condition: str, what: str) -> str:
    return f'_Static_assert({condition}, "layout.py differs: {what}");'


def struct_assertions(struct: type[ct.Structure]) -> Iterator[str]:
    name = c_name(struct)
    yield assertion(f"sizeof(struct {name}) == {ct.sizeof(struct)}", f"size of {name}")
    for field, *_ in struct._fields_:
        offset = getattr(struct, field).offset
        size = getattr(struct, field).size
        where = f"{name}.{field}"
        yield assertion(f"__builtin_offsetof(struct {name}, {field}) == {offset}", where)
        yield assertion(f"sizeof(((struct {name} *)0)->{field}) == {size}", f"size of {where}")


def constant_assertions() -> Iterator[str]:
    for name, value in vars(layout).items():
        if CONSTANTS.fullmatch(name):
            yield assertion(f"{name} == {value}", name)
    for reason in DropReason:
        yield assertion(f"DROP_{reason.name} == {reason.value}", f"DROP_{reason.name}")
    for what in Count:
        yield assertion(f"COUNT_{what.name} == {what.value}", f"COUNT_{what.name}")
    yield assertion(f"DROP_REASON_MAX == {DROP_REASON_MAX}", "DROP_REASON_MAX")
    yield assertion(f"COUNT_MAX == {COUNT_MAX}", "COUNT_MAX")


def text() -> str:
    """A C header; to be included after layout.h and reasons.h."""
    lines = ['#include "layout.h"', '#include "reasons.h"', *constant_assertions()]
    for struct in structs():
        lines.extend(struct_assertions(struct))
    return "\n".join(lines) + "\n"
