"""Environment variables that Ray reads: set those that the user hasn't set, and find mistakes in the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sheeprl.config.checks import too_few_gpus
from sheeprl.config.defaults import cluster_address
from sheeprl.config.schema import Config
from sheeprl.utils.folders import why_not_writable
from sheeprl.utils.text import counted

# Longest path below the temporary folder, of a socket.
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LONGEST = 107 if sys.platform == "linux" else 103  # bytes of a socket's path

SET_TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"


def configure(config: Config) -> None:
    """Set Ray's environment variables that the user hasn't set, for the cluster of a configuration."""
    configure_at(cluster_address(config))


def configure_at(address: str | None) -> None:
    """Set Ray's environment variables that the user hasn't set.

    A local Ray requires a token from its clients, since it listens on the network at any address. An existing cluster
    keeps its authentication mode.
    """
    if "ray" in sys.modules:
        return  # Ray has read its environment already
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if (home := os.path.expanduser("~")) != "~":
        os.environ.setdefault("HOME", home)  # Ray looks for the token there
    # Silence a warning about a future default for workers without accelerators.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The run reads one half of a failed pair; Ray would print the other half as an unhandled error.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def offer_token() -> None:
    """Make Ray send the token of this shell or user, if there is one; a cluster without tokens ignores it.

    The user's RAY_AUTH_MODE has precedence.
    """
    has_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or _token_file().is_file()
    if "ray" not in sys.modules and has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for each variable or setting with which Ray can't be started or joined."""
    if "ray" in sys.modules:
        return
    address = cluster_address(config)
    if address is None:
        yield from machine_mistakes()
        yield from _gpu_mistakes(config)
    elif address.startswith("ray://"):
        yield (
            f"{source(config)}={address}: is the address of a Ray client server, through which the driver can't share "
            "memory with its node; start the run on a node of the cluster with the address auto, or submit it as a "
            f"job with ray job submit{or_local(source(config))}"
        )
    elif address.startswith(("http://", "https://")):
        yield (
            f"{source(config)}={address}: is the address of a dashboard, to which jobs are submitted; use the address "
            f"of the head node's Ray, such as HOST:6379, or auto on a node of the cluster{or_local(source(config))}"
        )


def local_mistakes() -> Iterator[str]:
    """Yield a mistake for each property of this machine with which a local Ray can't be started from now on."""
    if "ray" not in sys.modules:
        yield from machine_mistakes()


def machine_mistakes() -> Iterator[str]:
    """Yield a mistake for each property of this machine with which a local Ray can't be started."""
    yield from _folder_mistakes()
    yield from _token_mistakes()


def source(config: Config) -> str:
    """Return the name of the setting or variable that names the cluster."""
    return "ray.address" if config.ray.address else "RAY_ADDRESS"


def or_local(source: str) -> str:
    """Return the advice that starts a local Ray instead of joining the cluster that a variable names."""
    return ", or unset RAY_ADDRESS to start a local Ray" if source == "RAY_ADDRESS" else ""


def token_advice() -> str:
    """Return the advice for a cluster that requires a token, "" if one is set."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return "; if it requires another token, set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    return f"; if it requires a token, {SET_TOKEN}"


def _gpu_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake if a local Ray has fewer GPUs than the run requests; its CPUs are logical, and always suffice."""
    trainer, players = config.trainer, config.players
    ranks = trainer.ranks if trainer.accelerator == "cuda" else 0
    each, number = players.gpus, config.least_hosts
    if not ranks and not each:
        return
    import torch

    found = torch.cuda.device_count()
    if ranks > found:
        yield too_few_gpus(config, found)
    elif ranks + number * each > found:
        yield (
            f"players.gpus={each:g}: {counted(number, 'player')} and {counted(ranks, 'rank')} need "
            f"{ranks + number * each:g} GPUs, but this machine has {found}; lower "
            "players.gpus or players.num, or join a cluster with ray.address"
        )


def log_folder() -> Path:
    """Return the folder with the logs of the local Ray that was started last."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(folder) / "ray" / "session_latest" / "logs"


def _folder_mistakes() -> Iterator[str]:
    """Yield a mistake if Ray can't use its temporary folder."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    if name is None:
        return
    folder = os.environ[name]
    most = LONGEST - len(SOCKET)
    if len(os.fsencode(folder)) > most:
        yield (
            f"{name}={folder}: is too long for the paths of Ray's sockets ({len(os.fsencode(folder))} bytes, at most "
            f"{most}); set RAY_TMPDIR to a shorter folder, such as RAY_TMPDIR=/tmp"
        )
    elif problem := why_not_writable(Path(folder) / "ray"):
        yield f"{name}={folder}: Ray can't write there ({problem}); set RAY_TMPDIR to another folder, such as /tmp"


def _token_file() -> Path:
    """Return the file in which Ray stores the user's token."""
    return Path(os.path.expanduser("~")) / ".ray" / "auth_token"


def _token_mistakes() -> Iterator[str]:
    """Yield a mistake if Ray can't read or store its token."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    others = "or RAY_AUTH_MODE=disabled if no other user can reach this machine"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        if not os.access(path, os.R_OK):
            yield (
                f"RAY_AUTH_TOKEN_PATH={path}: can't be read; set it to a file with a token (a long random text), or "
                f"unset it, {others}"
            )
        return
    token, home = _token_file(), os.path.expanduser("~")
    if os.access(token, os.R_OK):
        return
    problem = "no home folder" if home == "~" else why_not_writable(token.parent)
    if problem or token.exists():
        yield (
            f"HOME={os.environ.get('HOME', '')}: Ray can't store its token in ~/.ray/auth_token "
            f"({problem or 'permission denied'}); set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a "
            f"long random text, {others}"
        )
