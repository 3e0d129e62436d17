# SPDX-License-Identifier: Apache-2.0
"""Fills a cluster's store with machines: ``live_fill ENDPOINTS FIRST END``, by number.

The machines are on hosts that are only records, a hundred on each, and present.
Ten machines are an app; every tenth app has an address and a service, so that a
tenth of the machines is steered to. Prints the revision of the last transaction.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

from flyebpf.config import EtcdConfig
from flyebpf.model.codec import encode
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Deployment,
    Host,
    Machine,
    Network,
    Organization,
    Port,
    Presence,
    Service,
)
from flyebpf.store.base import Put, Transaction
from flyebpf.store.etcd import EtcdStore

PER_HOST, PER_APP, PER_ADDRESS = 100, 10, 10
AT_ONCE = 100  # records a transaction; etcd takes 128 operations
ADDRESSES = 250  # of the lab's pool
NETWORK, FIRST_HOST, FIRST_MACHINE = 1_000, (1 << 31) + 1_000, 1_000
POOL = int(IPv4Address("203.0.113.2"))
PRIVATE = int(IPv4Address("172.24.0.0"))
SERVICES = (Service("tcp", 8080, (Port(80, 80),), ("app",)),)


def records(first: int, end: int) -> Iterator[AnyRecord]:
    if not first:
        yield Organization("fill")
        yield Network("fill", "default", NETWORK)
    for number in range(first, end):
        host, app = number // PER_HOST, number // PER_APP
        if number % PER_HOST == 0:
            block = IPv4Address(PRIVATE + 256 * host)
            yield Host(f"ghost{host}", FIRST_HOST + host, "ams", f"{block}/24")
            yield Presence(f"ghost{host}")
        if number % PER_APP == 0:
            yield App(f"fill{app}", "fill")
            if app % PER_ADDRESS == 0 and app // PER_ADDRESS < ADDRESSES:
                vip = str(IPv4Address(POOL + app // PER_ADDRESS))
                yield Address(vip, f"fill{app}", AddressKind.V4)
                yield Deployment(f"fill{app}", SERVICES)
        own = PRIVATE + 256 * host + 2 * (number % PER_HOST) + 2
        yield Machine(
            id=f"{number:014x}",
            app=f"fill{app}",
            host=f"ghost{host}",
            region="ams",
            interface=f"tap{number % PER_HOST}",
            mac=f"02:01:{number >> 24 & 255:02x}:{number >> 16 & 255:02x}:"
            f"{number >> 8 & 255:02x}:{number & 255:02x}",
            private_ip=str(IPv4Address(own)),
            services_ip=str(IPv4Address(own + 1)),
            number=FIRST_MACHINE + number,
        )


def main() -> None:
    endpoints, first, end = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store = EtcdStore(EtcdConfig(endpoints=tuple(endpoints)))
    revision = 0
    batch: list[Put] = []
    for record in records(first, end):
        batch.append(Put(record.kind, record.ident, encode(record)))
        if len(batch) == AT_ONCE:
            revision = store.commit(Transaction((), tuple(batch)))
            batch.clear()
    if batch:
        revision = store.commit(Transaction((), tuple(batch)))
    store.close()
    print(revision)


if __name__ == "__main__":
    main()
