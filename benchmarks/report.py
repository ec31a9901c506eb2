"""Generate docs/performance.md, docs/results.md, the READMEs' tables and all figures from the committed results.

A result is a file of `benchmarks/results`. Results of another machine are in a subfolder. A missing result appears as
not measured. `benchmarks/notes.md` explains missed requirements and becomes a part of the performance page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import record, rows
from benchmarks.harness.record import Json
from benchmarks.reports import results

PAGE = record.ROOT / "docs" / "performance.md"
IMAGES = record.ROOT / "docs" / "images"
NOTES = record.ROOT / "benchmarks" / "notes.md"


@dataclass(frozen=True)
class Section:
    """Section of the page: the result of one benchmark.

    Args:
        name: name of the benchmark and of its file.
        title: title of the section.
        text: description of the measurement.
        comparisons: True if figures without a bound are shown too.
    """

    name: str
    title: str
    text: str
    comparisons: bool = True


SECTIONS = (
    Section(
        "speed",
        "Whole runs beside other libraries",
        "All programs do the same work with the same arguments and the same number of updates, by each program's own "
        "counter. Each uses its fastest number of threads. Programs take turns, and a ratio is the median of the "
        "rounds' ratios. *Training* excludes start-up. *Total* is the time from the command to the prompt. Compiled "
        "graphs are cached, except in a *cold start*. RLlib stops after fewer updates and is compared in updates per "
        "second.",
    ),
    Section(
        "policies",
        "Policies that read pictures or remember",
        "Whole runs as above, of PPO with a CNN and of PPO with an LSTM. The pictures are random bytes, without costs.",
    ),
    Section(
        "values",
        "DQN and IMPALA",
        "Whole runs as above. DQN's updates differ by at most 3 %. IMPALA has as many players as RLlib has environment "
        "runners; RLlib stops after 300 updates and is compared in updates per second.",
    ),
    Section(
        "worlds",
        "DreamerV3",
        "Whole runs as above, beside SheepRL 0.8.4. The networks have the same widths, and both programs imagine from "
        "all rows of a batch. SheepRL 0.8.4 runs without its compilation, which takes minutes in each run.",
    ),
    Section(
        "limit",
        "SAC beside its matrix products",
        "The matrix products of one update's networks in float32, timed alone with the same number of threads, are a "
        "lower bound of an update's time. While the replay buffer is ahead, the trainer's waiting time is overhead.",
    ),
    Section(
        "updates",
        "Gradient steps alone",
        "A learner without players takes eager and compiled steps in turn. The time includes the transfer of batches "
        "to the device and of the policy's weights from it.",
    ),
    Section(
        "playing",
        "Collection",
        "Players on environments that sleep, and the overhead of a player beside its environment.",
    ),
    Section(
        "driving", "The driver and the weights", "The driver's throughput, and the transfer of weights to the players."
    ),
    Section(
        "search",
        "Search beside the given settings",
        "`sheeprl tune` starts from an algorithm's defaults, or from a configuration tuned by hand, with as many "
        "policy steps as the runs of the given settings, or fewer. Then the best settings found and the given ones "
        "train with the same new seeds, and all final policies play 20 episodes from new start states. The spreads of "
        "returns are over the seeds, those of difference and probability are 95 % intervals.",
    ),
    Section(
        "replay",
        "The replay buffer",
        "One thread. [The buffer's page](replay_buffer.md) describes it. The result also has other libraries' figures.",
        comparisons=False,
    ),
)


@dataclass(frozen=True)
class Results:
    """Results of one machine.

    Args:
        name: name of the folder; empty for the main results.
        files: contents of the files by name.
    """

    name: str
    files: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, name: str = "") -> Results:
        """Read the results in a folder."""
        paths = sorted(folder.glob("*.json"))
        return cls(name, {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths})


def read(folder: Path = record.RESULTS) -> list[Results]:
    """Read all results: those of the folder, and those of other machines in its subfolders."""
    others = (path for path in sorted(folder.iterdir()) if path.is_dir()) if folder.is_dir() else ()
    return [Results.of(folder), *(Results.of(path, path.name) for path in others)]


# ------------------------------------------------------------------------------------------------ text


def page(found: Sequence[Results], notes: str) -> str:
    """Return the whole page."""
    main, *others = found
    lines = [
        "# Performance",
        "",
        "<!-- Made by `python -m benchmarks report` out of benchmarks/results and benchmarks/notes.md. -->",
        "",
        "Every figure comes from a committed result with its command, commit, versions and machine.",
        "[benchmarks/README.md](../benchmarks/README.md) describes the measurements. *Required* is the bound of the",
        "test, *target* is a stricter goal, and *spread* is the minimum and maximum of the rounds.",
        "",
        *figures(main),
    ]
    for section in SECTIONS:
        lines += section_lines(section, main, level=2)
    lines += ["## Learning", "", "[results.md](results.md) lists the scores beside published ones.", ""]
    for other in others:
        lines += [f"## On another machine: {other.name}", ""]
        for section in SECTIONS:
            if section.name in other.files:
                lines += section_lines(section, other, level=3)
    return "\n".join(lines + unreached(main, notes)).rstrip() + "\n"


def section_lines(section: Section, results: Results, level: int) -> list[str]:
    """Return the section of one benchmark."""
    result = results.files.get(section.name)
    lines = [f"{'#' * level} {section.title}", "", section.text, ""]
    if result is None:
        return [*lines, f"Not measured yet: `python -m benchmarks {section.name}`.", ""]
    for case in cases(result):
        shown = [bound for bound in case.get("bounds", []) if section.comparisons or "met" in bound]
        lines += bounds_table(case.get("title"), shown)
    for workload in result.get("workloads", []):
        lines += programs_table(workload)
    return [*lines, provenance("/".join(filter(None, (results.name, section.name))), result), ""]


def cases(result: Json) -> Iterator[Json]:
    """Yield the parts of a result that can have bounds: the whole result and each of its cases."""
    if result.get("bounds"):
        yield result
    yield from result.get("cases", [])


def bounds_table(title: str | None, bounds: Sequence[Json]) -> list[str]:
    """Return the table of required, target and measured values with their spread."""
    if not bounds:
        return []
    lines = [f"{title}:", ""] if title else []
    lines += ["| | required | target | measured | spread | |", "|---|---|---|---|---|---|"]
    for bound in bounds:
        required, target = limits(bound)
        spread = " to ".join(number(value) for value in bound["spread"]) if "spread" in bound else ""
        verdict = {True: "met", False: "**not met**", None: ""}[bound.get("met")]
        cells = (standard_terms(bound["name"]), required, target, number(bound["value"]), spread, verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def limits(bound: Json) -> tuple[str, str]:
    """Return the required and the target value as text."""
    sign, required = ("≤", bound["at_most"]) if "at_most" in bound else ("≥", bound.get("at_least"))
    target = bound.get("hope")
    texts = ("" if value is None else f"{sign} {value:g}".replace("-", "−") for value in (required, target))
    return next(texts), next(texts)


TERMS = {"loop": "training", "process": "total", "first time": "cold start"}
"""Standard terms of the page, by the terms of the committed results."""


def standard_terms(name: str) -> str:
    """Return a bound's or program's name with the page's terms for its time: `PPO, loop: …` is `PPO, training: …`."""
    for term, standard in TERMS.items():
        name = re.sub(rf", {term}(?=:|$)", f", {standard}", name)
    return name.replace("one operation after the other", "eager steps").replace("by hand", "alone")


