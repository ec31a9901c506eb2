"""The command `status`: list the runs of a Ray cluster."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from sheeprl.cli.commands import print_table
from sheeprl.metrics.run_entry import NAMESPACE, SILENT, RunEntry
from sheeprl.utils.errors import ConfigError, one_line
from sheeprl.utils.output import without_native_output

TIMEOUT = 5.0  # seconds until an address counts as closed
RECHECK = 6.0  # seconds until a second look at a run that seems silent; drivers report every 5


def status(
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="address of the cluster; default RAY_ADDRESS, else the one on this machine",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON array")] = False,
) -> None:
    """List the runs of a Ray cluster with their progress, the newest first."""
    runs = cluster_runs(address)
    if as_json:
        typer.echo(json.dumps(runs))
        return
    if not runs:
        typer.echo("no run on the cluster; sheeprl ls lists the runs in this folder")
        return
    print_table(
        [
            ("run", "state", "algorithm", "environment", "policy steps", "return", "players", "since", "node"),
            *(_row(run) for run in runs),
        ]
    )


def cluster_runs(address: str | None = None) -> list[dict[str, Any]]:
    """Return the runs of a cluster, the newest first: the fields of `RunEntry` and the run's name.

    Raises:
        ConfigError: there is no cluster at the address, or it requires another token.
    """
    from sheeprl.actors.ray.environment import offer_token

    offer_token()  # before Ray is imported
    from sheeprl.actors.ray import internals

    source = f"--address {address}" if address else f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}"
    named = address or os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in named:
        raise ConfigError([f"{source}: use the address of the head node's Ray, such as HOST:6379, or auto"])
    try:
        found = internals.running_cluster(named)
    except ConnectionError:
        raise ConfigError(
            ["no Ray cluster runs on this machine; name one with --address HOST:6379, or use sheeprl ls"]
        ) from None
    except Exception as error:
        raise ConfigError([f"{source}: {one_line(error)}; use HOST:PORT, such as 10.0.0.5:6379"]) from None
    where = f"the cluster at {found}" if named == "auto" else source
    entries, live_jobs = _read(found, where)
    now = time.time()
    if any(entry.current_state(live_jobs, now) == SILENT for entry in entries):
        # Or the clock of the driver's machine differs from this one: then its next update shows that it reports.
        time.sleep(RECHECK)
        before = {entry.run: entry.updated for entry in entries}
        entries, live_jobs = _read(found, where)
        entries = [
            replace(entry, updated=now) if entry.updated > before.get(entry.run, entry.updated) else entry
            for entry in entries
        ]
    return [
        {"name": entry.name, **asdict(entry), "state": entry.current_state(live_jobs, now)}
        for entry in sorted(entries, key=lambda entry: -entry.since)
    ]


def _read(found: str, where: str) -> tuple[list[RunEntry], Collection[str]]:
    """Return the entries of a cluster's runs, and the ids of its live jobs.

    Args:
        found: address of the cluster.
        where: its description, for messages.

    Raises:
        ConfigError: the cluster can't be read.
    """
    from sheeprl.actors.ray import internals
    from sheeprl.actors.ray.environment import SET_TOKEN

    try:
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT).close()
        with without_native_output():
            values, live_jobs = internals.cluster_contents(found, NAMESPACE)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{where}: can't be reached: {one_line(error)}; start it or correct the address"]) from None
    except Exception as error:  # Ray's own, of several kinds
        if internals.AUTH_FAILED in str(error):
            raise ConfigError([f"{where}: refuses the token of this shell; {SET_TOKEN}"]) from None
        raise ConfigError([f"{where}: can't be read: {one_line(error)}; if it requires a token, {SET_TOKEN}"]) from None
    entries = (RunEntry.from_json(text) for text in values.values())
    return [entry for entry in entries if entry is not None], live_jobs


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    """Return the row of a run in the list."""
    mean_return = "-" if run["mean_return"] is None else f"{run['mean_return']:.2f}"
    return (
        run["name"],
        run["state"],
        run["algorithm"],
        run["environment"],
        f"{run['policy_steps']:,}/{run['total_steps']:,}",
        mean_return,
        f"{run['players_alive']}/{run['players']}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run["since"])),
        run["node"],
    )
