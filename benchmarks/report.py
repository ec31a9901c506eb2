"""Makes docs/performance.md and its figures out of the committed results: what was asked, what was reached, and how.

A result is a file of `benchmarks/results`; those of another machine lie in a folder of it. What isn't there is said to
be not measured. What couldn't be reached, and why, is told in `benchmarks/notes.md`, which becomes a part of the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.record import Json

PAGE = record.ROOT / "docs" / "performance.md"
IMAGES = record.ROOT / "docs" / "images"
NOTES = record.ROOT / "benchmarks" / "notes.md"


@dataclass(frozen=True)
class Section:
    """A part of the page: the result of one benchmark.

    Args:
        name: of the benchmark and of its file.
        title: of the section.
        text: what is measured.
        comparisons: whether figures without a bound are shown too.
    """

    name: str
    title: str
    text: str
    comparisons: bool = True


SECTIONS = (
    Section(
        "speed",
        "Whole runs beside other libraries",
        "The same work, the same arguments and, by each program's own counter, the same number of updates; every "
        "program with the number of threads that suits it best; in turn, and the median of the rounds' ratios. *Loop* "
        "leaves out start-up, *process* is all of it from the command to the prompt. Graphs that were compiled once "
        "are there again, except in the *first time*. RLlib ends after fewer updates and is compared by updates per "
        "second.",
    ),
    Section(
        "limit",
        "SAC beside its matrix products",
        "The products of one update's networks in float32, timed alone with as many threads, are what no update can be "
        "faster than. The trainer waits while the replay is ahead only for what the run itself costs.",
    ),
    Section(
        "updates",
        "Gradient steps alone",
        "A learner without players: its steps one operation after the other and compiled, in turn, with the transfer "
        "of batches to the device and of the policy's weights from it.",
    ),
    Section(
        "playing", "Playing", "Players on environments that sleep, and what a player costs beside its environment."
    ),
    Section("driving", "The driver and the weights", "The driver's book-keeping, and the weights' way to the players."),
    Section(
        "replay",
        "The replay buffer",
        "One thread; [the buffer's page](replay_buffer.md) says what it does, the result has other libraries' figures.",
        comparisons=False,
    ),
)


@dataclass(frozen=True)
class Results:
    """What was measured on one machine.

    Args:
        name: of the folder; empty for the results that the project is judged by.
        files: by name.
    """

    name: str
    files: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, name: str = "") -> Results:
        """Those of a folder."""
        paths = sorted(folder.glob("*.json"))
        return cls(name, {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths})


def read(folder: Path = record.RESULTS) -> list[Results]:
    """All results: the folder's own, and those of other machines."""
    others = (path for path in sorted(folder.iterdir()) if path.is_dir()) if folder.is_dir() else ()
    return [Results.of(folder), *(Results.of(path, path.name) for path in others)]


# ------------------------------------------------------------------------------------------------ text


def page(results: Sequence[Results], notes: str) -> str:
    """The whole page."""
    main, *others = results
    lines = [
        "# Performance",
        "",
        "<!-- Made by `python -m benchmarks report` out of benchmarks/results and benchmarks/notes.md. -->",
        "",
        "Every figure comes from a committed result, which tells its command, commit, versions and machine;",
        "[benchmarks/README.md](../benchmarks/README.md) says how to measure again. *Asked* is what must be reached,",
        "*hoped* what would be better still, *spread* the least and the most of the rounds.",
        "",
        *figures(main),
    ]
    for section in SECTIONS:
        lines += section_lines(section, main, level=2)
    lines += learning(main)
    for other in others:
        lines += [f"## On another machine: {other.name}", ""]
        for section in SECTIONS:
            if section.name in other.files:
                lines += section_lines(section, other, level=3)
    return "\n".join(lines + unreached(main, notes)).rstrip() + "\n"


def section_lines(section: Section, results: Results, level: int) -> list[str]:
    """One benchmark's part of the page."""
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
    """The parts of a result that may have bounds: the whole and each of its cases."""
    if result.get("bounds"):
        yield result
    yield from result.get("cases", [])


