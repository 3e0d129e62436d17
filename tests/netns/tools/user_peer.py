# SPDX-License-Identifier: Apache-2.0
"""user_peer: a user's computer that does what its WireGuard configuration says.

Reads one line from standard input: ``{"namespace", "device", "config", "folder"}``,
``config`` being the text that ``flyebpf wireguard create`` gave. Prints "ready"
when the device is up, and on SIGTERM removes it and prints "ended" as JSON.
"""

from __future__ import annotations

import base64
import configparser
import json
import signal
import sys
from pathlib import Path

from flyebpf.drivers.wireguard import PeerChange
from flyebpf.drivers.wireguard_go import WireguardGo
from flyebpf.lab import net


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    wanted = json.loads(sys.stdin.readline())
    parser = configparser.ConfigParser()
    parser.read_string(wanted["config"])
    interface, peer = parser["Interface"], parser["Peer"]
    device, namespace = wanted["device"], wanted["namespace"]
    change = PeerChange(
        peer["PublicKey"],
        peer["Endpoint"],
        frozenset([peer["AllowedIPs"], "fdaa::/16"]),
        int(peer["PersistentKeepalive"]),
    )
    with net.inside(namespace):
        wireguard = WireguardGo(Path(wanted["folder"]))
        wireguard.create(device)
        try:
            key = base64.b64decode(interface["PrivateKey"])
            wireguard.write(device, private_key=key, peers=[change])
            net.batch(
                namespace,
                f"link set {device} addrgenmode none mtu 1380",
                f"address add {interface['Address']} dev {device} nodad",
                f"link set {device} up",
                f"route add {peer['AllowedIPs']} dev {device}",
            )
            print("ready", flush=True)
            signal.sigwait({signal.SIGTERM})
        finally:
            wireguard.delete(device)
    print(json.dumps("ended"))


main()
