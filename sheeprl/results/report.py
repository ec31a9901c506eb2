"""Write a report about runs as one HTML file, which needs no other file and no script."""

from __future__ import annotations

import html
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from sheeprl.results.comparison import Groups, improvements, interval, notes, rows_of, table
from sheeprl.results.drawing import as_svg, draw_curves, draw_profiles
from sheeprl.results.reading import Results, RunResults
from sheeprl.utils.text import counted

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; text-align: left }
th { border-bottom: 2px solid } td { border-bottom: 1px solid #8884 }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; overflow-x: auto }
svg { max-width: 100%; height: auto } code { font-size: 13px } summary { cursor: pointer }
"""


def html_report(groups: Groups, threshold: float | None = None, smooth: int = 20) -> str:
    """Return a report: a table, probabilities of improvement, curves, profiles and the runs with their commands.

    Args:
        groups: the runs.
        threshold: return for the time to threshold; None for none.
        smooth: number of training episodes that are averaged.
    """
    rows = rows_of(groups, threshold, smooth)
    runs = [run for by_env in groups.values() for found in by_env.values() for run in found]
    compared = improvements(groups)
    pairs = [
        (f"{pair.better} above {pair.worse}", str(len(pair.envs)), interval(pair.probability, 2)) for pair in compared
    ]
    command = _text(shlex.join(["sheeprl", *sys.argv[1:]]))
    parts = [
        f"<h1>{counted(len(runs), 'run')}</h1>",
        f"<p>Written {time.strftime('%Y-%m-%d %H:%M')} by <code>{command}</code>. "
        "A score is the mean return of the last evaluation, or of the last 100 training episodes. IQM is the "
        "interquartile mean over runs; intervals are 95 % bootstrap intervals.</p>",
        _table(table(rows)),
        *([_table([("P(higher score)", "environments", "probability [95 %]"), *pairs])] if pairs else []),
        *(f"<p>Note: {_text(note)}.</p>" for note in notes(rows, compared)),
        "<h2>Curves</h2>",
        _figure(draw_curves(groups, ("steps", "time"), smooth=smooth), "Return over policy steps and over wall time"),
        "<h2>Performance profiles</h2>",
        _figure(draw_profiles(groups), "Fraction of runs above each return"),
        "<h2>Runs</h2>",
        *(_about(run) for run in runs),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>SheepRL report</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _text(value: Any) -> str:
    """Return text with HTML's special characters escaped."""
    return html.escape(str(value))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is its header."""
    header = "".join(f"<th>{_text(cell)}</th>" for cell in rows[0])
    lines = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows[1:]]
    return f"<table><tr>{header}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _figure(figure: Any, label: str) -> str:
    """Return a figure with a label for screen readers."""
    return f'<figure role="img" aria-label="{_text(label)}">{as_svg(figure)}</figure>'


def _about(run: Results) -> str:
    """Return the starts of a run, with command, commit, host and versions."""
    starts = run.run.info.get("starts", ()) if isinstance(run, RunResults) else ()
    lines = []
    for start in starts:
        git = start.get("git") or {}
        commit = git.get("commit", "no repository")[:12] + (" with changes" if git.get("dirty") else "")
        versions = ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items())
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(start.get("time", 0)))
        lines.append(
            f"<li>{begun} on {_text(start.get('host'))}, commit {_text(commit)}: "
            f"<code>{_text(shlex.join(start.get('command', ())))}</code><br>{_text(versions)}</li>"
        )
    detail = f"<ul>{''.join(lines)}</ul>" if lines else f"<p>{_text(run.folder)}</p>"
    return f"<details><summary>{_text(run.name)}: score {run.score:.1f}</summary>{detail}</details>"
