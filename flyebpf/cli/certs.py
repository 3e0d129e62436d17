# SPDX-License-Identifier: Apache-2.0
"""``flyebpf certs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flyebpf.api.client import ApiError, path
from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group
from flyebpf.errors import InvalidError

LONGEST = 65_536  # bytes of a file that is read


@click.group(cls=Group, help="Manage the certificates of apps' host names.")
def certs() -> None:
    pass


@certs.command()
@click.argument("hostname")
@options.app_option
@click.option(
    "--operator", is_flag=True, help="Of no app: for all apps' default host names, *.DOMAIN."
)
@click.option(
    "--cert", "cert_path", metavar="FILE", help="PEM: the host's certificate, then its issuers'."
)
@click.option("--key", "key_path", metavar="FILE", help="PEM: its key, without a passphrase.")
@click.option("--acme", is_flag=True, help="Get it from the authority of [acme], and renewed.")
@options.json_option
def add(
    *,
    hostname: str,
    app: str | None,
    operator: bool,
    cert_path: str | None,
    key_path: str | None,
    acme: bool,
    as_json: bool,
) -> None:
    """Serve a host name with a certificate.

    One that is there is replaced: this is also how to renew. Connections that
    exist go on. A name such as *.example.com stands for every name one label below.

    \b
    flyebpf certs add www.example.com -a web --cert fullchain.pem --key privkey.pem
    flyebpf certs add www.example.com -a web --acme
    """
    if acme:
        if operator or cert_path or key_path:
            raise click.UsageError("--acme stands alone: leave --operator, --cert and --key away.")
        _order(hostname, options.need_app(app), as_json)
        return
    if cert_path is None or key_path is None:
        missing = "--cert" if cert_path is None else "--key"
        raise click.UsageError(f"Missing option '{missing}', or --acme.")
    if operator and app is not None:
        raise click.UsageError("--operator and -a/--app contradict each other: give one of them.")
    body: dict[str, Any] = {"hostname": hostname}
    if not operator:
        body["app"] = options.need_app(app)
    body |= {"certificate": _text(cert_path, "--cert"), "key": _text(key_path, "--key")}
    answer = options.api().post("/v1/certificates", body)
    for warning in answer["warnings"]:
        output.warn(warning)
    shown = answer["certificate"]
    if as_json:
        output.print_json(shown)
        return
    output.say(
        f"{shown['hostname']} of {_owner(shown)} is served with a certificate of "
        f"{shown['issuer']}, valid until {shown['not_after']} ({shown['days_left']} days)."
    )


def _order(hostname: str, app: str, as_json: bool) -> None:
    found = options.api().post("/v1/acme", {"hostname": hostname, "app": app})
    if as_json:
        output.print_json(found)
        return
    output.say(
        f"{found['hostname']} of app {found['app']} will get a certificate: "
        f"`flyebpf certs check {found['hostname']}` says how far it is."
    )


@certs.command()
@click.argument("hostname")
@options.json_option
def check(hostname: str, as_json: bool) -> None:
    """Say how far a certificate by ACME is, and try again at once where it failed."""
    found = options.api().post(path("acme", hostname, "check"), {})
    if as_json:
        output.print_json(found)
        return
    output.print_details(
        {
            "Hostname": found["hostname"],
            "App": found["app"],
            "State": found["state"],
            "Error": found["error"],
            "Failed": f"{found['attempts']} times",
            "Next try": found["next_try"] or ("at once" if found["error"] else ""),
        }
    )


@certs.command(name="list")
@options.app_option
@options.all_option
@options.json_option
def list_(app: str | None, all_apps: bool, as_json: bool) -> None:
    """List an app's certificates; every app's where no app is named."""
    query = {"app": options.one_app(app, all_apps)}
    found = options.api().get("/v1/certificates", query)["items"]
    names = {item["hostname"]: item for item in options.api().get("/v1/acme", query)["items"]}
    if as_json:
        known = {item["hostname"] for item in found}
        waiting = [{"hostname": name, "app": names[name]["app"]} for name in names.keys() - known]
        found = [*found, *sorted(waiting, key=lambda item: item["hostname"])]
        output.print_json([{**item, "acme": names.get(item["hostname"])} for item in found])
        return
    headers = ("HOSTNAME", "APP", "ORG", "NETWORK", "STATE", "EXPIRES", "DAYS", "ISSUER", "KEY")
    rows = [(*_row(item), _acme(names.pop(item["hostname"], None))) for item in found]
    rows += [
        (name, item["app"], "", "", "none", "", "", "", "", _acme(item))
        for name, item in sorted(names.items())
    ]
    output.print_table((*headers, "ACME"), rows)


def _acme(item: dict[str, Any] | None) -> str:
    if item is None:
        return ""
    return f"{item['state']}: {item['error']}" if item["error"] else str(item["state"])


@certs.command()
@click.argument("hostname")
@options.json_option
def show(hostname: str, as_json: bool) -> None:
    """Show one certificate. Its key is never shown."""
    item = options.api().get(path("certificates", hostname))
    if as_json:
        output.print_json(item)
        return
    output.print_details(
        {
            "Hostname": item["hostname"],
            "App": item["app"] or "of all apps (operator)",
            "Organization": item["org"],
            "Network": item["network"],
            "State": item["state"],
            "Names": item["names"],
            "Issuer": item["issuer"] + (" (self-signed)" if item["self_issued"] else ""),
            "Key": item["key_type"],
            "SHA-256": item["fingerprint"],
            "Valid from": item["not_before"],
            "Expires": f"{item['not_after']} ({item['days_left']} days)",
            "Added": item["created"],
        }
    )


@certs.command()
@click.argument("hostname")
@options.app_option
@options.yes_option
def remove(hostname: str, app: str | None, yes: bool) -> None:
    """Serve a host name no longer.

    Neither over TLS nor, on shared addresses, at all.
    With -a: only if it is that app's.
    """
    api = options.api()
    target = path("certificates", hostname)
    try:
        found = api.get(target)
    except ApiError as error:
        ordered = {item["hostname"] for item in api.get("/v1/acme")["items"]}
        if error.http_status != 404 or hostname.lower() not in ordered:
            raise
        api.delete(path("acme", hostname))
        output.say(f"No certificate is ordered for {hostname} any more.")
        return
    options.confirm(f"Remove the certificate of {found['hostname']} ({_owner(found)})?", yes)
    api.delete(target, {"app": app})
    output.say(f"Removed the certificate of {found['hostname']} ({_owner(found)}).")


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    return (
        item["hostname"],
        item["app"] or "(operator)",
        item["org"],
        item["network"],
        item["state"],
        item["not_after"],
        item["days_left"],
        item["issuer"],
        item["key_type"],
    )


def _owner(item: dict[str, Any]) -> str:
    return f"app {item['app']}" if item["app"] else "the operator"


def _text(file: str, option: str) -> str:
    """What is in a file; messages never tell."""
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(LONGEST + 1)
    except OSError as error:
        raise InvalidError(
            f"cannot read {file}: {error.strerror}", f"name a PEM file with {option}"
        ) from error
    if len(data) > LONGEST or not data.isascii():
        raise InvalidError(
            f"{file} is no PEM file", f"name one with {option}; openssl converts others"
        )
    return data.decode("ascii")
