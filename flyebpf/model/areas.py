# SPDX-License-Identifier: Apache-2.0
"""Parts of the world, by which an app may ask for regions: ``apac``, ``eu``, ``na``,
``sa``, ``us``. Regions are known by the codes of the platform that flyebpf follows,
which are those of airports; a code that is not here is in none of them."""

from __future__ import annotations

_AREAS = {
    "apac": "bom del hkg icn kul mel nrt sin syd",
    "eu": "ams arn ber bru cdg cph dub fra lhr lis mad mrs muc mxp otp prg vie waw zrh",
    "na": "atl bos den dfw ewr gdl iad lax mia ord phx qro sea sfo sjc yul yvr yyz",
    "sa": "bog eze gig gru scl",
    "us": "atl bos den dfw ewr iad lax mia ord phx sea sfo sjc",
}
AREAS = tuple(_AREAS)
_OF: dict[str, list[str]] = {}
for _area, _regions in _AREAS.items():
    for _region in _regions.split():
        _OF.setdefault(_region, []).append(_area)


def areas(region: str) -> list[str]:
    """The areas that a region is in."""
    return list(_OF.get(region, ()))
