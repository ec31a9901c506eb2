"""Requirements of the replay buffer, by case."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.harness.bounds import Bound, rounded
from benchmarks.harness.record import Json
from benchmarks.harness.worker import Figures

OURS = "SheepRL"
SLOWEST = "RLlib EpisodeReplayBuffer"
MIB = 2**20


@dataclass
class Program:
    """Measurements of one program.

    Args:
        name: name in the table.
        command: command that starts it.
        rounds: its figures, round by round.
        versions: versions of its packages.
        missing: reason why it could not run, "" if it could.
    """

    name: str
    command: tuple[str, ...]
    rounds: list[Figures] = field(default_factory=list)
    versions: Json = field(default_factory=dict)
    missing: str = ""

    def values(self, figure: str) -> list[float]:
        """Return one figure, round by round."""
        return [figures[figure] for figures in self.rounds]

    def as_json(self) -> Json:
        """Return all rounds and their medians."""
        result: Json = {"program": self.name} | ({"versions": self.versions} if self.versions else {})
        if self.missing:
            return result | {"missing": self.missing}
        names = list(self.rounds[0])
        return result | {
            "median": {name: rounded(median(self.values(name))) for name in names},
            "rounds": {name: [rounded(value) for value in self.values(name)] for name in names},
        }


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


# ----------------------------------------------------------------------------------------- requirements

Programs = Mapping[str, Program]


def ratio(above: Program, above_figure: str, below: Program, below_figure: str) -> float:
    """Return the median over the rounds of the ratio of two figures."""
    pairs = zip(above.values(above_figure), below.values(below_figure), strict=False)
    return median([a / b for a, b in pairs])


def times_as_fast(programs: Programs, chunk: str, single: str) -> list[Bound]:
    """Return the speed of SheepRL relative to each other library, per batch of 256.

    Args:
        programs: all programs by name.
        chunk: SheepRL's figure of chunks of 64 batches.
        single: SheepRL's figure of single batches.
    """
    ours, bounds = programs[OURS], []
    for peer in programs.values():
        if peer is ours:
            continue
        pairs = {"single batches": (single, "batch"), "chunks against its single batches": (chunk, "batch")}
        if "chunk" in peer.rounds[0]:
            pairs["chunks"] = (chunk, "chunk")
        bounds += [
            Bound(f"times as fast as {peer.name}, {title}", ratio(peer, theirs, ours, own))
            for title, (own, theirs) in pairs.items()
        ]
    return bounds


def uniform(programs: Programs) -> list[Bound]:
    """Require at most twice the time of NumPy by hand, and 100 times the speed of RLlib."""
    ours = programs[OURS]
    bounds = [
        Bound("chunks of 64, time over that of numpy.take by hand", ratio(ours, "draw", ours, "by_hand"), at_most=2),
        Bound("as TensorDict, time over that of numpy.take by hand", ratio(ours, "sample", ours, "by_hand")),
        Bound("single batches, time over that by hand", ratio(ours, "draw_single", ours, "by_hand_single")),
    ]
    if SLOWEST in programs:
        name = f"times as fast as {SLOWEST}, drawn in chunks"
        bounds.append(Bound(name, ratio(programs[SLOWEST], "batch", ours, "draw"), at_least=100))
    return bounds + times_as_fast(programs, "sample", "sample_single")


def prioritized(programs: Programs) -> list[Bound]:
    """Require at most 4 times the time of uniform sampling."""
    ours = programs[OURS]
    name = "chunks of 64 with the update, time over that of uniform ones"
    bounds = [
        Bound(name, ratio(ours, "draw_update", ours, "uniform"), at_most=4),
        Bound("without the update, time over that of uniform ones", ratio(ours, "draw", ours, "uniform")),
    ]
    return bounds + times_as_fast(programs, "draw_update", "draw_update_single")


def sequences(programs: Programs) -> list[Bound]:
    """Require at least 60 % of the speed at which NumPy copies 1 GB between two existing arrays."""
    ours = programs[OURS]
    bounds = [Bound("speed over that of copying 1 GB in place", ratio(ours, "draw", ours, "copy_1gb"), at_least=0.6)]
    others = {
        "copying a batch's size in place": "copy_batch",
        "copying a batch's size into new memory": "copy_batch_fresh",
        "copying 1 GB into new memory": "copy_1gb_fresh",
    }
    return bounds + [
        Bound(f"speed over that of {name}", ratio(ours, "draw", ours, figure)) for name, figure in others.items()
    ]


def add(programs: Programs) -> list[Bound]:
    """Require that the slowest level takes at most 1.5 times as long as the fastest, by their medians."""
    levels = [level for level in programs[OURS].rounds[0] if level.isdigit()]
    medians = [median(programs[OURS].values(level)) for level in levels]
    overwriting = median(programs[OURS].values("overwriting"))
    return [
        Bound("slowest level over fastest", max(medians) / min(medians), at_most=1.5),
        Bound("overwriting old rows over the fastest level", overwriting / min(medians)),
    ]


def actor(programs: Programs) -> list[Bound]:
    """Require at least half the throughput of `ray.put` and `ray.get` of the same bytes."""
    ours = programs[OURS]
    name = "speed over that of ray.put + ray.get of one array"
    return [
        Bound(name, ratio(ours, "actor", ours, "put_get_array"), at_least=0.5),
        Bound("over that of the same dict of arrays", ratio(ours, "actor", ours, "put_get_dict"), at_least=0.5),
    ]


def memory(programs: Programs) -> list[Bound]:
    """Require at most one copy of each row, 16 bytes a transition and 64 MiB."""
    return _memory(programs, per_row=16)


def memory_prioritized(programs: Programs) -> list[Bound]:
    """Require at most one copy of each row, 40 bytes a transition and 64 MiB."""
    return _memory(programs, per_row=40)


def _memory(programs: Programs, per_row: int) -> list[Bound]:
    """Require at most one copy of each row, `per_row` bytes a transition and 64 MiB."""
    grown, raw = (median(programs[OURS].values(figure)) for figure in ("grown", "raw"))
    return [
        Bound("MiB grown", grown / MIB, at_most=(raw + per_row * 1_000_000) / MIB + 64),
        Bound("MiB of the rows alone", raw / MIB),
    ]


def memmap(programs: Programs) -> list[Bound]:
    """Report the throughput without a requirement."""
    ours = programs[OURS]
    return [
        Bound(f"MB/s: {figure}", median(ours.values(figure)) / 1e6) for figure in ("add", "sample", "sample_from_disk")
    ]


BOUNDS: dict[str, Callable[[Programs], list[Bound]]] = {
    "uniform": uniform,
    "prioritized": prioritized,
    "sequences": sequences,
    "add": add,
    "actor": actor,
    "memory": memory,
    "memory_prioritized": memory_prioritized,
    "memmap": memmap,
}
