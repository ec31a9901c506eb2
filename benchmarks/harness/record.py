"""Contents of every result: code, versions and machine of the measurement."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("sheeprl-ray", "torch", "lightning-fabric", "ray", "tensordict", "gymnasium", "mujoco", "numpy")

Json = dict[str, Any]


def describe(*configs: str) -> Json:
    """Return command, commit, versions and machine of this process.

    Args:
        configs: files in the repository that the result depends on, in addition to the package.
    """
    return {
        "command": command_line(),
        "commit": commit(),
        "modified": modified_files("sheeprl", *configs),
        "versions": {"python": platform.python_version()} | versions(PACKAGES),
        "machine": machine(),
    }


def command_line() -> str:
    """Return the command of this process, without the folders of this machine."""
    module = Path(sys.argv[0]).stem
    called = ["benchmarks"] if module == "__main__" else ["benchmarks", module]
    words = (re.sub(r"(^|=)/(?:[^/]*/)*", r"\1PATH/", word) for word in sys.argv[1:])  # also of PEER=/usr/bin/python
    return " ".join(["python", "-m", *called, *words])


def commit() -> str:
    """Return the commit that is checked out."""
    return _git("rev-parse", "HEAD").strip() or "unknown"


def modified_files(*paths: str) -> list[str]:
    """Return the files below some paths that differ from the commit."""
    return [line[3:] for line in _git("status", "--porcelain", "--", *paths).splitlines()]


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the installed ones among some packages."""
    installed = {found.name: found.version for found in distributions()}
    return {package: installed[package] for package in packages if package in installed}


def machine() -> Json:
    """Return number and model of the cores that this process may use, and the GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cores": cores, "cpu": _cpu_model(), "system": platform.platform()}
    return found | ({"gpus": gpus} if (gpus := _gpu_models()) else {})


def environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a subprocess, with this checkout's code and a number of threads if given."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if threads is not None:
        variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return variables


def read_metrics(run_dir: Path) -> list[Json]:
    """Return the lines of a run's `metrics.jsonl`."""
    with (run_dir / "metrics.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, result: Json) -> None:
    """Write a result as JSON, lists of numbers on one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_dumps(result) + "\n", encoding="utf-8")


def _dumps(value: Any, indent: str = "") -> str:
    """Format a value as JSON with one line per list of numbers."""
    below = indent + "  "
    if isinstance(value, dict) and value:
        items = (f"{below}{json.dumps(key)}: {_dumps(item, below)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(below + _dumps(item, below) for item in value) + f"\n{indent}]"
    return json.dumps(value)


def _cpu_model() -> str:
    """Return the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _gpu_models() -> list[str]:
    """Return the models of all GPUs."""
    try:
        words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return []


def _git(*words: str) -> str:
    """Return the output of a git command, "" if it fails."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