def programs_table(workload: Json) -> list[str]:
    """Return the table of every program's seconds with its best number of threads, and SheepRL's relative speed."""
    lines = [
        f"{workload['title']}:",
        "",
        "| program | threads | training, s | total, s | updates |",
        "|---|---|---|---|---|",
    ]
    for timings in best_timings(workload):
        seconds = (f"{timings[kind + '_median']:.1f}{spread_of(timings[kind])}" for kind in ("loop", "process"))
        cells = (standard_terms(timings["program"]), str(timings["threads"]), *seconds, f"{timings['updates']:,}")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    if workload.get("ratios"):
        lines += ["| SheepRL | compared with | time | times as fast | spread |", "|---|---|---|---|---|"]
        for pair in workload["ratios"]:
            spread = " to ".join(number(value) for value in pair["spread"])
            kind = "cold start" if "first time" in pair["program"] else TERMS.get(pair["kind"], pair["kind"])
            placement = placement_of(pair["program"])
            lines.append(f"| {placement} | {pair['peer']} | {kind} | {number(pair['ratio'])} | {spread} |")
        lines.append("")
    return lines


def best_timings(workload: Json) -> list[Json]:
    """Return the timings of each program with its best number of threads."""
    found: dict[str, Json] = {}
    for timings in workload["timings"]:
        best = found.get(timings["program"])
        if best is None or (timings["loop_median"] < best["loop_median"] and not timings.get("left_out")):
            found[timings["program"]] = timings
    return list(found.values())


def placement_of(program: str) -> str:
    """Return `coupled` or `decoupled`."""
    return program.removeprefix("SheepRL ").partition(",")[0]


def spread_of(rounds: Sequence[float]) -> str:
    """Return minimum and maximum in brackets, "" for a single round."""
    return f" [{min(rounds):.1f}, {max(rounds):.1f}]" if len(rounds) > 1 else ""


