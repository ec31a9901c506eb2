"""Text of docs/results.md and of the READMEs' tables: learning results beside published ones.

Everything comes from `benchmarks/rows.yaml` and the committed results. A README has its table between two markers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.record import Json
from benchmarks.harness.rows import MODES, Row

PAGE = record.ROOT / "docs" / "results.md"
README = record.ROOT / "README.md"
BEGIN, END = (
    "<!-- Made by `python -m benchmarks report`: begin -->",
    "<!-- Made by `python -m benchmarks report`: end -->",
)
NOT_RUN = "not run"


@dataclass(frozen=True)
class Measured:
    """Row of the table with its results.

    Args:
        row: row of the table.
        results: result of each placement that was run, in the order of `MODES`.
        files: path of each result's file, relative to the results' folder.
    """

    row: Row
    results: tuple[Json, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Return the verdict of all placements as text."""
        if not self.results:
            return f"{NOT_RUN}: needs a GPU" if self.row.gpu else NOT_RUN
        if self.row.at_least is None and self.row.at_most is None:
            return "reported"
        verdicts = {self.row.verdict(result["mean"], len(result["seeds"])) for result in self.results}
        return "**not met**" if False in verdicts else "too few seeds" if None in verdicts else "met"

    def mean(self, mode: str) -> str:
        """Return the mean return of a placement as text, "–" if it wasn't run."""
        return next((number(result["mean"]) for result in self.results if result["mode"] == mode), "–")


def measured(table: Mapping[str, Row], folders: Sequence[tuple[str, Mapping[str, Json]]]) -> list[Measured]:
    """Return all rows with their results.

    Args:
        table: rows by name.
        folders: name and files of each machine's folder, the main one with the name "" first.
    """
    found = []
    for row in table.values():
        results, files = [], []
        for mode in MODES:
            name = f"{row.name}_{mode}"
            folder = next((folder for folder, contents in folders if name in contents), None)
            if folder is not None:
                results.append(dict(folders)[folder][name])
                files.append("/".join(filter(None, (folder, f"{name}.json"))))
        found.append(Measured(row, tuple(results), tuple(files)))
    return found


def page(rows: Sequence[Measured]) -> str:
    """Return the whole page."""
    lines = [
        "# Learning results",
        "",
        "<!-- Made by `python -m benchmarks report` out of benchmarks/rows.yaml and benchmarks/results. -->",
        "",
        "A result is the mean return of the final policies over the seeds, never of the best checkpoint. Each final",
        "policy plays its evaluation episodes from fixed start seeds, without exploration noise. *Required* is our",
        "bound, *provisional* where no score is published at that number of steps. *Published* scores come from their",
        "authors' runs, often with more steps or another version of the task. A requirement that isn't met is reported",
        "as not met, and a row without a result as not run.",
        "",
        "| algorithm | task | policy steps | coupled | decoupled | published | required | |",
        "|---|---|---|---|---|---|---|---|",
        *(overview_row(each) for each in rows),
        "",
    ]
    if missed := [each for each in rows if each.verdict == "**not met**"]:
        lines += ["## Missed requirements", "", *(missed_line(each) for each in missed), ""]
    for algorithm, group in groupby(rows, key=lambda each: each.row.algorithm):
        lines += [f"## {algorithm[0].upper()}{algorithm[1:]}", ""]
        for each in group:
            lines += section(each)
    return "\n".join(lines).rstrip() + "\n"


def overview_row(each: Measured) -> str:
    """Return the line of a row in the first table."""
    row = each.row
    cells = (row.algorithm, task(each), f"{row.steps:,}", *(each.mean(mode) for mode in MODES))
    return line_of(*cells, published(row), signs(row.required()), each.verdict)


def missed_line(each: Measured) -> str:
    """Return the line of a row whose requirement isn't met."""
    means = ", ".join(f"{result['mode']} {number(result['mean'])}" for result in each.results)
    return f"- {each.row.algorithm}, {task(each)}: {means}, required {signs(each.row.required())}"


def section(each: Measured) -> list[str]:
    """Return the section of one row."""
    row = each.row
    lines = [f"### {task(each)}, {row.steps:,} steps", ""]
    wanted = f"Published: {published(row)}. Required: {signs(row.required())}. Verdict: {each.verdict}."
    if not each.results:
        needs = f", needs `configs/{row.config}.yaml`, which doesn't exist" if not row.path.is_file() else ""
        return [*lines, wanted, "", f"`{command(row)}`{needs}", ""]
    lines += [f"![{row.algorithm} on {row.task}](images/{row.name}.png)", "", wanted, ""]
    lines += [
        "| placement | mean return | over seeds, ± | seeds | policy steps | training per seed, s | command |",
        "|---|---|---|---|---|---|---|",
        *(placement_row(row, result) for result in each.results),
        "",
    ]
    sources = [provenance(file, result) for file, result in zip(each.files, each.results, strict=True)]
    return [*lines, "<br>".join(sources), ""]


