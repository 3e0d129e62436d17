# SPDX-License-Identifier: Apache-2.0
"""The command ``flyebpf``: the root of the commands, and how they end.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from flyebpf.cli.lazy import Lazy, LazyGroup
from flyebpf.config import ApiConfig
from flyebpf.errors import FlyebpfError

COMMANDS = {
    "status": Lazy("flyebpf.cli.status:status", "Show how this host is, and what is wrong."),
    "hosts": Lazy("flyebpf.cli.hosts:hosts", "Manage the hosts of the cluster."),
    "orgs": Lazy("flyebpf.cli.orgs:orgs", "Manage organizations."),
    "apps": Lazy("flyebpf.cli.apps:apps", "Manage apps."),
    "networks": Lazy("flyebpf.cli.networks:networks", "Show private networks (6PN)."),
    "machines": Lazy("flyebpf.cli.machines:machines", "Manage machines (VMs)."),
    "deploy": Lazy("flyebpf.cli.deploy:deploy", "Put a fly.toml into force for an app."),
    "config": Lazy("flyebpf.cli.config:config", "Check an app's fly.toml."),
    "checks": Lazy("flyebpf.cli.checks:checks", "Show health checks and their results."),
    "services": Lazy("flyebpf.cli.services:services", "Show services and their traffic."),
    "ips": Lazy("flyebpf.cli.ips:ips", "Manage an app's addresses."),
    "certs": Lazy("flyebpf.cli.certs:certs", "Manage the certificates of apps' host names."),
    "wireguard": Lazy(
        "flyebpf.cli.wireguard:wireguard", "Let users' computers into private networks."
    ),
    "dig": Lazy(
        "flyebpf.cli.dig:dig", "Ask this host's DNS server, as a machine of a network would."
    ),
    "doctor": Lazy("flyebpf.cli.doctor:doctor", "Look for what is wrong, and say what to do."),
    "drops": Lazy("flyebpf.cli.drops:drops", "Show dropped packets by reason."),
    "daemon": Lazy("flyebpf.cli.daemon:daemon", "Run the host's daemon."),
    "lab": Lazy("flyebpf.lab.cli:lab", "Run a small region on this machine."),
    "version": Lazy("flyebpf.cli.version:version", "Show the version."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    envvar="FLYEBPF_SOCKET",
    default=ApiConfig().socket,
    show_default=True,
    metavar="PATH",
    help="The daemon's unix socket (or FLYEBPF_SOCKET).",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _option, given: _version(ctx) if given else None,
    help="Show the version and exit.",
)
@click.pass_context
def root(ctx: click.Context, socket: str) -> None:
    """Host networking for VMs with eBPF: public addresses, services, isolation.

    \b
    To try it on this machine:   sudo flyebpf lab up
    To see how this host is:     flyebpf status
    To find out what is wrong:   flyebpf doctor -a APP
    To bring an app up:          orgs create, apps create, machines add, deploy

    Every command has --help.
    """
    if not socket:
        raise click.BadParameter("is empty; name the daemon's socket", param_hint="--socket")
    ctx.obj = socket


def _version(ctx: click.Context) -> None:
    from flyebpf.cli.version import version  # noqa: PLC0415 (start-up time)

    ctx.invoke(version, as_json=False)
    ctx.exit()


REPORT = (
    "Please report it with what the same command prints when FLYEBPF_DEBUG=1 is set, "
    "and what `flyebpf version` says."
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        result = root.main(list(arguments), prog_name="flyebpf", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FlyebpfError as error:
        click.echo(f"Error: {error.message}", err=True)
        if error.remedy:
            click.echo(f"  {sentence(error.remedy)}", err=True)
        return 1
    except BrokenPipeError:
        # The reader has what it wanted (`| head`). Without this, Python would
        # complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if os.environ.get("FLYEBPF_DEBUG"):
            raise
        click.echo(f"Error: a fault of flyebpf itself: {type(error).__name__}: {error}", err=True)
        click.echo(f"  {REPORT}", err=True)
        return 1


def sentence(text: str) -> str:
    """With a capital at its start; names and commands in quotes stay as they are."""
    return text[:1].upper() + text[1:]


def main() -> None:
    """The console script's entry."""
    sys.exit(run(sys.argv[1:]))
