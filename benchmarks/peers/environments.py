"""Virtual environments of other libraries, created on first use.

The requirements of each are in `<name>.txt` in this folder. The environments are in `~/.cache/sheeprl/peers`, or below
`SHEEPRL_CACHE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def folder_of(name: str) -> Path:
    """Return the folder of a library's environment."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sheeprl"
    return Path(os.environ.get("SHEEPRL_CACHE") or users) / "peers" / name


def python_of(name: str) -> str:
    """Return the Python of a library's environment; create the environment if it is missing or outdated.

    Raises:
        RuntimeError: a command that creates it failed.
    """
    folder, requirements = folder_of(name), HERE / f"{name}.txt"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    required = requirements.read_text(encoding="utf-8")
    if installed.is_file() and installed.read_text(encoding="utf-8") == required:
        return str(python)
    print(
        f"creating the environment of {name} in {folder}; this takes minutes the first time",
        file=sys.stderr,
        flush=True,
    )
    _call(sys.executable, "-m", "venv", str(folder))
    _call(str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements))
    installed.write_text(required, encoding="utf-8")
    return str(python)


def bare_environment(threads: int) -> dict[str, str]:
    """Return environment variables for another library, which can't find this package, and a number of threads."""
    hidden = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    return variables | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _call(*command: str) -> None:
    """Run a command; raise a RuntimeError with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
