# SPDX-License-Identifier: Apache-2.0
"""``pg_tls``: psql to a real PostgreSQL in a VM, and openssl to a server that says what
it is told of its clients."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.api.client import path
from tests.netns.proxied import proxied
from tests.netns.rig import TOOLS, App, Rig
from tests.pki import make

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 5432
[[services.ports]]
port = 5432
handlers = ["pg_tls"]
tls_options = { default_self_signed = true }
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 8080
handlers = ["pg_tls", "proxy_proto"]
tls_options = { versions = ["TLSv1.3"], default_self_signed = true }
"""
NAME = "db.example.com"
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One host with a proxy, one client."""
    with proxied("p") as made:
        yield made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database cluster of user postgres that trusts everybody."""
    entry = pwd.getpwnam("postgres")
    folder = Path(f"/run/flyebpf-test-{os.getpid()}-pgdata")
    folder.mkdir(mode=0o700)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    command = (str(BINARIES / "initdb"), "-D", str(folder), "-A", "trust", "--no-sync", "-N")
    subprocess.run(as_postgres(*command), check=True, capture_output=True, cwd="/")
    (folder / "pg_hba.conf").write_text("host all all 0.0.0.0/0 trust\n")
    yield folder
    shutil.rmtree(folder)


def as_postgres(*command: str) -> list[str]:
    rights = ("--reuid", "postgres", "--regid", "postgres", "--clear-groups")
    return ["setpriv", *rights, "--", *command]


@pytest.fixture(scope="module")
def app(rig: Rig, data: Path) -> App:
    made = rig.create_app("db", SERVICES)
    server = as_postgres(
        *(str(BINARIES / "postgres"), "-D", str(data), "-c", "listen_addresses=*"),
        *("-c", "unix_socket_directories=", "-c", "fsync=off"),
    )
    say = f"{sys.executable} {TOOLS / 'say.py'} 8080 db1"
    rig.add_vm(made, "db1", "sh", "-c", f"{say} & exec {' '.join(server)}")
    rig.until(lambda: rig.listening("db1", "tcp", 5432), "PostgreSQL listens", 20)
    rig.until(lambda: sql(rig, made, "select 1") == "1", "it is served", 10)
    return made


def psql(rig: Rig, app: App, query: str, **options: str) -> subprocess.CompletedProcess[str]:
    asked = {"host": app.vip, "user": "postgres", "sslmode": "require", "connect_timeout": "5"}
    words = " ".join(f"{key}={value}" for key, value in (asked | options).items())
    return rig.run("client1", "psql", "-X", "-t", "-A", "-c", query, words, check=False)


def sql(rig: Rig, app: App, query: str, **options: str) -> str:
    return psql(rig, app, query, **options).stdout.strip()


def test_psql(rig: Rig, app: App) -> None:
    """Encrypted to the proxy, plain to the machine, and large answers whole."""
    assert sql(rig, app, "select 6 * 7") == "42"
    seen = "select client_addr, ssl from pg_stat_activity join pg_stat_ssl using (pid)"
    assert sql(rig, app, f"{seen} where pid = pg_backend_pid()") == "172.16.0.1|f"
    wide = sql(rig, app, "select sum(length(x)) from (select repeat('a', 3000000) x) y")
    assert wide == "3000000"
    assert len(sql(rig, app, "select repeat('a', 3000000)")) == 3_000_000
    assert sql(rig, app, "select 1", sslmode="prefer") == "1"


def test_psql_verifies_the_certificate(rig: Rig, app: App, tmp_path: Path) -> None:
    made = make(NAME)
    root = tmp_path / "root.pem"
    root.write_text(made.pem)
    body = {"hostname": NAME, "app": app.name, "certificate": made.pem, "key": made.key_pem}
    rig.api().post("/v1/certificates", body)
    rig.settle()
    try:
        whole = {"host": NAME, "hostaddr": app.vip, "sslmode": "verify-full"}
        rig.until(
            lambda: sql(rig, app, "select 1", **whole, sslrootcert=str(root)) == "1",
            "the certificate is shown",
            10,
        )
        other = {**whole, "host": "other.example.com"}
        assert psql(rig, app, "select 1", **other, sslrootcert=str(root)).returncode != 0
    finally:
        rig.api().delete(path("certificates", NAME))
        rig.settle()
    rig.until(lambda: sql(rig, app, "select 1") == "1", "it is served by address again", 10)


