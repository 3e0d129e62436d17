# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from flyebpf.flytoml.lines import line_of, locate

TEXT = '''\
app = "web"
[env]
TEXT = """
[services]
app = 1
"""
[[services]]
ports = [
  { port = 1 },
]
[[services.ports]]
port = 80
[[services.ports]]
"end_port" = 81  # [not.a.table]
[[services]]
[services.concurrency]
type = "requests"
[[services.ports]]
http_options.response.headers.X = "[y]"
[checks."my.check"]
port = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("app", 1),
        ("env.TEXT", 3),
        ("services[0]", 7),
        ("services[0].ports", 8),
        ("services[0].ports[0].port", 12),
        ("services[0].ports[1]", 13),
        ("services[0].ports[1].end_port", 14),
        ("services[1]", 15),
        ("services[1].concurrency", 16),
        ("services[1].concurrency.type", 17),
        ("services[1].ports[0].http_options.response.headers.X", 19),
        ("checks.my.check.port", 21),
    ],
)
def test_every_key_has_its_line(path: str, line: int) -> None:
    assert locate(TEXT)[path] == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("services[1].processes", 15),
        ("services[0].ports[1].tls_options.alpn", 13),
        ("http_service", None),
        ("", None),
        ("odd]", None),
        ("[", None),
    ],
)
def test_what_is_not_there_is_near_what_is(path: str, line: int | None) -> None:
    assert line_of(path, locate(TEXT)) == line