def provenance(name: str, result: Json) -> str:
    """Return the line that names commit, command and machine of a result, and links to its file."""
    machine, versions = result.get("machine", {}), result.get("versions", {})
    parts = [
        f"`{result.get('command', '')}`",
        f"commit `{result.get('commit', '')[:12]}`" + (" with changes" if result.get("modified") else ""),
        f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'unknown')}",
        *machine.get("gpus", []),
        f"rounds: {result['rounds']}" if "rounds" in result else "",
        ", ".join(f"{package} {versions[package]}" for package in ("python", "torch", "ray") if package in versions),
    ]
    return f"<sub>[{name}.json](../benchmarks/results/{name}.json): {'; '.join(part for part in parts if part)}</sub>"


def unreached(results: Results, notes: str) -> list[str]:
    """Return the section on missed requirements and targets, with the notes."""
    bounds = [
        (": ".join(word for word in (case.get("title"), standard_terms(bound["name"])) if word), bound)
        for name in (section.name for section in SECTIONS)
        for case in cases(results.files.get(name, {}))
        for bound in case.get("bounds", [])
    ]
    found = [
        f"- {name}: {number(bound['value'])}, required {limits(bound)[0]}"
        for name, bound in bounds
        if bound.get("met") is False
    ]
    missed_targets = [
        f"- {name}: {number(bound['value'])}, required {required}, target {target}"
        for name, bound in bounds
        for required, target in [limits(bound)]
        if bound.get("met") and is_target_missed(bound)
    ]
    lines = ["## Missed requirements and notes", "", *(found or ["All measured requirements are met."]), ""]
    if missed_targets:
        lines += ["Requirement met, target missed:", "", *missed_targets, ""]
    return [*lines, notes.strip()]


def is_target_missed(bound: Json) -> bool:
    """Return True if the measured value misses the target."""
    if "hope" not in bound:
        return False
    return bool(bound["value"] > bound["hope"] if "at_most" in bound else bound["value"] < bound["hope"])


def figures(results: Results) -> list[str]:
    """Return links to the figures that can be drawn."""
    captions = {
        "performance_ratios": ("How many times as fast as other libraries", has_ratios(results)),
        "performance_where": ("Where the time of SheepRL's runs goes", has_where(results)),
        "performance_scaling": ("Policy steps per second by number of players", has_scaling(results)),
    }
    lines = [f"![{caption}](images/{name}.png)" for name, (caption, there) in captions.items() if there]
    return [*lines, ""] if lines else []


def has_ratios(results: Results) -> bool:
    """Return True if programs were compared."""
    return any(workload.get("ratios") for workload in workloads(results))


def has_where(results: Results) -> bool:
    """Return True if a run has a time breakdown."""
    return any(timings.get("where") for workload in workloads(results) for timings in workload["timings"])


def has_scaling(results: Results) -> bool:
    """Return True if several numbers of players were measured."""
    return bool(scaling_curves(results))


def workloads(results: Results) -> Iterable[Json]:
    """Return the measured workloads."""
    found: list[Json] = results.files.get("speed", {}).get("workloads", [])
    return found


def scaling_curves(results: Results) -> dict[str, dict[int, float]]:
    """Return the policy steps per second by number of players, by title; the values are medians."""
    return {
        case["title"]: {int(players.split()[0]): value for players, value in case["median"].items()}
        for case in results.files.get("playing", {}).get("cases", [])
        if case["case"].startswith("scaling")
    }


def number(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    digits = f"{float(f'{value:.3g}'):,.4f}".rstrip("0").rstrip(".")
    return digits or "0"


# ------------------------------------------------------------------------------------------------ main


def pages() -> dict[Path, str]:
    """Return the text of every generated file by its path."""
    found = read()
    learned = results.measured(rows.load(), [(each.name, each.files) for each in found])
    texts = {PAGE: page(found, NOTES.read_text(encoding="utf-8")), results.PAGE: results.page(learned)}
    return texts | dict(results.texts(learned))


def main(args: Sequence[str] | None = None) -> None:
    """Write the pages, the READMEs' tables and the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file isn't up to date")
    parser.add_argument("--text-only", action="store_true", help="draw no figures, for which matplotlib is needed")
    given = parser.parse_args(args)
    texts = pages()
    outdated = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if given.check:
        sys.exit("\n".join(f"{path.relative_to(record.ROOT)} isn't up to date" for path in outdated) or None)
    for path in outdated:
        path.write_text(texts[path], encoding="utf-8")
        print(path)
    if not given.text_only:
        from benchmarks import plot
        from benchmarks.reports import figures as drawing

        for path in drawing.draw(read()[0], IMAGES):
            print(path)
        plot.main([])


if __name__ == "__main__":
    main()
