# SPDX-License-Identifier: Apache-2.0
"""All kinds of rows, in the order in which they are applied."""

from __future__ import annotations

from flyebpf.model.checkrows import CheckRow
from flyebpf.model.proxyrows import (
    ProxyAppRow,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyClusterRow,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
    ProxyTargetRow,
)
from flyebpf.model.rows import (
    HostPortRow,
    HostRow,
    InterfaceRow,
    MeshPeerRow,
    MeshRow,
    NameRow,
    NatRow,
    PolicyRow,
    ReplyRow,
    Row,
    ServiceRow,
    SettingsRow,
    SlotRow,
    TableRow,
    UplinkRow,
    UserPeerRow,
    VipRow,
)

ROW_ORDER: tuple[type[Row], ...] = (
    HostPortRow,  # settings have its index
    SettingsRow,
    PolicyRow,
    NatRow,
    MeshRow,
    MeshPeerRow,
    UserPeerRow,
    HostRow,
    SlotRow,
    InterfaceRow,
    TableRow,
    ReplyRow,
    ProxyRow,
    ProxyTargetRow,
    CheckRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyClusterRow,
    ProxyAppRow,
    ProxySniRow,
    ProxyRouteRow,
    ProxyBindRow,
    ServiceRow,
    VipRow,
    UplinkRow,
    NameRow,
)
