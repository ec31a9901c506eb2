"""The commands about results: compare, plot, reproduce, report and clean."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sheeprl.cli.commands import at_least, print_table
from sheeprl.cli.completion import complete_run
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.text import byte_size, counted

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN...",
        help="runs: @last, @best, prefixes of names, tag:WORD, folders with runs, URLs at checkpoint.storage, a "
        "monitor.csv of Stable-Baselines3, or a folder of TensorBoard events; default: all runs of the working folder",
        autocompletion=complete_run,
        show_default=False,
    ),
]
By = Annotated[str, typer.Option(metavar="KEYS", help="settings that form the groups, separated by commas")]
Smooth = Annotated[
    int, typer.Option(callback=at_least(1), metavar="int", help="training episodes that a curve averages")
]
Threshold = Annotated[float | None, typer.Option(metavar="float", help="return for the time to threshold")]


def compare(
    runs: Runs = None,
    by: By = "algo.name",
    threshold: Threshold = None,
    smooth: Smooth = 20,
    latex: Annotated[str | None, typer.Option(metavar="FILE", help="also write a LaTeX table")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Compare groups of runs: interquartile mean with a 95 % interval, and the probability of a higher score."""
    from sheeprl.results.comparison import grouped, improvements, interval, notes, rows_of, table
    from sheeprl.results.comparison import latex as latex_table
    from sheeprl.results.reading import select

    groups = grouped(select(runs or ()), by)
    rows, pairs = rows_of(groups, threshold, smooth), improvements(groups)
    if latex is not None:
        _write(Path(latex), latex_table(rows), "--latex")
    if as_json:
        about = {"rows": [asdict(row) for row in rows], "improvements": [asdict(pair) for pair in pairs]}
        typer.echo(json.dumps(_plain(about)))
        return
    print_table(table(rows))
    for pair in pairs:
        envs = f" over {len(pair.envs)} environments" if len(pair.envs) > 1 else ""
        typer.echo(f"P({pair.better} > {pair.worse}) = {interval(pair.probability, 2)}{envs}")
    for note in notes(rows, pairs):
        typer.echo(f"note: {note}")


def plot(
    runs: Runs = None,
    by: By = "algo.name",
    x: Annotated[str, typer.Option("--x", metavar="AXES", help="steps, time, or both: steps,time")] = "steps",
    of: Annotated[
        str, typer.Option(metavar="WHAT", help="eval, episodes, or auto: evaluations if there are several")
    ] = "auto",
    profile: Annotated[bool, typer.Option("--profile", help="draw performance profiles in place of curves")] = False,
    smooth: Smooth = 20,
    out: Annotated[str, typer.Option(metavar="FILE", help="a file that ends with .pdf, .svg or .png")] = "plot.pdf",
) -> None:
    """Draw the interquartile mean of each group of runs with its 95 % interval, a column per environment."""
    from sheeprl.results.drawing import AXES, FORMATS, draw, save

    axes, path = x.split(","), Path(out)
    mistakes = [f"--x {x}: {axis!r} is unknown; use steps, time or steps,time" for axis in axes if axis not in AXES]
    if of not in ("auto", "eval", "episodes"):
        mistakes.append(f"--of {of}: must be auto, eval or episodes")
    if path.suffix not in FORMATS:
        mistakes.append(f"--out {out}: must end with {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if mistakes:
        raise ConfigError(mistakes)
    from sheeprl.results.comparison import grouped
    from sheeprl.results.origin import origin_of
    from sheeprl.results.reading import select

    found = select(runs or ())
    groups = grouped(found, by)
    settings = {"axes": axes, "of": of, "smooth": smooth, "profile": profile}
    save(draw(groups, settings), path, origin_of(found, sys.argv[1:], {"by": by, **settings}))
    typer.echo(f"{path}: {counted(len(found), 'run')} in {counted(len(groups), 'group')}")


def reproduce(
    figure: Annotated[str, typer.Argument(metavar="FIGURE", help="a file of sheeprl plot")],
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="file of the new figure; default: NAME_again", show_default=False),
    ] = None,
) -> None:
    """Draw a figure of sheeprl plot again from its runs, compare the files, and list the commits of the runs."""
    from sheeprl.results.comparison import grouped
    from sheeprl.results.drawing import draw, save
    from sheeprl.results.origin import read_origin
    from sheeprl.results.reading import select

    path = Path(figure)
    again = Path(out) if out else path.with_stem(f"{path.stem}_again")
    if again.suffix != path.suffix:
        raise ConfigError([f"--out {out}: must end with {path.suffix}, as {path} does"])
    origin = read_origin(path)
    print_table([("run", "commit", "command"), *(_row_of(run) for run in origin.runs)])
    typer.echo(f"drawn by: {shlex.join(origin.command)}")
    groups = grouped(select(run["path"] for run in origin.runs), origin.settings["by"])
    save(draw(groups, origin.settings), again, origin)
    if again.read_bytes() == path.read_bytes():
        typer.echo(f"{again}: identical to {path}")
    else:
        typer.echo(f"{again}: differs from {path}: the runs have other results by now, or other versions drew it")


