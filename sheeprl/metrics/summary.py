"""Lines that a run prints at its start and at its end."""

from __future__ import annotations

from pathlib import Path

from sheeprl.config.defaults import available_cores, cluster_address
from sheeprl.config.schema import Config
from sheeprl.metrics.counters import Counters
from sheeprl.metrics.time_breakdown import TimeBreakdown, describe, suggest
from sheeprl.utils.errors import shell_command
from sheeprl.utils.text import counted

STATUS_NAMES = {"done": "finished", "interrupted": "stopped", "failed": "failed"}
"""Words of messages for the status in a run's end event."""


def opening_line(config: Config) -> str:
    """Describe algorithm, environment, workers and device of a run."""
    line = (
        f"{config.algo.name} on {config.env.id}, {config.run.mode}: {counted(config.num_players, 'player')} with "
        f"{counted(config.env.num_envs, 'environment')}{_eval_envs(config)}, "
        f"{counted(config.trainer.devices, 'rank')} on {config.trainer.accelerator} with "
        f"{counted(config.trainer.threads or 1, 'thread')}"
    )
    if config.trainer.compile:
        line += "; compiling gradient steps (about 20 s the first time, then cached)"
    if config.trainer.accelerator == "mps":
        line += "; gradient steps are not compiled, since mps does not support it"
    return line


def core_warning(config: Config) -> str | None:
    """Return a warning if the run's processes and threads exceed the cores of this machine; None on a cluster."""
    hosts, cores, threads = config.most_hosts, available_cores(), config.trainer.threads_per_node
    if config.is_coupled:
        shared, lower = "", "trainer.devices" if threads == config.trainer.devices else "trainer.threads"
        needed: float = threads
    else:
        # Without hosts, each player is a process.
        name, number = ("player", "players.num") if hosts == config.num_players else ("host", "players.max")
        shared = f"{counted(hosts, name)} and "
        lower = f"{number} or trainer.threads, or players.cpus if the environments wait rather than compute"
        needed = 0 if cluster_address(config) else hosts * config.players.cpus + threads
    if needed <= cores or hosts * threads == 1:
        return None
    return f"{shared}{counted(threads, 'thread')} of the trainer share {counted(cores, 'core')}: lower {lower}"


def closing_lines(
    config: Config,
    run_dir: Path,
    status: str,
    counters: Counters,
    breakdown: TimeBreakdown,
    startup_seconds: float,
    seconds: float,
) -> list[str]:
    """Return the time breakdown with a suggestion, and the result with the next command.

    Args:
        config: configuration of the run.
        run_dir: folder of the run.
        status: `done`, `interrupted` or `failed`.
        counters: counters of the run.
        breakdown: time breakdown of the run.
        startup_seconds: time before the run.
        seconds: time of the run.
    """
    suggestion = suggest(breakdown, config)
    command = shell_command("eval" if status == "done" else "resume", run_dir)
    return [
        f"time: {describe(breakdown, config)}; start-up {startup_seconds:.1f} s"
        + (f"; {suggestion}" if suggestion else ""),
        f"{STATUS_NAMES.get(status, status)}: {counted(counters.policy_steps, 'policy step')} and "
        f"{counted(counters.gradient_steps, 'gradient step')} in {seconds:.0f} s; {command}",
    ]


def _eval_envs(config: Config) -> str:
    """Return the number of environments that an evaluation makes besides those of training, "" without evaluation."""
    from sheeprl.actors.evaluation import LANES

    most = min(config.eval.episodes, LANES)
    return f" (and {most} for evaluation)" if most else ""
