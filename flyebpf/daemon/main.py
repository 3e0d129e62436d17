# SPDX-License-Identifier: Apache-2.0
"""Starts the daemon, in the order in which each part can fail safely, and ends
it without touching the data plane."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from flyebpf import collector, configfile, logs
from flyebpf.api.backend import Problem
from flyebpf.api.server import ApiServer, listen
from flyebpf.bpf import loader
from flyebpf.bpf.loader import Origin
from flyebpf.bpf.maps import flow_buckets
from flyebpf.config import DaemonConfig
from flyebpf.daemon import mesh_setup, notify, scaler, stores, waker
from flyebpf.daemon.acme import AcmeAgent
from flyebpf.daemon.backend import DaemonBackend
from flyebpf.daemon.checks import ChecksAgent
from flyebpf.daemon.dns import DnsAgent
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.identity import identity
from flyebpf.daemon.lock import StateLock
from flyebpf.daemon.machines import MachineAgent
from flyebpf.daemon.mainloop import MainLoop, StoreWatcher, on_signals, restore_signals
from flyebpf.daemon.mesh import MeshAgent
from flyebpf.daemon.mesh_keys import publish_first
from flyebpf.daemon.probes import HostProbes
from flyebpf.daemon.problems import foreign_pins, socket_group
from flyebpf.daemon.proxy import ProxyAgent
from flyebpf.daemon.proxy_relay import RelayAgent
from flyebpf.daemon.reload import merge
from flyebpf.daemon.scaler import Scaler
from flyebpf.daemon.waker import Waker, Wanted
from flyebpf.drivers.bpf_maps import MapsDriver
from flyebpf.drivers.checks import ChecksDriver
from flyebpf.drivers.counters import Counters
from flyebpf.drivers.host_port import HostPortDriver
from flyebpf.drivers.link_table import LinkMonitor, LinkTable
from flyebpf.drivers.mesh import MeshDriver
from flyebpf.drivers.netlink import NetlinkDriver
from flyebpf.drivers.netlink_io import GROUP
from flyebpf.drivers.nft import NftDriver
from flyebpf.drivers.proxy import ProxyDriver
from flyebpf.drivers.wireguard_keys import Keys
from flyebpf.errors import FlyebpfError
from flyebpf.metrics import MetricsServer, version
from flyebpf.model.records import PEERS_PORT, Cluster
from flyebpf.ops import cluster
from flyebpf.plan import maglev

log = logging.getLogger(__name__)

FULL_PASS = 60.0  # seconds between comparisons with the kernel
RECHECK = 5.0  # seconds between looks at interfaces that are served the slow way
REPAIR_PASS = 1.0  # seconds to the next one after something had to be repaired
VIEW_PATIENCE = 30.0  # seconds that the mesh's threads wait for the main one
AWAY = (
    "Packets are forwarded as before; nothing can be changed until the store answers again."
    " Of etcd: `etcdctl endpoint health --cluster`."
)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(config_path: str) -> None:
    """Run until SIGTERM. Raises FlyebpfError where it cannot start; the data
    plane is then as it was."""
    config = mesh_setup.with_mtu(configfile.load(config_path))
    logs.setup(config.log)
    try:
        with ExitStack() as stack:
            daemon = Daemon(config_path, config, stack)
            daemon.start()
            daemon.serve()
    except FlyebpfError:
        raise
    except Exception:
        log.exception("a fault of flyebpf itself; packets are forwarded as before")
        raise
    log.info("ended; packets are forwarded as before")


class Daemon:
    """Everything that is opened is closed by ``stack``, in reverse."""

    def __init__(self, config_path: str, config: DaemonConfig, stack: ExitStack) -> None:
        self._path = config_path
        self._stack = stack
        self._begun = time.monotonic()
        stack.callback(StateLock(config.state_dir).close)
        self._store = stores.open_store(config)
        stack.callback(self._store.close)
        # A file of this host's own has no other machine in it.
        self._identity = identity(Path(config.state_dir)) if config.store == "etcd" else ""
        records = stores.when_there(config, lambda: self._register(config))
        self._socket = listen(config.api.socket, config.api.group)
        stack.callback(self._socket.close)
        self._generation = loader.ensure(config, log.info)
        stack.callback(self._generation.close)
        for problem in foreign_pins(config):
            log.warning("%s %s", problem.object, problem.message)
        self._links = LinkTable()
        stack.callback(self._links.close)
        self._monitor = LinkMonitor()  # from before the first look at links
        stack.callback(self._monitor.close)
        self._nft = NftDriver(GROUP, mesh_setup.fence(config))
        self._loop = MainLoop()
        stack.callback(self._loop.close)
        self._proxy_driver = ProxyDriver(
            config, self._generation.maps, self._generation.programs, self._loop.soon
        )
        stack.callback(self._proxy_driver.close)
        self._engine = self._build(config, records.seed)
        counters = Counters(self._generation.maps, flow_buckets(config.dataplane))
        self._backend = DaemonBackend(
            self._engine,
            store=self._store,
            counters=counters,
            generation=self._generation,
            loop=self._loop,
            reread=self.reload,
            fences=self._nft.counters,
            probes=HostProbes(config, self._generation.programs["edge_xdp"], counters),
        )
        self._watcher = StoreWatcher(
            self._store, lambda: self._engine.state.revision, self._loop.wake
        )
        self._backend.extra_problems = self._own_problems
        self._dns = DnsAgent(config, self._loop.soon)
        self._machines = MachineAgent(config, self._store)
        self._waker = Waker(config, self._store, look=self._wanted, answer=self._proxy_driver.woken)
        self._proxy_driver.wanted = self._waker.wanted
        self._scaler = Scaler(
            config,
            self._store,
            self._proxy_driver.loads,
            look=lambda: self._loop.call(
                lambda: scaler.view(self._engine, self._proxy_driver), VIEW_PATIENCE
            ),
            more=self._waker.more,
            led=self._waker.led,
            packets=self._packets,
        )
        self._machines.busy = self._scaler.busy
        self._acme = AcmeAgent(config, self._store)
        self._engine.followers += [self._dns, self._machines, self._waker, self._scaler]
        self._engine.followers.append(self._acme)
        self._backend.watch_dns(self._dns)
        self._proxy = ProxyAgent(self._proxy_driver, config.proxy.metrics_apps)
        self._backend.watch_proxy(self._proxy)
        self._relay = RelayAgent(self._proxy_driver)
        self._checks = ChecksAgent(
            config.host,
            self._store,
            self._checks_driver,
            lambda: self._loop.call(self._engine.published_checks, VIEW_PATIENCE),
        )
        self._backend.watch_checks(self._checks)
        self._mesh = MeshAgent(
            config,
            self._store,
            lambda: self._loop.call(self._engine.mesh_view, VIEW_PATIENCE),
            version=version(),
            programs=self._generation.hash,
            identity=self._identity,
        )
        self._backend.watch_mesh(self._mesh)
        self._next_full = self._next_recheck = 0.0
        self._api = ApiServer(self._backend, self._socket)
        self._metrics = None
        if config.metrics.listen:  # what can fail is tried before anything is applied
            self._metrics = MetricsServer(self._backend, config.metrics.listen)
            stack.callback(self._metrics.stop)

    def _register(self, config: DaemonConfig) -> Cluster:
        records, host = cluster.ensure(self._store, config, self._identity)
        publish_first(self._store, config.mesh, Keys(Path(config.state_dir)), host)
        return records

    def _build(self, config: DaemonConfig, seed: int) -> Engine:
        maps = MapsDriver(
            self._generation.maps,
            config.dataplane,
            link_of=self._links.get,
            build_table=partial(maglev.build, seed=seed),
            table_size=maglev.table_size,
        )
        netlink = NetlinkDriver(
            Path(config.bpffs) / "links", self._links.get, self._generation.programs
        )
        self._stack.callback(netlink.close)
        mesh = MeshDriver(
            Path(config.state_dir),
            self._generation.programs,
            created=self._links.forget,
            peers_port=config.mesh.port + PEERS_PORT,
        )
        self._stack.callback(mesh.close)
        host_port = HostPortDriver(self._generation.programs, self._links.forget)
        self._stack.callback(host_port.close)
        self._checks_driver = ChecksDriver(config)
        self._stack.callback(self._checks_driver.close)
        return Engine(
            config,
            self._store,
            maps=maps,
            netlink=netlink,
            mesh=mesh,
            host_port=host_port,
            others=[self._nft, self._proxy_driver, self._checks_driver],
            links=self._links,
            programs=self._generation.hash,
        )

    def start(self) -> None:
        """Ready as soon as the kernel holds what the store says: at once when
        an earlier daemon left it so, else after the first full pass."""
        warm = (
            not self._generation.new_maps
            and self._engine.is_image()
            and self._engine.serves_uplinks()
        )
        on_signals(
            {
                signal.SIGTERM: self._loop.stop,
                signal.SIGINT: self._loop.stop,
                signal.SIGHUP: lambda: self._loop.soon(self._reload_and_log),
            }
        )
        self._stack.callback(restore_signals, SIGNALS)
        if not warm or self._generation.origin is not Origin.ADOPTED:
            self._synchronize()
        self._api.start()
        self._stack.callback(self._api.stop)
        if self._metrics is not None:
            self._metrics.start()
        news = "" if self._engine.loaded else ", nothing has changed"
        how = f"{self._generation.origin}{news}"
        log.info(
            "ready after %.2f s, programs %s %s",
            time.monotonic() - self._begun,
            self._generation.hash,
            how,
        )
        notify.notify("READY=1", f"STATUS=programs {self._generation.hash} {how}")
        if not self._engine.loaded:
            self._synchronize()

    def _synchronize(self) -> None:
        """The first full pass. Maps that nobody has filled yet are filled before
        anything that is attached is swapped for programs that use them."""
        engine = self._engine
        empty = not engine.maps_filled()
        engine.hold(empty)
        engine.load()
        again = engine.sync_full()
        if empty:
            engine.replace_held()
        self._proxy_driver.settled()
        self._next_full = time.monotonic() + (REPAIR_PASS if again else FULL_PASS)
        if not engine.reconciler.failures:
            for removed in loader.collect_garbage(engine.config, self._generation):
                log.info("unpinned %s of an older version", removed)
        collector.settle()

    def serve(self) -> None:
        """Until SIGTERM."""
        self._loop.watch(self._monitor.fileno(), self._on_links)
        self._stack.callback(self._watcher.stop)
        self._watcher.start()
        self._stack.callback(self._dns.stop)
        self._stack.callback(self._machines.stop)
        self._stack.callback(self._waker.stop)
        self._stack.callback(self._proxy.stop)
        self._proxy.start()
        self._stack.callback(self._relay.stop)
        self._relay.start()
        self._stack.callback(self._checks.stop)
        self._checks.start()
        self._stack.callback(self._acme.stop)
        self._acme.start()
        self._stack.callback(self._mesh.stop)
        self._mesh.start()
        self._stack.callback(self._scaler.stop)
        self._scaler.start()
        self._loop.run(self._step)
        notify.notify("STOPPING=1")

    def _on_links(self) -> None:
        try:
            self._engine.links_changed(self._monitor.read())
        except FlyebpfError as error:
            log.error("interfaces changed, but: %s", error.message)
            self._next_full = time.monotonic() + REPAIR_PASS

    def _step(self) -> float:
        """Do what is due; seconds until the next thing is."""
        wait: float | None
        try:
            wait = self._do_due()
        except FlyebpfError as error:  # the store is away: forward what is there
            log.error("%s", error.message)
            wait = 1.0
        finally:
            self._watcher.taken()
        due = min(self._next_full, self._next_recheck) - time.monotonic()
        return due if wait is None else min(wait, due)

    def _do_due(self) -> float | None:
        """Seconds until a failed row is due again, if one is."""
        engine = self._engine
        if self._store.revision() != engine.applied_revision:
            engine.catch_up()
        wait = engine.reconciler.next_retry()
        if wait is not None and wait <= 0:
            engine.sync()
        now = time.monotonic()
        if now >= self._next_recheck:
            engine.recheck_slow()
            self._next_recheck = now + RECHECK
        if now >= self._next_full:
            again = engine.sync_full()
            self._next_full = time.monotonic() + (REPAIR_PASS if again else FULL_PASS)
        return engine.reconciler.next_retry()

    def _reload_and_log(self) -> None:
        notify.reloading()
        try:
            for text in self.reload() or ["nothing changed"]:
                log.info("configuration read again: %s", text)
        except FlyebpfError as error:
            log.error("the new configuration is not used: %s", error.message)
        notify.notify("READY=1")

    def reload(self) -> Sequence[str]:
        """In the main thread: what changed. Raises ConfigError, and keeps the
        old configuration, when the new one is wrong."""
        config, texts = merge(self._engine.config, mesh_setup.with_mtu(configfile.load(self._path)))
        logs.setup(config.log)
        self._engine.reconfigure(config)
        self._engine.sync()
        self._dns.reconfigured(config)
        self._proxy.reopen_log()
        return texts

    def _wanted(self, cluster: str) -> Wanted | None:
        """What there is for a cluster of the proxy's that somebody waits for. From
        other threads; raises TimeoutError when the main one is busy."""

        def look() -> Wanted | None:
            row = self._proxy_driver.cluster(cluster)
            return None if row is None else waker.view(self._engine, row)

        return self._loop.call(look, VIEW_PATIENCE)

    def _packets(self) -> dict[str, int]:
        """What clients of each app have sent that the kernel serves."""
        found: dict[str, int] = {}
        for counters in self._backend.services():
            app = counters.service.partition("/")[0]
            found[app] = found.get(app, 0) + counters.in_packets
        return found

    def _own_problems(self) -> list[Problem]:
        config = self._engine.config
        found = [*foreign_pins(config), *socket_group(config), *self._dns.problems()]
        found += self._proxy.problems()
        found += self._relay.problems()
        found += self._acme.problems()
        found += self._machines.problems()
        if self._watcher.error:
            found.append(Problem("store", self._watcher.error, AWAY))
        found += [Problem("cluster", e.message, e.remedy) for e in self._mesh.faults]
        return found
