"""The installed distribution: its name, the commands that add an extra, and warnings about the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

DISTRIBUTION = "sheeprl-ray"
"""Name on PyPI, where `sheeprl` is another program that fills the same import folder."""
OTHER_DISTRIBUTION = "sheeprl"
TESTED_TORCH = ("2.6", "2.15")
"""Oldest and newest version of torch that the tests ran with."""

EXTRAS = {
    "mujoco": "mujoco",
    "dmc": "dm_control",
    "atari": "ale_py",
    "box2d": "Box2D",
    "classic": "pygame",
    "minatar": "minatar",
    "minigrid": "minigrid",
    "crafter": "crafter",
    "video": "moviepy",
    "export": "onnxruntime",
    "serve": "starlette",
    "tune": "optuna",
    "hub": "huggingface_hub",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "plot": "matplotlib",
    "bench": "stable_baselines3",
    "s3": "s3fs",
    "gcs": "gcsfs",
    "azure": "adlfs",
}
"""Module that an extra installs, by extra.

`envs` consists of other extras; `test`, `docs`, `cluster` and `dev` are for clones.
"""


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    An editable clone is named by its path, every other installation by the name of the distribution.
    """
    found = _distribution(DISTRIBUTION)
    source = _direct_url(found) if found else {}
    installer = (found.read_text("INSTALLER") or "").strip() if found else ""
    command = "uv pip install" if installer == "uv" else "pip install"
    clone = _clone(source)
    if clone is not None:
        place = "." if clone == Path.cwd() else str(clone)
        return f'{command} -e "{place}[{extra}]"'
    return f'{command} "{DISTRIBUTION}[{extra}]"'


def environment_warnings() -> Iterator[str]:
    """Yield a line for each property of the environment that is known to cause trouble; imports nothing heavy."""
    ours, other = _distribution(DISTRIBUTION), _distribution(OTHER_DISTRIBUTION)
    if ours and other:
        remedy = install_command("EXTRA").replace("[EXTRA]", "")
        yield (
            f"two distributions fill the package sheeprl: {OTHER_DISTRIBUTION} {other.version} and {DISTRIBUTION} "
            f"{ours.version}; run pip uninstall {OTHER_DISTRIBUTION} {DISTRIBUTION}, then {remedy}"
        )
    torch = _distribution("torch")
    oldest, newest = TESTED_TORCH
    if torch and not _minor(oldest) <= _minor(torch.version) <= _minor(newest):
        yield (
            f"torch {torch.version} is outside of the tested versions {oldest} to {newest}; if a run fails, use "
            f'pip install "torch=={newest}.*"'
        )


def _distribution(name: str) -> metadata.Distribution | None:
    """Return an installed distribution, or None."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _direct_url(distribution: metadata.Distribution) -> dict[str, Any]:
    """Return the record of a source other than a package index (PEP 610); empty if there is none."""
    text = distribution.read_text("direct_url.json")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _clone(source: dict[str, Any]) -> Path | None:
    """Return the folder of an editable installation, or of the clone that holds the running code."""
    if source.get("dir_info", {}).get("editable"):
        return _local_path(source)
    if source:
        return None
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").is_file() else None


def _local_path(source: dict[str, Any]) -> Path:
    """Return the path of a `file://` URL."""
    return Path(url2pathname(urlparse(source["url"]).path))


def _minor(version: str) -> tuple[int, int]:
    """Return major and minor version, so that `2.13.0+cpu` compares as 2.13."""
    major, minor, *_ = (*version.partition("+")[0].split("."), "0")
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
