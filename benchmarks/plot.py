"""Draw the learning curves of the committed results, both placements of a row in one figure.

`python -m benchmarks plot` reads `benchmarks/results/<row>_<mode>.json` and writes `docs/images/<row>.png`;
for `ppo_cartpole` also `overview.png`, the README's first figure, with the seconds of `speed.json`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.harness import record
from benchmarks.harness.record import Json
from benchmarks.harness.rows import Row, load

# Color, line and marker; dashes and a cross, because on-policy both placements give the very same curve.
MODES = {"coupled": ("tab:blue", "-", "o"), "decoupled": ("tab:orange", "--", "x")}
# Programs of the overview, as the results and as the figure name them, and their colors.
PROGRAMS = (
    ("SheepRL coupled", "SheepRL coupled", "tab:blue"),
    ("SheepRL decoupled", "SheepRL decoupled", "tab:orange"),
    ("Stable-Baselines3", "Stable-Baselines3", "tab:gray"),
)
WORKLOADS = {"ppo_cartpole": "PPO, 65,536 steps", "sac_halfcheetah": "SAC, 4,096 steps"}
POINTS = 100
TITLE_WIDTH = 90  # most characters of a line of a title
# Two-sided 95 % quantiles of Student's t by degrees of freedom; more of them count as nine, which is a little wide.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def half_width(values: np.ndarray) -> np.ndarray:
    """Return half the 95 % confidence interval of the mean over the first axis, the seeds; 0 for a single one."""
    seeds = len(values)
    if seeds < 2:
        return np.zeros(values.shape[1:])
    return STUDENT_T[min(seeds - 1, 9)] * values.std(0, ddof=1) / math.sqrt(seeds)


def on_grid(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that all curves cover, `[POINTS]`, and their values there, `[seeds, POINTS]`."""
    arrays = [np.asarray(curve, dtype=float) for curve in curves]
    first, last = max(a[0, 0] for a in arrays), min(a[-1, 0] for a in arrays)
    steps = np.linspace(first, last, POINTS)
    return steps, np.stack([np.interp(steps, a[:, 0], a[:, 1]) for a in arrays])


def draw_mode(axes: plt.Axes, result: Json) -> None:
    """Draw one placement: mean return in training with its interval, and the evaluation of the final policies."""
    color, line, marker = MODES[result["mode"]]
    per_seed = result["per_seed"]
    steps, values = on_grid([seed["curve"] for seed in per_seed])
    mean, half = values.mean(0), half_width(values)
    axes.plot(steps, mean, color=color, linestyle=line, label=f"{result['mode']}, training")
    axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    final = np.array([seed["mean"] for seed in per_seed])
    end = max(seed["policy_steps"] for seed in per_seed)
    label = f"{result['mode']}, final policy: {final.mean():.0f}"
    axes.errorbar(end, final.mean(), half_width(final), color=color, fmt=marker, capsize=3, label=label)


def limits(axes: plt.Axes, results: Sequence[Json], bounds: Sequence[float]) -> None:
    """Set the y limits to the range of the seeds; an interval of few seeds may be far wider."""
    values = [value for result in results for seed in result["per_seed"] for _, value in seed["curve"]]
    values += [seed["mean"] for result in results for seed in result["per_seed"]] + list(bounds)
    margin = 0.05 * (max(values) - min(values))
    axes.set_ylim(min(values) - margin, max(values) + margin)


def draw(row: Row, results: Sequence[Json], path: Path) -> None:
    """Draw the figure of one row."""
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    for result in results:
        draw_mode(axes, result)
    bounds = [bound for bound in (row.at_least, row.at_most) if bound is not None]
    for bound in bounds:
        axes.axhline(bound, color="gray", linestyle=":", linewidth=1, label=f"required: {bound:g}")
    limits(axes, results, bounds)
    counts = sorted({len(result["seeds"]) for result in results})
    over = "1 seed" if counts == [1] else f"mean over {' and '.join(map(str, counts))} seeds with 95 % interval"
    what = f"{row.algorithm} on {row.task}"
    separator = ": " if len(what) + len(over) < TITLE_WIDTH else ":\n"
    axes.set_title(what + separator + over, fontsize=10)
    axes.set_xlabel("policy steps")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same bytes for the same results
    plt.close(figure)


def fastest(workload: Json, program: str) -> float:
    """Return a program's seconds from the command to the prompt, with its fastest number of threads."""
    return min(timing["process_median"] for timing in workload["timings"] if timing["program"] == program)


def draw_overview(results: Sequence[Json], speed: Json, path: Path) -> None:
    """Draw the first figure of the README: how PPO learns CartPole, and the seconds that the same work takes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), dpi=120, width_ratios=(3, 4))
    for result in results:
        color, line, _ = MODES[result["mode"]]
        steps, values = on_grid([seed["curve"] for seed in result["per_seed"]])
        left.plot(steps, values.mean(0), color=color, linestyle=line, label=result["mode"])
        left.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    left.set_title("PPO learns CartPole-v1: mean and range of 3 seeds", fontsize=9)
    left.set_xlabel("policy steps", fontsize=9)
    left.set_ylabel("return of an episode", fontsize=9)
    left.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    left.grid(alpha=0.3)
    left.legend(fontsize=8, loc="lower right")
    place, labels = 0.0, []
    for workload in speed["workloads"]:
        for program, shown, color in PROGRAMS:
            seconds = fastest(workload, program)
            right.barh(place, seconds, color=color)
            right.text(seconds + 0.5, place, f"{seconds:.1f} s", va="center", fontsize=8)
            labels.append((place, f"{WORKLOADS[workload['workload']]}: {shown}"))
            place -= 1
        place -= 0.6
    right.set_yticks([at for at, _ in labels], [label for _, label in labels], fontsize=8)
    right.set_xlim(0, 1.15 * max(bar.get_width() for bar in right.patches))
    right.set_title("seconds from command to prompt, same work, 2 cores", fontsize=9)
    right.tick_params(axis="x", labelsize=8)
    left.tick_params(labelsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def found_results(row: Row, folder: Path) -> list[Json]:
    """Return the results of a row, of each placement the first one in the folder or its subfolders."""
    paths = [
        next((path for path in (folder / name, *sorted(folder.glob(f"*/{name}"))) if path.is_file()), None)
        for name in (f"{row.name}_{mode}.json" for mode in MODES)
    ]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path]


def main(args: Sequence[str] | None = None) -> None:
    """Draw all figures."""
    table = load()
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all that have results")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--out", type=Path, default=record.ROOT / "docs" / "images")
    given = parser.parse_args(args)
    if unknown := [name for name in given.rows if name not in table]:
        parser.error(f"{', '.join(unknown)}: no such row; python -m benchmarks learning lists all")
    for name in given.rows or table:
        results = found_results(table[name], given.results)
        if results:
            draw(table[name], results, given.out / f"{name}.png")
            print(given.out / f"{name}.png")
            if name == "ppo_cartpole" and (given.results / "speed.json").is_file():
                speed = json.loads((given.results / "speed.json").read_text(encoding="utf-8"))
                draw_overview(results, speed, given.out / "overview.png")
                print(given.out / "overview.png")


if __name__ == "__main__":
    main()
