# SPDX-License-Identifier: Apache-2.0
"""The services that most packet tests use.

====  =====================  ============================  ===================
id    clients dial           machines                      internal port
====  =====================  ============================  ===================
WEB   VIP tcp 80             1                             8080
DNS   VIP udp 53             1                             5353
BIG   VIP tcp 443            1 and 2                       443
GAME  VIP udp 5000-5003      2                             6000 (several ports)
SSH   VIP and VIP2, tcp 22   1                             2222 (several VIPs)
NONE  VIP tcp 81, udp 81     none                          81
WALL  VIP tcp 8443           needs the proxy               8443
SLOW  VIP tcp 82, udp 82     3, not by XDP redirect        82
TINY  SMALL_VIP tcp 80       2                             80
====  =====================  ============================  ===================

One other host, :data:`tests.packets6.OTHER_HOST`, behind lan0.
"""

from __future__ import annotations

from flyebpf.bpf.layout import (
    SERVICE_PROXY,
    SERVICE_REVERSE,
    SLOT_LIVE,
    SLOT_VIA_TC,
    VIP_ALLOCATED,
    VIP_RANGES,
)
from tests.bpf.rig import TCP, UDP, Rig
from tests.packets import SMALL_VIP, VIP, VIP2
from tests.packets6 import OTHER_HOST

WEB, DNS, BIG, GAME, SSH, NONE, WALL, SLOW, TINY = range(1, 10)


def build(rig: Rig) -> None:
    """Fill the maps of a rig that was reset."""
    rig.vip(VIP, VIP_ALLOCATED | VIP_RANGES)
    rig.vip(VIP2)
    rig.vip(SMALL_VIP)
    for number in (1, 2, 4):
        rig.slot(number)
    rig.slot(3, flags=SLOT_LIVE | SLOT_VIA_TC)
    rig.host(OTHER_HOST, "lan0")
    one, two, both, three = rig.table([1]), rig.table([2]), rig.table([1, 2] * 8), rig.table([3])
    none = rig.table([])
    rig.service(VIP, TCP, 80, id=WEB, table=one, internal=8080)
    rig.service(VIP, UDP, 53, id=DNS, table=one, internal=5353)
    rig.service(VIP, TCP, 443, id=BIG, table=both, internal=443)
    rig.service_range(VIP, UDP, 5000, 14, id=GAME, table=two, internal=6000, flags=SERVICE_REVERSE)
    for vip in (VIP, VIP2):
        rig.service(vip, TCP, 22, id=SSH, table=one, internal=2222, flags=SERVICE_REVERSE)
    for proto in (TCP, UDP):
        rig.service(VIP, proto, 81, id=NONE, table=none, internal=81)
        rig.service(VIP, proto, 82, id=SLOW, table=three, internal=82)
        rig.reply(3, proto, 82, id=SLOW, vip=VIP, port=82)
    rig.service(VIP, TCP, 8443, id=WALL, table=one, internal=8443, flags=SERVICE_PROXY)
    rig.service(SMALL_VIP, TCP, 80, id=TINY, table=two, internal=80)
    rig.reply(1, TCP, 8080, id=WEB, vip=VIP, port=80)
    rig.reply(1, UDP, 5353, id=DNS, vip=VIP, port=53)
    rig.reply(1, TCP, 443, id=BIG, vip=VIP, port=443)
    rig.reply(2, TCP, 443, id=BIG, vip=VIP, port=443)
    rig.reply(2, UDP, 6000, id=GAME)
    rig.reply(1, TCP, 2222, id=SSH)
    rig.reply(2, TCP, 80, id=TINY, vip=SMALL_VIP, port=80)