def _row_of(run: dict[str, Any]) -> tuple[str, str, str]:
    """Return the line of a figure's run in a table."""
    return run["path"], (run["commit"] or "?")[:12], shlex.join(run["command"]) if run["command"] else "?"


def report(
    runs: Runs = None,
    by: By = "algo.name",
    threshold: Threshold = None,
    smooth: Smooth = 20,
    html: Annotated[str, typer.Option("--html", metavar="FILE", help="the file")] = "report.html",
) -> None:
    """Write one HTML file with table, curves, profiles and the commands of the runs; it opens without a network."""
    from sheeprl.results.comparison import grouped
    from sheeprl.results.reading import select
    from sheeprl.results.report import html_report

    found = select(runs or ())
    _write(Path(html), html_report(grouped(found, by), threshold, smooth), "--html")
    typer.echo(f"{html}: {counted(len(found), 'run')}")


def clean(
    runs: Runs = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="checkpoints to keep: best, last or best,last; default: best,last",
            show_default=False,
        ),
    ] = None,
    older: Annotated[
        str | None, typer.Option(metavar="AGE", help="only runs without a change for this time, such as 14d or 6h")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be removed, and remove nothing")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="don't ask; without a run, --keep and --older the command asks")
    ] = False,
) -> None:
    """Remove checkpoints of runs that have ended; metrics, episodes and evaluations stay."""
    from sheeprl.checkpoint import manifest
    from sheeprl.metrics.display import is_terminal
    from sheeprl.results.cleaning import removals
    from sheeprl.results.reading import RunResults, select

    found = [each.run for each in select(runs or ()) if isinstance(each, RunResults)]
    planned = list(removals(found, keep or "best,last", older))
    if planned and not (runs or keep or older or dry_run or yes):
        what = f"{counted(len(planned), 'checkpoint')} of all runs below the working folder"
        if not is_terminal(sys.stdin):
            options = "name runs, use --keep or --older, or confirm with --yes"
            raise ConfigError([f"clean removes {what}; look at them with --dry-run, then {options}"])
        if not typer.confirm(f"remove {what} (list: --dry-run)?"):
            typer.echo("nothing was removed")
            return
    for removal in planned:
        typer.echo(f"{removal.run.path}/checkpoints/{removal.checkpoint.name}  {byte_size(removal.bytes)}")
        if not dry_run:
            manifest.remove(removal.checkpoint)
    total = sum(removal.bytes for removal in planned)
    did = "would be removed" if dry_run else "removed"
    typer.echo(f"{counted(len(planned), 'checkpoint')} {did}, {byte_size(total)}")


def _write(path: Path, text: str, option: str) -> None:
    """Write a file of text.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{option} {path}: can't be written: {error.strerror}"]) from error


def _plain(value: object) -> object:
    """Return a value without numbers that JSON can't represent; they become null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value - value != 0 else value
