# SPDX-License-Identifier: Apache-2.0
"""``fly.toml``: parsing and validation (contract, sections 3 and 4)."""

from flyebpf.flytoml.document import ParsedConfig, parse, parse_table

__all__ = ["ParsedConfig", "parse", "parse_table"]
