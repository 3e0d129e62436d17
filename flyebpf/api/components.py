# SPDX-License-Identifier: Apache-2.0
"""The named schemas of the API: what records and answers look like."""

from __future__ import annotations

from flyebpf.api.components_cluster import CLUSTER, NETWORK_FIELDS
from flyebpf.api.components_proxy import HTTP_OPTIONS, PROXY, TLS_OPTIONS
from flyebpf.api.schema import (
    Schema,
    array,
    boolean,
    integer,
    mapping,
    nullable,
    number,
    obj,
    ref,
    string,
)
from flyebpf.model.records import AddressKind, MachineState

BYTES = "L3 bytes."
ALLOCATED = (AddressKind.V4, AddressKind.SHARED_V4, AddressKind.V6, AddressKind.PRIVATE_V6)

COMPONENTS: dict[str, Schema] = {
    **CLUSTER,
    **PROXY,
    "Org": obj(
        {
            "name": string(),
            "networks": array(string()),
            "apps": array(string()),
            "cross_network_replays": boolean(
                "Its apps may replay requests to each other whatever their networks."
            ),
            "replay_sources": array(string("Another organization whose apps may replay to its.")),
        }
    ),
    "CrossNetworkReplays": obj({"enabled": boolean()}),
    "ReplaySource": obj({"source": string("Another organization.")}),
    "OrgCreate": obj({"name": string()}),
    "Network": obj({**NETWORK_FIELDS, "prefix": string("The /48 of its machines.")}),
    "App": obj(
        {
            "name": string(),
            **NETWORK_FIELDS,
            "hostname": string("Its default host name, under the operator's domain."),
            "machines": integer("How many machines it has."),
            "addresses": array(string()),
            "version": nullable(integer("Of its last deployment; null before the first.")),
        }
    ),
    "AppCreate": obj({"name": string(), "org": string()}, {"network": string()}),
    "Machine": obj(
        {
            "id": string("14 hex digits."),
            "name": string(),
            "app": string(),
            **NETWORK_FIELDS,
            "host": string(),
            "region": string(),
            "group": string("Its process group."),
            "state": string(enum=[state.value for state in MachineState]),
            "error": string("Why it could not be started or stopped the last time."),
            "cordoned": boolean("It gets no new flows."),
            "checks": obj(
                {"passing": integer("Checks that do."), "critical": integer("Those that fail.")}
            ),
            "interface": string("On the host."),
            "interface_missing": boolean(
                "The machine is on the host that is asked, which has no such interface: nothing "
                "reaches it."
            ),
            "mac": string("The VM's own."),
            "private_ip": string("The machine's private IPv4 address."),
            "services_ip": string("What fly-global-services is in the machine."),
            "ip_6pn": string("The machine's address on its 6PN."),
            "mtu": integer("What the VM is to set on its interface; 0: no mesh, any will do."),
            "metadata": mapping(string()),
        }
    ),
    "Check": obj(
        {
            "app": string(),
            "machine": string(),
            "host": string(),
            "region": string(),
            "name": string(),
            "type": string(enum=["tcp", "http"]),
            "port": integer("In the machine."),
            "status": string(
                "unknown: it has not been run since the machine's start.",
                enum=["passing", "critical", "unknown"],
            ),
            "routing": boolean("The machine gets nothing new of a service while it is critical."),
            "output": string("Why it is critical."),
            "since": string("RFC 3339; empty while it is unknown."),
        }
    ),
    "MachineAdd": obj(
        {"interface": string(), "mac": string()},
        {
            "name": string(),
            "group": string(),
            "region": string(),
            "metadata": mapping(string()),
            "id": string("14 hex digits; chosen when left out."),
        },
    ),
    "MachineMove": obj(
        {"interface": string("On the host that it moves to.")},
        {
            "host": string("Default: the host that is asked."),
            "mac": string("The VM's own; default: as before."),
        },
    ),
    "MetadataChange": obj(
        {}, {"set": mapping(string()), "unset": array(string("A key."), minItems=1)}
    ),
    "Environment": obj({"environment": mapping(string())}),
    "HostFiles": obj({"hosts": string("/etc/hosts"), "resolv_conf": string("/etc/resolv.conf")}),
    "Address": obj(
        {
            "address": string(),
            "type": string(enum=[kind.value for kind in AddressKind]),
            "app": string(),
            **NETWORK_FIELDS,
            "region": string(),
            "created": string("RFC 3339, UTC."),
        }
    ),
    "AddressAllocate": obj(
        {"type": string(enum=[kind.value for kind in ALLOCATED])},
        {
            "network": string("Of private_v6: where callers are; default: the app's network."),
            "org": string("Whose network; default: the app's organization."),
        },
    ),
    "AddressRelease": obj({"addresses": array(string(), minItems=1)}),
    "Counters": obj(
        {
            "in_packets": integer("Towards the machines."),
            "in_bytes": integer(BYTES),
            "out_packets": integer("Towards the clients."),
            "out_bytes": integer(BYTES),
            "flows": integer("Created so far."),
        }
    ),
    "Service": obj(
        {
            "app": string(),
            **NETWORK_FIELDS,
            "protocol": string(enum=["tcp", "udp"]),
            "first_port": integer(),
            "last_port": integer(),
            "internal_port": integer(),
            "handlers": array(string()),
            "processes": array(string()),
            "addresses": array(string("Of the app, that carries it: public or Flycast.")),
            "hostnames": array(string("What clients of a shared address ask for.")),
            "force_https": boolean("Plain HTTP is sent to https."),
            "concurrency": obj(
                {
                    "type": string(enum=["connections", "requests"]),
                    "soft_limit": integer("Of a machine."),
                    "hard_limit": nullable(integer("Of a machine; null: none.")),
                }
            ),
            "checks": integer("How many health checks it has."),
            "auto_start": boolean("A request starts a machine that is stopped."),
            "auto_stop": string("Machines that nobody needs.", enum=["off", "stop", "suspend"]),
            "min_machines_running": integer("In the primary region."),
            "proxy_proto": nullable(string("Of a PROXY header that machines get, v1 or v2.")),
            "tls_options": nullable(obj(TLS_OPTIONS)),
            "http_options": nullable(obj(HTTP_OPTIONS)),
            "regions": array(string("Where it has machines, started or not.")),
            "machines": integer("Machines that new flows can go to."),
            "needs_proxy": boolean("By its handlers, or an address of it: not the kernel's alone."),
            "counters": nullable(ref("Counters")),
        }
    ),
    "ConfigText": obj(
        {"config": string("The text of a fly.toml.")},
        {"strict": boolean("Unknown keys are errors.")},
    ),
    "DeployRequest": obj(
        {"config": string("The text of a fly.toml.")},
        {
            "strict": boolean("Unknown keys are errors."),
            "public_ips": boolean("Allocate addresses on the first deployment; default true."),
            "flycast": boolean("Allocate a Flycast address instead, if the app has none."),
            "remove_services": boolean("A file without a service ends those in force."),
        },
    ),
    "ConfigReport": obj({"app": string(), "services": integer(), "warnings": array(string())}),
    "Deployment": obj(
        {
            "app": string(),
            **NETWORK_FIELDS,
            "version": integer(),
            "primary_region": string(),
            "processes": array(string()),
            "services": array({"type": "object"}),
            "checks": array({"type": "object"}),
        }
    ),
    "DeployReport": obj(
        {
            "app": string(),
            **NETWORK_FIELDS,
            "version": integer(),
            "services": integer(),
            "warnings": array(string()),
            "allocated": array(string("An address given to the app now.")),
        }
    ),
    "Drop": obj(
        {
            "reason": string("A label of docs/drops.md."),
            "description": string(),
            "packets": integer(),
            "bytes": integer("L2 bytes."),
        }
    ),
    "DnsRecord": obj(
        {
            "name": string(),
            "ttl": integer("Seconds."),
            "type": string(),
            "data": string("As zone files have it."),
        }
    ),
    "DnsAnswer": obj(
        {
            "org": string("Of the network."),
            "network": string("Where it was asked."),
            "rcode": string("NOERROR, NXDOMAIN and so on."),
            "flags": array(string()),
            "answers": array(ref("DnsRecord")),
            "authority": array(ref("DnsRecord")),
            "size": integer("Bytes of the message."),
            "milliseconds": number("That it took."),
            "truncated": boolean("It did not fit: ask by TCP."),
        }
    ),
    "Fill": obj(
        {
            "used": integer("Entries."),
            "size": integer("Entries."),
            "setting": string("The key of the daemon's configuration that gives the size."),
            "sampled": boolean("`used` is an estimate."),
        }
    ),
    "Finding": obj(
        {
            "check": string("Its name, which stays the same."),
            "state": string(
                "warning: works, but not as it should; skipped: nothing to look at.",
                enum=["ok", "warning", "failed", "skipped"],
            ),
            "message": string("What was found, and the cause of what is wrong."),
            "remedy": string("What to do; may be empty."),
        }
    ),
    "Problem": obj(
        {
            "object": string(),
            "message": string(),
            "remedy": string(),
            "severity": string(enum=["error", "warning"]),
        }
    ),
    "Status": obj(
        {
            "state": string(
                "failed: something does not work; syncing: changes are on their way.",
                enum=["ok", "syncing", "failed"],
            ),
            "in_sync": boolean("The kernel holds what the store says."),
            "host": string(),
            "region": string(),
            "version": string("Of flyebpf."),
            "pid": integer(),
            "uptime": number("Seconds."),
            "store_revision": integer(),
            "applied_revision": integer(),
            "pending": integer("Rows not applied, failed ones included."),
            "rows": mapping(integer()),
            "counts": mapping(integer("What the programs counted."), "By name."),
            "uplinks": array(obj({"interface": string(), "mode": string()})),
            "programs": obj({"digest": string(), "adopted": boolean()}),
            "delivery": obj(
                {
                    "xdp": integer("Machines that XDP redirects packets to."),
                    "tc": integer("Machines that packets reach through tc, more slowly."),
                    "missing": integer("Machines whose interface does not exist."),
                }
            ),
            "pools": array(
                obj({"cidr": string(), "allocated": integer(), "size": integer("Addresses.")})
            ),
            "fill": mapping(ref("Fill"), "How full the kernel's tables are, by what they hold."),
            "mesh": nullable(ref("Mesh")),
            "proxy": nullable(ref("Proxy")),
            "problems": array(ref("Problem")),
        }
    ),
    "Event": {
        "anyOf": [
            obj(
                {
                    "type": string(enum=["put", "delete"]),
                    "revision": integer(),
                    "kind": string(),
                    "id": string(),
                    "body": nullable({"type": "object"}),
                }
            ),
            obj(
                {"type": string(enum=["heartbeat", "error"]), "revision": integer()},
                {"message": string()},
            ),
        ]
    },
    "Changes": obj({"changes": array(string("What changed, in words."))}),
    "Health": obj({"status": string(enum=["ok"])}),
    "Document": {"type": "object"},
}
