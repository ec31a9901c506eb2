"""Draw curves, profiles and comparisons of groups of runs with matplotlib (extra: plot)."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.results.comparison import Groups
from sheeprl.results.origin import Origin
from sheeprl.results.reading import Results
from sheeprl.results.statistics import curve, performance_profile, smoothed
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.plotting import pyplot

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's colors, which people with any kind of color vision can distinguish."""

AXES = {"steps": "policy steps", "time": "hours"}
FORMATS = (".pdf", ".svg", ".png")
LETTERS_PER_INCH, HANDLE_LETTERS, MOST_COLUMNS = 13, 8, 4  # of a legend
STYLE: dict[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "pdf.fonttype": 42,  # embeds fonts that a reader can select and a journal accepts
    "svg.hashsalt": "sheeprl",  # the same data give the same file
}


def draw_curves(groups: Groups, axes: Sequence[str] = ("steps",), of: str = "auto", smooth: int = 20) -> Any:
    """Return a figure with the curves of all groups: a row per horizontal axis, a column per environment.

    A line is the interquartile mean over the runs of a group, its band the 95 % interval.

    Args:
        groups: the runs.
        axes: horizontal axes, of `steps` and `time`.
        of: `eval`, `episodes` or `auto`.
        smooth: number of training episodes that are averaged.
    """
    plt = pyplot()
    envs = list(dict.fromkeys(env for by_env in groups.values() for env in by_env))
    with plt.rc_context(STYLE):
        figure, cells = plt.subplots(
            len(axes), len(envs), figsize=(4.2 * len(envs), 3.1 * len(axes)), squeeze=False, layout="constrained"
        )
        for column, env in enumerate(envs):
            for row, axis in enumerate(axes):
                cell = cells[row][column]
                for number, (group, by_env) in enumerate(groups.items()):
                    _draw_group(cell, by_env.get(env, []), group, COLORS[number % len(COLORS)], axis, of, smooth)
                cell.set(title=env if row == 0 else "", xlabel=AXES[axis], ylabel="return" if column == 0 else "")
                cell.margins(x=0)
                cell.locator_params(axis="x", nbins=5)
        handles = {label: handle for cell in cells.flat for handle, label in zip(*cell.get_legend_handles_labels())}  # noqa: B905
        if handles:
            fitting = int(LETTERS_PER_INCH * figure.get_figwidth() / (max(map(len, handles)) + HANDLE_LETTERS))
            columns = max(1, min(MOST_COLUMNS, fitting))
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _draw_group(cell: Any, runs: Sequence[Results], label: str, color: str, axis: str, of: str, smooth: int) -> None:
    """Draw one group of runs into one cell."""
    curves = [_points(run, axis, of, smooth) for run in runs]
    curves = [points for points in curves if len(points[0])]
    if not curves:
        return
    x, value, low, high = curve(curves)
    cell.plot(x, value, color=color, label=f"{label} ({len(curves)})", linewidth=1.5)
    if len(curves) > 1:
        cell.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _points(run: Results, axis: str, of: str, smooth: int) -> tuple[Any, Any]:
    """Return the curve of one run."""
    found = run.curve(of)
    is_evaluation = found is run.evaluations
    return found.over(axis), found.values if is_evaluation else smoothed(found.values, smooth)


def draw_profiles(groups: Groups) -> Any:
    """Return a figure with the performance profiles: the fraction of runs above each return, by environment."""
    plt = pyplot()
    envs = list(dict.fromkeys(env for by_env in groups.values() for env in by_env))
    with plt.rc_context(STYLE):
        figure, cells = plt.subplots(1, len(envs), figsize=(4.2 * len(envs), 3.1), squeeze=False, layout="constrained")
        for cell, env in zip(cells[0], envs, strict=True):
            scores = {name: np.array([run.score for run in by_env.get(env, [])]) for name, by_env in groups.items()}
            scores = {name: part[~np.isnan(part)] for name, part in scores.items()}
            every = np.concatenate(list(scores.values()))
            if not len(every):
                continue
            margin = 0.05 * (np.ptp(every) or 1.0)
            grid = np.linspace(every.min() - margin, every.max() + margin, 60)
            for number, (name, part) in enumerate(scores.items()):
                if len(part):
                    value, low, high = performance_profile([part], grid, repetitions=300)
                    color = COLORS[number % len(COLORS)]
                    cell.step(grid, value, color=color, label=f"{name} ({len(part)})", where="post")
                    if len(part) > 1:
                        cell.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0, step="post")
            cell.set(title=env, xlabel="return", ylabel="fraction of runs above it")
            cell.legend(frameon=False)
    return figure


def draw(groups: Groups, settings: dict[str, Any]) -> Any:
    """Return a figure with curves, or with performance profiles.

    Args:
        groups: the runs.
        settings: `axes`, `of` and `smooth` of the curves, and `profile`.
    """
    curves = {name: settings[name] for name in ("axes", "of", "smooth")}
    return draw_profiles(groups) if settings["profile"] else draw_curves(groups, **curves)


def save(figure: Any, path: Path, origin: Origin) -> None:
    """Write a figure, with its origin in the file.

    Args:
        figure: the figure.
        path: a file that ends with .pdf, .svg or .png.
        origin: its origin.
    """
    command, about = shlex.join(origin.command), origin.to_text()
    keys = {".pdf": ("Title", "Subject"), ".svg": ("Title", "Description"), ".png": ("Title", "Description")}
    metadata: dict[str, Any] = dict(zip(keys[path.suffix], (command, about), strict=True))
    metadata |= {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[path.suffix]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pyplot().rc_context(STYLE):
            figure.savefig(path, metadata=metadata, dpi=150)
    except OSError as error:
        raise ConfigError([f"--out {path}: can't be written: {error.strerror}"]) from error


def as_svg(figure: Any) -> str:
    """Return a figure as an `<svg>` element for a page of HTML."""
    text = io.StringIO()
    with pyplot().rc_context(STYLE):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])  # a page of HTML knows the names
