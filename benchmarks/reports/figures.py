"""Figures of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.harness.record import Json
from benchmarks.report import (
    Results,
    best_timings,
    has_ratios,
    has_scaling,
    has_where,
    placement_of,
    scaling_curves,
    workloads,
)

COLORS = {"decoupled": "tab:orange", "coupled": "tab:blue"}
PARTS = {
    "updating": "tab:green",
    "compiling": "tab:brown",
    "playing": "tab:blue",
    "waiting for players": "tab:orange",
    "waiting for batches": "tab:red",
    "checkpoints": "tab:purple",
    "other": "tab:gray",
    "start-up": "lightgray",
}


def draw(results: Results, folder: Path) -> Iterator[Path]:
    """Draw all figures that have results; yield their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, tuple[bool, Callable[[Results], plt.Figure]]] = {
        "performance_ratios": (has_ratios(results), ratios),
        "performance_where": (has_where(results), where),
        "performance_scaling": (has_scaling(results), scaling),
    }
    for name, (there, drawing) in drawings.items():
        if there:
            figure = drawing(results)
            figure.tight_layout()
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})  # the same bytes for the same results
            plt.close(figure)
            yield folder / f"{name}.png"


def plain(axis: mpl.axis.Axis, ticks: Sequence[float]) -> None:
    """Write the ticks' numbers in full."""
    axis.set_major_locator(mpl.ticker.FixedLocator(ticks))
    axis.set_minor_locator(mpl.ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def ratios(results: Results) -> plt.Figure:
    """Draw bars from 1 on: speed relative to each peer, in both placements, with the spread of the rounds."""
    rows: dict[str, dict[str, Json]] = {}
    for workload in workloads(results):
        for pair in workload.get("ratios", []):
            what = "first time" if "first time" in pair["program"] else pair["kind"]
            label = f"{workload['workload']}, {what}\nbeside {pair['peer']}"
            rows.setdefault(label, {})[placement_of(pair["program"])] = pair
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(rows) + 1.2), dpi=120)
    for index, (placement, color) in enumerate(COLORS.items()):
        for place, pairs in enumerate(rows.values()):
            if placement in pairs:
                ratio, (low, high) = pairs[placement]["ratio"], pairs[placement]["spread"]
                error = [[max(0.0, ratio - low)], [max(0.0, high - ratio)]]
                axes.barh(place + 0.36 * index, ratio - 1, 0.34, left=1, color=color, xerr=error, capsize=2)
                axes.text(high, place + 0.36 * index, f"  {ratio:.1f}", va="center", fontsize=8)
    axes.set_yticks([place + 0.18 for place in range(len(rows))], list(rows), fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    reached = [end for pairs in rows.values() for pair in pairs.values() for end in pair["spread"]]
    axes.set_xlim(0.8 * min([1.0, *reached]), 1.3 * max([1.0, *reached]))
    plain(axes.xaxis, [tick for tick in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100) if tick <= max(reached)])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("times as fast")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    axes.legend(handles, list(COLORS), fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def where(results: Results) -> plt.Figure:
    """Draw stacked bars of the time breakdown of a run, from its timers."""
    bars = {
        f"{workload['workload']}\n{timings['program'].removeprefix('SheepRL ')}": timings["where"]
        for workload in workloads(results)
        for timings in best_timings(workload)
        if timings.get("where")
    }
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(bars) + 1.4), dpi=120)
    left = [0.0] * len(bars)
    for part, color in PARTS.items():
        seconds = [breakdown.get(part, 0.0) for breakdown in bars.values()]
        if any(seconds):
            axes.barh(range(len(bars)), seconds, 0.7, left=left, color=color, label=part)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.set_yticks(range(len(bars)), list(bars), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=4)
    return figure


def scaling(results: Results) -> plt.Figure:
    """Draw policy steps per second by number of players, and the linear ideal."""
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    for title, curve in scaling_curves(results).items():
        players = sorted(curve)
        (line,) = axes.plot(players, [curve[number] for number in players], marker="o", label=title)
        linear = [curve[players[0]] / players[0] * number for number in players]
        axes.plot(players, linear, linestyle=":", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    plain(axes.xaxis, sorted({number for curve in scaling_curves(results).values() for number in curve}))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel("players (dotted: linear)")
    axes.set_ylabel("policy steps per second")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