def placement_row(row: Row, result: Json) -> str:
    """Return the line of one placement's result."""
    seeds = result["per_seed"]
    deviation = result["std_over_seeds"]
    return line_of(
        result["mode"],
        number(result["mean"]),
        "–" if deviation is None else number(deviation),
        str(len(seeds)),
        f"{max(seed['policy_steps'] for seed in seeds):,}",
        spread([seed["wall_time"] for seed in seeds]),
        f"`{command(row, result['mode'])}`",
    )


def provenance(file: str, result: Json) -> str:
    """Return the line that links to a result's file and names commit and machine."""
    machine = result["machine"]
    commits = sorted({(seed.get("commit") or result["commit"])[:12] for seed in result["per_seed"]})
    changes = " with changes" if result.get("modified") else ""
    parts = [
        f"commit {', '.join(f'`{commit}`' for commit in commits)}{changes}",
        f"{machine['cores']} cores of {machine['cpu']}",
        *machine.get("gpus", []),
    ]
    return f"<sub>[{Path(file).name}](../benchmarks/results/{file}): {'; '.join(parts)}</sub>"


# ------------------------------------------------------------------------------------------------ READMEs


def texts(rows: Sequence[Measured]) -> Iterator[tuple[Path, str]]:
    """Yield path and new text of every README with a table.

    Raises:
        ValueError: a README that has rows has no markers.
    """
    yield README, replaced(README, overview_table([each for each in rows if each.results]))
    for readme in dict.fromkeys(each.row.readme for each in rows):
        if readme.is_file():
            yield (
                readme,
                replaced(readme, algorithm_table([each for each in rows if each.row.readme == readme], readme)),
            )


def replaced(path: Path, lines: Sequence[str]) -> str:
    """Return a file's text with new lines between its markers.

    Raises:
        ValueError: the file doesn't have both markers.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.relative_to(record.ROOT)}: add the lines {BEGIN!r} and {END!r} around its results")
    return "\n".join((before + begin, *lines, end + after))


def overview_table(rows: Sequence[Measured]) -> list[str]:
    """Return the table of the first README: the rows that have a result."""
    return [
        "| task | algorithm | policy steps | coupled | decoupled | published | required | |",
        "|---|---|---|---|---|---|---|---|",
        *(
            line_of(
                task(each),
                each.row.algorithm,
                f"{each.row.steps:,}",
                *(each.mean(mode) for mode in MODES),
                published(each.row),
                signs(each.row.required()),
                each.verdict,
            )
            for each in rows
        ),
    ]


def algorithm_table(rows: Sequence[Measured], readme: Path) -> list[str]:
    """Return the table and the figures of an algorithm's README."""
    lines = [
        "| task | policy steps | placement | mean return | published | required | | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        row = each.row
        for mode, mean in [(result["mode"], number(result["mean"])) for result in each.results] or [(MODES[0], "–")]:
            cells = (task(each), f"{row.steps:,}", mode, mean, published(row), signs(row.required()), each.verdict)
            lines.append(line_of(*cells, f"`{command(row, mode)}`"))
    images = Path(*[".."] * len(readme.parent.relative_to(record.ROOT).parts), "docs", "images")
    figures = [f"![{each.row.task}]({images.as_posix()}/{each.row.name}.png)" for each in rows if each.results]
    return [*lines, *(["", *figures] if figures else [])]


# ------------------------------------------------------------------------------------------------ cells


def command(row: Row, mode: str = MODES[0]) -> str:
    """Return the command that reproduces a row."""
    return f"python -m benchmarks learning {row.name}" + (f" --mode {mode}" if mode != MODES[0] else "")


def task(each: Measured) -> str:
    """Return the task with the number of evaluation episodes if it isn't 100."""
    return each.row.task + ("" if each.row.episodes == 100 else f" ({each.row.episodes} episodes)")


def published(row: Row) -> str:
    """Return the published scores, "–" without one."""
    return signs(row.peers) or "–"


def signs(text: str) -> str:
    """Return a text with typographic minus signs before numbers."""
    return "".join(
        "−" if sign == "-" and after.isdigit() and not before.isalnum() else sign
        for before, sign, after in zip(" " + text, text, text[1:] + " ", strict=False)
    )


def number(value: float) -> str:
    """Return a return with one digit after the point, two below 10."""
    return signs(f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}")


def spread(values: Sequence[float]) -> str:
    """Return minimum and maximum as text."""
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def line_of(*cells: str) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(cells) + " |"
