"""Examine this machine for problems of a run, without starting one. Imports no heavy library.

Each finding names its subject, what was found, and what to do. The status is `ok`, `warning` (a run works, with less)
or `error` (a run fails).
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from sheeprl.actors.ray.environment import machine_mistakes
from sheeprl.config.defaults import available_cores, has_compiler
from sheeprl.utils.folders import cache_root
from sheeprl.utils.installation import DISTRIBUTION, EXTRAS, environment_warnings, install_command
from sheeprl.utils.text import byte_size
from sheeprl.version import __version__

Status = Literal["ok", "warning", "error"]
GIB = 2**30
REQUIRED = ("torch", "lightning-fabric", "tensordict", "gymnasium", "ray", "tensorboard", "numpy", "pydantic", "typer")
LEAST_FILES, LEAST_SHM, LEAST_DISK, LEAST_MEMORY = 4096, 1 * GIB, 5 * GIB, 2 * GIB


@dataclass(frozen=True)
class Finding:
    """Result of one examination.

    Args:
        subject: what was examined.
        status: `ok`, `warning` or `error`.
        found: the state of the subject.
        advice: what to do; empty if all is well.
    """

    subject: str
    status: Status
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Return all findings about this machine."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _torch,
        _compiler,
        _ray,
        _machine,
        _limits,
        _rendering,
        _extras,
    )
    return [finding for part in parts for finding in part()]


def _python() -> Iterator[Finding]:
    """Yield the versions of Python, the system and this package."""
    yield Finding("sheeprl", "ok", f"{__version__} in {Path(__file__).parent}")
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")
    system = platform.system()
    if system in ("Linux", "Darwin"):
        yield Finding("system", "ok", platform.platform())
    else:
        yield Finding("system", "error", platform.platform(), "use Linux or macOS, on Windows by WSL 2")


def _packages() -> Iterator[Finding]:
    """Yield the versions of the required packages, and known problems of the environment."""
    missing = [name for name in REQUIRED if _version(name) is None]
    versions = ", ".join(f"{name} {_version(name)}" for name in REQUIRED if name not in missing)
    yield Finding("packages", "ok", versions)
    for name in missing:
        yield Finding("packages", "error", f"{name} is missing", f"run pip install {name}")
    if _version(DISTRIBUTION) is None:
        advice = "install the clone with pip install -e . so that entry points of algorithms are found"
        yield Finding("installation", "warning", f"{DISTRIBUTION} is not installed", advice)
    for warning in environment_warnings():
        found, _, advice = warning.partition("; ")
        yield Finding("environment", "warning", found, advice)


def _torch() -> Iterator[Finding]:
    """Yield the build of torch, compared with the GPUs of this machine."""
    version = _version("torch")
    if version is None:
        return
    has_gpu = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    build = version.partition("+")[2]
    if not has_gpu:
        large = not build and sys.platform == "linux"
        advice = "the build for CPUs is smaller: pip install torch --index-url https://download.pytorch.org/whl/cpu"
        yield Finding("torch", "ok", f"{version}; no NVIDIA GPU on this machine", advice if large else "")
        return
    driver = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if build == "cpu":
        advice = "install torch's CUDA build: pip install --force-reinstall torch"
        yield Finding("torch", "warning", f"{version} can't use the GPU ({driver or 'no driver answers'})", advice)
    elif driver is None:
        advice = "install or repair NVIDIA's driver; nvidia-smi must list the GPU"
        yield Finding("CUDA", "warning", "nvidia-smi fails, so no GPU can be used", advice)
    else:
        yield Finding("torch", "ok", f"{version}; {driver}")


def _compiler() -> Iterator[Finding]:
    """Yield the C++ compiler and the cache of compiled gradient steps."""
    folder = cache_root()
    if has_compiler():
        yield Finding("compiler", "ok", shutil.which(os.environ.get("CXX", "g++")) or "found")
    else:
        advice = "install g++ (Debian: apt install g++), or set CXX; runs work without it, but longer ones are slower"
        yield Finding("compiler", "warning", "no C++ compiler", advice)
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        advice = "set SHEEPRL_CACHE to a folder that can be written"
        yield Finding("compiler cache", "warning", f"{folder} can't be written", advice)
        return
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    yield Finding("compiler cache", "ok", f"{folder}: {byte_size(size)}")


def _ray() -> Iterator[Finding]:
    """Yield the cluster that decoupled mode starts or joins, and obstacles to it."""
    address = os.environ.get("RAY_ADDRESS")
    mode = os.environ.get("RAY_AUTH_MODE", "token (the default of a local Ray)")
    where = f"joins {address} (RAY_ADDRESS)" if address else "starts a local Ray"
    yield Finding("Ray", "ok", f"decoupled mode {where}; authentication: {mode}")
    for mistake in machine_mistakes():
        yield Finding("Ray", "error", mistake, "or use run.mode=coupled, which needs no Ray")


def _machine() -> Iterator[Finding]:
    """Yield cores, memory, shared memory and disk space."""
    import psutil

    yield Finding("cores", "ok", f"{available_cores()} of {os.cpu_count()} usable by this process")
    free = psutil.virtual_memory().available
    yield _at_least("memory", free, LEAST_MEMORY, "close other programs, or lower buffer.size and players.num")
    if (shm := Path("/dev/shm")).exists():
        advice = "enlarge it (docker run --shm-size=8g); Ray moves data through it, and is slow on disk without it"
        yield _at_least("shared memory", shutil.disk_usage(shm).free, LEAST_SHM, advice, " in /dev/shm")
    advice = "free some space, set run.dir to another disk, or lower checkpoint.keep_last"
    yield _at_least("disk", shutil.disk_usage(Path.cwd()).free, LEAST_DISK, advice, f" in {Path.cwd()}")
    temporary = tempfile.gettempdir()
    advice = "free some space, or set RAY_TMPDIR and TMPDIR to another disk; Ray's session is there"
    yield _at_least("temporary files", shutil.disk_usage(temporary).free, LEAST_DISK, advice, f" in {temporary}")


def _at_least(subject: str, free: int, least: int, advice: str, place: str = "") -> Finding:
    """Return the finding about free bytes."""
    found = f"{byte_size(free)} free{place}"
    return Finding(subject, "ok", found) if free >= least else Finding(subject, "warning", found, advice)


def _limits() -> Iterator[Finding]:
    """Yield the limits of this process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        advice = f"run ulimit -n {LEAST_FILES} first; each environment process and each actor needs some"
        yield Finding("open files", "warning", f"at most {files}", advice)
    else:
        yield Finding("open files", "ok", f"at most {files}")
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if processes != resource.RLIM_INFINITY and processes < 1024:
        advice = "run ulimit -u 4096 first; Ray starts dozens of threads and processes"
        yield Finding("processes", "warning", f"at most {processes}", advice)