def test_a_session_outlives_certificates(rig: Rig, app: App) -> None:
    """One that is added, renewed or removed changes what is shown to the next client."""
    words = f"host={app.vip} user=postgres sslmode=require"
    argv = rig.argv("client1", ("psql", "-X", "-t", "-A", words))
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        for number in range(3):
            session.stdin.write(f"select {number};\n")
            session.stdin.flush()
            assert session.stdout.readline() == f"{number}\n"
            if number < 2:
                made = make(NAME)
                body = {"certificate": made.pem, "key": made.key_pem}
                rig.api().post("/v1/certificates", {"hostname": NAME, "app": app.name, **body})
            else:
                rig.api().delete(path("certificates", NAME))
            rig.settle()
            named = {"host": NAME, "hostaddr": app.vip}
            rig.until(lambda named=named: sql(rig, app, "select 1", **named) == "1", "served", 10)
        output, _ = session.communicate("select 'last';\n", timeout=20)
    assert output == "last\n"


def test_without_tls(rig: Rig, app: App) -> None:
    done = psql(rig, app, "select 1", sslmode="disable")
    assert "takes only encrypted connections" in done.stderr
    assert "sslmode=require" in done.stderr


def test_a_query_is_cancelled(rig: Rig, app: App) -> None:
    """By a CancelRequest without TLS, which is what this psql sends."""
    words = f"host={app.vip} user=postgres sslmode=require"
    with rig.background("client1", "psql", "-X", "-c", "select pg_sleep(60)", words) as running:
        active = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'"
        rig.until(lambda: sql(rig, app, active) == "1", "the query runs", 10)
        (pid,) = [p for p in children(running.pid) if (comm(p) == "psql")]
        os.kill(pid, signal.SIGINT)
        output, _ = running.communicate(timeout=20)
    assert "canceling statement due to user request" in output


def children(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += children(int(one))
    return found


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.mark.parametrize("options", [("-starttls", "postgres"), ("-alpn", "postgresql")])
def test_addresses_are_kept(rig: Rig, app: App, options: tuple[str, ...]) -> None:
    """Asked for TLS in PostgreSQL's words, or by TLS at once."""
    command = ("openssl", "s_client", "-quiet", "-connect", f"{app.vip}:8080", *options)
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 10 {' '.join(command)}"
    answer = rig.run("client1", "sh", "-c", ask).stdout
    words = json.loads(answer[answer.index("{") :])["proxy"].split()
    client = rig.lab.clients["client1"].address
    assert (words[:4], words[5]) == (["PROXY", "TCP4", client, app.vip], "8080")


def relays(rig: Rig) -> list[int]:
    listed = rig.run("host1", "sh", "-c", "ip netns pids $(ip netns identify)").stdout.split()
    return [pid for pid in map(int, listed) if "flyebpf.proxy.relay" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""


def test_it_has_no_rights(rig: Rig, app: App) -> None:
    (pid,) = relays(rig)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["CapEff"].strip("0") == ""
    assert set(status["Uid"].split()) == {str(pwd.getpwnam("nobody").pw_uid)}


def test_the_daemon_ends(rig: Rig, app: App) -> None:
    """A session goes on, and new ones come in while there is none."""
    words = f"host={app.vip} user=postgres sslmode=require"
    (before,) = relays(rig)
    argv = rig.argv("client1", ("psql", "-X", "-t", "-A", words))
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as session:
        assert session.stdin is not None
        session.stdin.write("select 'before';\n")
        session.stdin.flush()
        assert session.stdout is not None
        assert session.stdout.readline() == "before\n"
        os.kill(rig.host().daemon.pid, signal.SIGKILL)
        assert sql(rig, app, "select 2") == "2"
        rig.command("lab", "daemon", "start", "host1")
        rig.settle()
        output, _ = session.communicate("select 'after';\n", timeout=20)
    assert output == "after\n"
    assert relays(rig) == [before]
    assert sql(rig, app, "select 3") == "3"


def test_the_relay_ends(rig: Rig, app: App) -> None:
    (before,) = relays(rig)
    os.kill(before, signal.SIGKILL)
    rig.until(lambda: sql(rig, app, "select 1") == "1", "it is served again", 10)
    (after,) = relays(rig)
    assert after != before