def bounds_table(title: str | None, bounds: Sequence[Json]) -> list[str]:
    """Asked, hoped, reached, spread."""
    if not bounds:
        return []
    lines = [f"{title}:", ""] if title else []
    lines += ["| | asked | hoped | reached | spread | |", "|---|---|---|---|---|---|"]
    for bound in bounds:
        asked, hoped = limits(bound)
        spread = " to ".join(number(value) for value in bound["spread"]) if "spread" in bound else ""
        verdict = {True: "met", False: "**not met**", None: ""}[bound.get("met")]
        cells = (bound["name"], asked, hoped, number(bound["value"]), spread, verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def limits(bound: Json) -> tuple[str, str]:
    """What is asked and what is hoped, as text."""
    sign, asked = ("≤", bound["at_most"]) if "at_most" in bound else ("≥", bound.get("at_least"))
    hope = bound.get("hope")
    texts = ("" if value is None else f"{sign} {value:g}".replace("-", "−") for value in (asked, hope))
    return next(texts), next(texts)


def programs_table(workload: Json) -> list[str]:
    """Seconds of every program with the threads that suit it best, and how many times as fast SheepRL is."""
    lines = [
        f"{workload['title']}:",
        "",
        "| program | threads | loop, s | process, s | updates |",
        "|---|---|---|---|---|",
    ]
    for timings in best_timings(workload):
        seconds = (f"{timings[kind + '_median']:.1f}{spread_of(timings[kind])}" for kind in ("loop", "process"))
        cells = (timings["program"], str(timings["threads"]), *seconds, f"{timings['updates']:,}")
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    if workload.get("ratios"):
        lines += ["| SheepRL | beside | | times as fast | spread |", "|---|---|---|---|---|"]
        for pair in workload["ratios"]:
            spread = " to ".join(number(value) for value in pair["spread"])
            what = "first time" if "first time" in pair["program"] else pair["kind"]
            placement = placement_of(pair["program"])
            lines.append(f"| {placement} | {pair['peer']} | {what} | {number(pair['ratio'])} | {spread} |")
        lines.append("")
    return lines


def best_timings(workload: Json) -> list[Json]:
    """Of each program, the timings with the number of threads that suits its loop best."""
    found: dict[str, Json] = {}
    for timings in workload["timings"]:
        best = found.get(timings["program"])
        if best is None or (timings["loop_median"] < best["loop_median"] and not timings.get("left_out")):
            found[timings["program"]] = timings
    return list(found.values())


def placement_of(program: str) -> str:
    """`coupled` or `decoupled`."""
    return program.removeprefix("SheepRL ").partition(",")[0]


def spread_of(rounds: Sequence[float]) -> str:
    """Least and most in brackets, where there was more than one round."""
    return f" [{min(rounds):.1f}, {max(rounds):.1f}]" if len(rounds) > 1 else ""


def provenance(name: str, result: Json) -> str:
    """Where the figures of a result come from, which is named as its file in the folder of results."""
    machine, versions = result.get("machine", {}), result.get("versions", {})
    told = [
        f"`{result.get('command', '')}`",
        f"commit `{result.get('commit', '')[:12]}`" + (" with changes" if result.get("modified") else ""),
        f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'unknown')}",
        *machine.get("gpus", []),
        f"rounds: {result['rounds']}" if "rounds" in result else "",
        ", ".join(f"{package} {versions[package]}" for package in ("python", "torch", "ray") if package in versions),
    ]
    return f"<sub>[{name}.json](../benchmarks/results/{name}.json): {'; '.join(word for word in told if word)}</sub>"


def learning(results: Results) -> list[str]:
    """What was learned, by the gates that have results."""
    lines = [
        "## Learning",
        "",
        "Final policies over the seeds, without exploration noise: speed is not bought with it.",
        "",
    ]
    gates = gates_of(results)
    if not gates:
        return [*lines, "Not measured yet: `python -m benchmarks learning GATE`.", ""]
    lines += ["| gate | placement | seeds | asked | reached | |", "|---|---|---|---|---|---|"]
    for result in gates:
        gate = result["gate"]
        verdict = {True: "met", False: "**not met**", None: "a trial"}[result["met"]]
        cells = (
            gate["name"],
            result["mode"],
            str(len(result["seeds"])),
            f"≥ {gate['threshold']:g}",
            f"{result['mean']:.1f}",
        )
        lines.append("| " + " | ".join((*cells, verdict)).replace("-", "−") + " |")
    return [*lines, ""]