def _rendering() -> Iterator[Finding]:
    """Yield the display and the renderer of MuJoCo."""
    if sys.platform != "linux":
        return
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    chosen = os.environ.get("MUJOCO_GL")
    libraries = [name for name in ("EGL", "OSMesa", "GL") if ctypes.util.find_library(name)]
    found = f"{f'display {display}' if display else 'no display'}; libraries: {', '.join(libraries) or 'none'}"
    found += f"; MUJOCO_GL={chosen}" if chosen else ""
    if chosen == "glfw" and not display:
        yield Finding("rendering", "error", found, "unset MUJOCO_GL; glfw ends the process without a display")
    elif importlib.util.find_spec("mujoco") and not libraries:
        advice = "install libegl1 or libosmesa6 for videos and pictures of MuJoCo (Debian: apt install libegl1)"
        yield Finding("rendering", "warning", found, advice)
    else:
        yield Finding("rendering", "ok", found)


def _extras() -> Iterator[Finding]:
    """Yield the extras that are installed, and the command that adds one."""
    found = [extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module) is not None]
    others = [extra for extra in EXTRAS if extra not in found]
    text = f"installed: {', '.join(found) or 'none'}; not installed: {', '.join(others) or 'none'}"
    yield Finding("extras", "ok", text, f"add one with {install_command('EXTRA')}" if others else "")


def _version(name: str) -> str | None:
    """Return the version of a distribution, None if it isn't installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(*words: str) -> str | None:
    """Return the first line of a command's output, None if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0]
