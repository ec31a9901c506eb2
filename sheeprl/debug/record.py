"""Read the record of a run: its parts, events and calls, and the calls that a re-execution requires."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sheeprl.debug.recorder import RECORD
from sheeprl.utils.errors import ConfigError, one_line

PARTIAL = re.compile(r"\.(step_\d+)\.part")  # a checkpoint while it is written, which is read under its final name


@dataclass(frozen=True)
class Made:
    """Event: a worker was created."""

    target: int
    role: str
    number: int
    incarnation: int

    @property
    def name(self) -> str:
        """Return the worker's name for messages."""
        life = f" (incarnation {self.incarnation})" if self.incarnation else ""
        return self.role + (f" {self.number}" if self.role != "learner" else "") + life


@dataclass(frozen=True)
class Answer:
    """Recorded outcome of a call, or of one half of its pair.

    Args:
        half: half of a pair, 0 or 1; None if the result is no pair.
        how: `answer`, or the kind of failure: `lost`, `data` or `error`.
        what: result, encoded by `recorder.seen`, or the error's text.
    """

    half: int | None
    how: str
    what: Any


@dataclass
class Call:
    """Event: a method was called."""

    line: int
    number: int
    target: int
    method: str
    args: list[Any]
    answers: list[Answer] = field(default_factory=list)
    frees: list[int] = field(default_factory=list)
    """Calls whose results aren't used after this call."""

    @property
    def uses(self) -> list[int]:
        """Return the numbers of the calls whose results are arguments of this call."""
        return [arg["of"][0] for arg in self.args if isinstance(arg, dict) and "of" in arg]

    @property
    def is_unrepeatable(self) -> bool:
        """True if the recorded call failed for a reason that the re-execution can't repeat."""
        first = self.answers[0] if self.answers else None
        if first is None or first.half == 1 or first.how == "answer":
            return False
        # A step that took too long may be fast in the re-execution.
        return first.how in ("lost", "data") or "players.step_timeout" in str(first.what)


@dataclass(frozen=True)
class Close:
    """Event: a worker was released."""

    target: int


@dataclass
class Leg:
    """One part of a run: from its begin or a resume to its end."""

    about: dict[str, Any]
    events: list[Made | Call | Close] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)


def read_record(run_dir: Path) -> list[Leg]:
    """Read the record of a run.

    Raises:
        ConfigError: the folder has no record, or the record is damaged.
    """
    path = run_dir / RECORD
    if not path.is_file():
        raise ConfigError(
            [f"{run_dir}: has no {RECORD}; `sheeprl replay` needs a run with log.record=true that has begun"]
        )
    lines = path.read_bytes().split(b"\n")
    legs: list[Leg] = []
    number = 0
    try:
        for number, line in enumerate(lines[:-1], 1):  # a killed run can leave an incomplete last line
            _read_line(legs, number, json.loads(line))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ConfigError([f"{path}:{number}: the record is damaged: {one_line(error)}"]) from error
    if not legs:
        raise ConfigError([f"{path}: is empty"])
    return legs


def _read_line(legs: list[Leg], line: int, values: list[Any]) -> None:
    """Add a line's event or result to the last leg."""
    kind = values[0]
    if kind == "begin":
        legs.append(Leg(values[1]))
        return
    leg = legs[-1]
    if kind == "make":
        leg.events.append(Made(*values[1:]))
    elif kind in ("call", "pair"):
        number, target, method, args = values[1:]
        call = Call(line, number, target, method, args)
        leg.calls[call.number] = call
        leg.events.append(call)
    elif kind == "answer":
        leg.calls[values[1]].answers.append(Answer(values[2], "answer", values[3]))
    elif kind == "failed":
        leg.calls[values[1]].answers.append(Answer(*values[2:]))
    elif kind == "close":
        leg.events.append(Close(values[1]))
    else:
        raise ValueError(f"unknown event {kind!r}")


def require(leg: Leg, read: frozenset[str]) -> set[int]:
    """Return the numbers of the calls to re-execute, and set `frees` of each of them.

    Args:
        leg: part of the run.
        read: saved paths that later calls read.
    """
    chosen: set[int] = set()
    active: set[int] = set()  # workers with a later call that is re-executed
    used: set[int] = set()
    for call in reversed([event for event in leg.events if isinstance(event, Call)]):
        has_outcome = any(answer.how in ("answer", "error") for answer in call.answers)
        if call.is_unrepeatable or not (has_outcome or call.target in active or call.number in used):
            continue
        if call.method == "save" and not read.intersection(paths_of(call)):
            continue  # a save doesn't change the worker
        chosen.add(call.number)
        active.add(call.target)
        call.frees = sorted({number for number in call.uses if number not in used})
        used.update(call.uses)
        if call.number not in used:
            call.frees.append(call.number)
    return chosen


def paths_of(call: Call) -> set[str]:
    """Return the paths that a call reads or writes, with the final names of checkpoints."""
    return {PARTIAL.sub(r"\1", arg["path"]) for arg in call.args if isinstance(arg, dict) and "path" in arg}


def inputs_of(legs: Sequence[Leg]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the digests of the calls' arguments, and the saved paths that calls read."""
    calls = [call for leg in legs for call in leg.calls.values()]
    data = {name for call in calls for arg in call.args if (name := digest_in(arg))}
    read = {path for call in calls if call.method != "save" for path in paths_of(call)}
    return frozenset(data), frozenset(read)


def count_fragments(legs: Sequence[Leg]) -> int:
    """Return the number of recorded fragments whose outcome is known."""
    calls = [call for leg in legs for call in leg.calls.values() if call.method == "collect"]
    return sum(any(answer.how in ("answer", "error") for answer in call.answers) for call in calls)


def digest_in(value: Any) -> str | None:
    """Return the digest in an encoded value; None if it encodes no bytes or array."""
    return (value.get("data") or value.get("array")) if isinstance(value, dict) else None