def gates_of(results: Results) -> list[Json]:
    """Results that are of a gate."""
    return [result for result in results.files.values() if isinstance(result.get("gate"), dict)]


def unreached(results: Results, notes: str) -> list[str]:
    """What wasn't reached, and why."""
    bounds = [
        (": ".join(word for word in (case.get("title"), bound["name"]) if word), bound)
        for name in (section.name for section in SECTIONS)
        for case in cases(results.files.get(name, {}))
        for bound in case.get("bounds", [])
    ]
    found = [
        f"- {name}: {number(bound['value'])}, asked {limits(bound)[0]}"
        for name, bound in bounds
        if bound.get("met") is False
    ]
    found += [
        f"- Learning, {result['gate']['name']}, {result['mode']}: {number(result['mean'])}, asked ≥ "
        f"{result['gate']['threshold']:g}"
        for result in gates_of(results)
        if result["met"] is False
    ]
    hoped = [
        f"- {name}: {number(bound['value'])}, asked {asked}, hoped {hope}"
        for name, bound in bounds
        for asked, hope in [limits(bound)]
        if bound.get("met") and is_hope_missed(bound)
    ]
    lines = ["## What wasn't reached, and why", "", *(found or ["Of what was measured and asked, nothing."]), ""]
    if hoped:
        lines += ["Met, but less than was hoped:", "", *hoped, ""]
    return [*lines, notes.strip()]


def is_hope_missed(bound: Json) -> bool:
    """Whether what was hoped for wasn't reached, though more than what was asked may have been."""
    if "hope" not in bound:
        return False
    return bool(bound["value"] > bound["hope"] if "at_most" in bound else bound["value"] < bound["hope"])


def figures(results: Results) -> list[str]:
    """Links to the figures that can be drawn."""
    captions = {
        "performance_ratios": ("How many times as fast as other libraries", has_ratios(results)),
        "performance_where": ("Where the time of SheepRL's runs goes", has_where(results)),
        "performance_scaling": ("Policy steps per second by number of players", has_scaling(results)),
    }
    lines = [f"![{caption}](images/{name}.png)" for name, (caption, there) in captions.items() if there]
    return [*lines, ""] if lines else []


def has_ratios(results: Results) -> bool:
    """Whether programs were compared."""
    return any(workload.get("ratios") for workload in workloads(results))


def has_where(results: Results) -> bool:
    """Whether runs told where their time went."""
    return any(timings.get("where") for workload in workloads(results) for timings in workload["timings"])


def has_scaling(results: Results) -> bool:
    """Whether several numbers of players were tried."""
    return bool(scaling_curves(results))


def workloads(results: Results) -> Iterable[Json]:
    """Whole runs that were timed."""
    found: list[Json] = results.files.get("speed", {}).get("workloads", [])
    return found


def scaling_curves(results: Results) -> dict[str, dict[int, float]]:
    """By title, the policy steps per second by number of players: medians of `1 player`, `8 players` and so on."""
    return {
        case["title"]: {int(players.split()[0]): value for players, value in case["median"].items()}
        for case in results.files.get("playing", {}).get("cases", [])
        if case["case"].startswith("scaling")
    }


def number(value: float) -> str:
    """Three significant digits, in full."""
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    digits = f"{float(f'{value:.3g}'):,.4f}".rstrip("0").rstrip(".")
    return digits or "0"


# ------------------------------------------------------------------------------------------------ main


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page isn't up to date")
    parser.add_argument("--text-only", action="store_true", help="draw no figures, for which matplotlib is needed")
    given = parser.parse_args(args)
    results, notes = read(), NOTES.read_text(encoding="utf-8")
    text = page(results, notes)
    if given.check:
        sys.exit(text != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    if not given.text_only:
        from benchmarks.reports import figures as drawing

        for path in drawing.draw(results[0], IMAGES):
            print(path)


if __name__ == "__main__":
    main()
