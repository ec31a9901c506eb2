"""Virtual environments that other libraries run in: made when they are asked for first, and kept.

What one holds is in `<name>.txt` beside this file. They lie in `~/.cache/sheeprl/peers`, or below `SHEEPRL_CACHE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def folder_of(name: str) -> Path:
    """Where a library's environment lies."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sheeprl"
    return Path(os.environ.get("SHEEPRL_CACHE") or users) / "peers" / name


def python_of(name: str) -> str:
    """The Python of a library's environment, which is made if it isn't there as it should be.

    Raises:
        RuntimeError: it can't be made.
    """
    folder, requirements = folder_of(name), HERE / f"{name}.txt"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if installed.is_file() and installed.read_text(encoding="utf-8") == wanted:
        return str(python)
    print(f"making the environment of {name} in {folder}; this takes minutes, once", file=sys.stderr, flush=True)
    _call(sys.executable, "-m", "venv", str(folder))
    _call(str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements))
    installed.write_text(wanted, encoding="utf-8")
    return str(python)


def bare_environment(threads: int) -> dict[str, str]:
    """Environment variables for another library: none that would let it find this package, and a number of threads."""
    left_out = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
