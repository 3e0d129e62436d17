# SPDX-License-Identifier: Apache-2.0
"""Options that many commands share, and what they fall back to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flyebpf.cli import output
from flyebpf.errors import InvalidError

if TYPE_CHECKING:
    from flyebpf.api.client import Client

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_NAME = "fly.toml"


def app_option(command: F) -> F:
    return click.option(
        "-a", "--app", metavar="APP", help=f"The app (or FLY_APP, or `app` in ./{CONFIG_NAME})."
    )(command)


def all_option(command: F) -> F:
    return click.option("--all", "all_apps", is_flag=True, help="Show every app's.")(command)


def org_option(required: bool = False) -> Callable[[F], F]:
    return click.option("-o", "--org", metavar="ORG", required=required, help="The organization.")


def region_option(command: F) -> F:
    return click.option(
        "-r", "--region", metavar="REGION", help="The region; default: the host's."
    )(command)


def config_option(command: F) -> F:
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        default=CONFIG_NAME,
        show_default=True,
        help="The app's configuration.",
    )(command)


def json_option(command: F) -> F:
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(command)


def yes_option(command: F) -> F:
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def api(timeout: float | None = None) -> Client:
    """The client of the daemon that --socket names."""
    from flyebpf.api.client import DEFAULT_TIMEOUT, Client  # noqa: PLC0415 (start-up time)

    socket_path = click.get_current_context().find_root().obj
    return Client(socket_path, DEFAULT_TIMEOUT if timeout is None else timeout, _warn_of_copy)


def _warn_of_copy(revision: str) -> None:
    output.warn(
        f"the store is away: this is what this host read of it last, at revision {revision}"
    )


def find_app(app: str | None, config_path: str = CONFIG_NAME) -> str | None:
    """The app that a command is about: -a, FLY_APP, the configuration; else None."""
    if app is not None:
        if not app:
            raise click.BadParameter("an app's name is not empty", param_hint="-a/--app")
        return app
    return os.environ.get("FLY_APP") or app_of_config(Path(config_path))


def need_app(app: str | None, config_path: str = CONFIG_NAME) -> str:
    """Like :func:`find_app`, but there must be one."""
    found = find_app(app, config_path)
    if found is None:
        raise click.UsageError(
            f"No app named. Give -a APP, set FLY_APP, or run this where ./{CONFIG_NAME} names one."
        )
    return found


def one_app(app: str | None, all_apps: bool) -> str | None:
    """The app that a list is limited to; None for all of them."""
    if all_apps and app is not None:
        raise click.UsageError("--all and -a/--app contradict each other: give one of them.")
    return None if all_apps else find_app(app)


def app_of_config(path: Path) -> str | None:
    """What the file gives as ``app``; None where there is no file, or no name."""
    import tomllib  # noqa: PLC0415 (start-up time)

    try:
        name = tomllib.loads(path.read_text()).get("app")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InvalidError(
            f"cannot read the app's name from {path}: {error}",
            "Correct the file, or name the app with -a.",
        ) from error
    return name if isinstance(name, str) and name else None


def read_config(path: str) -> str:
    """The text of a fly.toml; raises InvalidError naming the file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidError(
            f"cannot read {path}: {reason}", "Name the app's configuration with -c FILE."
        ) from error


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; never where nobody can answer."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(f"{question} Nobody can be asked here: confirm with -y/--yes.")
    if not click.confirm(question):
        raise click.ClickException("Not confirmed: nothing was changed.")
