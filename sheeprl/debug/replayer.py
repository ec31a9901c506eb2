"""Plays a recorded run again: every call in the recorded order, one after the other, on objects of this process.

Whatever raced, lagged or died while the run was recorded, its outcome is in the order of the calls and in which of them
came to nothing. A call whose answer the run never got is left out: nothing came of it that anybody used. A shard whose
files outlived it was asked again, and took in what it didn't have. What time decided (an environment that looks at the
clock, a step that took too long) can't be played again.
"""

from __future__ import annotations

import gc
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from sheeprl.config.schema import Config
from sheeprl.debug.recorder import RECORD, digest, seen
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line

SAY_EVERY = 10.0  # seconds between two lines of progress
PARTIAL = re.compile(r"\.(step_\d+)\.part")  # a checkpoint while it is written, which is read under its final name


class DifferenceError(RuntimeError):
    """Something isn't what it was."""


@dataclass(frozen=True)
class Replayed:
    """What came of a replay.

    Args:
        fragments: that were played.
        gradient_steps: that were taken in the end.
        parameters: digest of the learner's last snapshot.
        difference: the first thing that isn't what it was; None if all is the same.
    """

    fragments: int
    gradient_steps: int
    parameters: str
    difference: str | None = None


@dataclass(frozen=True)
class Made:
    """Somebody was made."""

    target: int
    role: str
    number: int
    incarnation: int

    @property
    def name(self) -> str:
        """For messages."""
        life = f" (number {self.incarnation + 1} of that name)" if self.incarnation else ""
        return self.role + (f" {self.number}" if self.role != "learner" else "") + life


@dataclass(frozen=True)
class Answer:
    """What the run heard of a call.

    Args:
        half: of a pair, else None.
        how: `answer`, or how it came to nothing: `lost`, `data` or `error`.
        what: as `recording.seen` gives it, or what the error said.
    """

    half: int | None
    how: str
    what: Any


@dataclass
class Call:
    """A method was called."""

    line: int
    number: int
    target: int
    method: str
    args: list[Any]
    answers: list[Answer] = field(default_factory=list)
    frees: list[int] = field(default_factory=list)
    """Calls whose results nobody needs once this was carried out."""

    @property
    def uses(self) -> list[int]:
        """The calls whose results it is given."""
        return [arg["of"][0] for arg in self.args if isinstance(arg, dict) and "of" in arg]

    @property
    def came_to_nothing(self) -> bool:
        """Whether it wasn't carried out, as far as anybody can tell."""
        first = self.answers[0] if self.answers else None
        if first is None or first.half == 1 or first.how == "answer":
            return False
        # A step that took too long may do so again, or not.
        return first.how in ("lost", "data") or "players.step_timeout" in str(first.what)


@dataclass(frozen=True)
class Close:
    """Somebody was let go of."""

    target: int


@dataclass
class Leg:
    """A run from its begin, or from a resume, to its end."""

    about: dict[str, Any]
    events: list[Made | Call | Close] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)


def read_record(run_dir: Path) -> list[Leg]:
    """The record of a run.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = run_dir / RECORD
    if not path.is_file():
        raise ConfigError([f"{run_dir}: holds no {RECORD}; only runs with log.record=true can be replayed"])
    lines = path.read_bytes().split(b"\n")
    legs: list[Leg] = []
    number = 0
    try:
        for number, line in enumerate(lines[:-1], 1):  # behind the last line's end is what a killed run left of one
            _read_line(legs, number, json.loads(line))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ConfigError([f"{path}:{number}: isn't as it was written: {one_line(error)}"]) from error
    if not legs:
        raise ConfigError([f"{path}: is empty"])
    return legs


def _read_line(legs: list[Leg], line: int, values: list[Any]) -> None:
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
        raise ValueError(f"{kind!r} is not known")


def require(leg: Leg, read: frozenset[str]) -> set[int]:
    """Which calls have to be carried out; says of each of them which results nobody needs after it.

    Args:
        leg: whose calls.
        read: what is read of what was saved.
    """
    chosen: set[int] = set()
    lively: set[int] = set()  # who carries out something later
    used: set[int] = set()
    for call in reversed([event for event in leg.events if isinstance(event, Call)]):
        heard = any(answer.how in ("answer", "error") for answer in call.answers)
        if call.came_to_nothing or not (heard or call.target in lively or call.number in used):
            continue
        if call.method == "save" and not read.intersection(_paths(call)):
            continue  # of no effect on who saves
        chosen.add(call.number)
        lively.add(call.target)
        call.frees = sorted({number for number in call.uses if number not in used})
        used.update(call.uses)
        if call.number not in used:
            call.frees.append(call.number)
    return chosen


def _paths(call: Call) -> set[str]:
    """Where a call saves to or reads from, under the name that a checkpoint has in the end."""
    return {PARTIAL.sub(r"\1", arg["path"]) for arg in call.args if isinstance(arg, dict) and "path" in arg}


def _given(legs: Sequence[Leg]) -> tuple[frozenset[str], frozenset[str]]:
    """The data that calls are given, by digest, and what they read of what was saved."""
    calls = [call for leg in legs for call in leg.calls.values()]
    data = {name for call in calls for arg in call.args if (name := _name_of(arg))}
    read = {path for call in calls if call.method != "save" for path in _paths(call)}
    return frozenset(data), frozenset(read)


@dataclass(frozen=True)
class Outcome:
    """What a call returned, or raised."""

    value: Any = None
    error: Exception | None = None

    def half(self, which: int | None) -> Any:
        """The result, or one half of it; or raise."""
        if self.error is not None:
            raise self.error
        return self.value if which is None else self.value[which]


class Replay:
    """Plays a record again.

    Args:
        run_dir: the folder of the run.
        legs: what was recorded.
        scratch: a folder for what is saved or mapped meanwhile.
        say: is told how far it is.
        until_step: gradient step after which to stop.
    """

    def __init__(
        self,
        run_dir: Path,
        legs: Sequence[Leg],
        scratch: Path,
        say: Callable[[str], None],
        until_step: int | None = None,
    ) -> None:
        self.run_dir, self.legs, self.scratch, self.say = run_dir, legs, scratch, say
        self.until_step = until_step
        self.data_given, self.read = _given(legs)
        self.data: dict[str, Any] = {}
        self.saved: set[str] = set()
        self.fragments = self.gradient_steps = 0
        self.version = -1
        self.parameters = ""
        self.learner: Any = None
        self._said = time.monotonic()

    def play(self) -> Replayed:
        """Play everything, up to the first difference."""
        difference = None
        try:
            for leg in self.legs:
                _Stage(self, leg).play()
                if self.is_over:
                    break
        except DifferenceError as error:
            difference = str(error)
        return Replayed(self.fragments, self.gradient_steps, self.snapshot_digest(), difference)

    @property
    def is_over(self) -> bool:
        """Whether the replay has come to where it was to stop."""
        return self.until_step is not None and self.gradient_steps >= self.until_step

    def snapshot(self) -> bytes:
        """What the learner has learned, as a checkpoint's `agent.pt` has it."""
        data: bytes = self.learner.snapshot()[1].tobytes()
        return data

    def snapshot_digest(self) -> str:
        """Of what the learner has learned."""
        return digest(self.snapshot()) if self.learner is not None else "none"

    def take_note(self, call: Call, value: Any) -> None:
        """Count, keep what will be asked for, and say how far it is."""
        if call.method == "collect":
            self.fragments += 1
            self.version = value[0].version
        if call.method == "update":
            self.gradient_steps = value[0].gradient_steps
        if call.method == "save":
            self.saved |= _paths(call)
        if time.monotonic() - self._said > SAY_EVERY:
            self._said = time.monotonic()
            self.say(f"the same so far: {self.fragments:,} fragments, {self.gradient_steps:,} gradient steps")

    def keep(self, what: Any, value: Any) -> None:
        """Keep the bytes in an answer that somebody is going to be given, under the name that the record has for them.

        Args:
            what: the answer as the record has it.
            value: what it is now.
        """
        if is_dataclass(value):
            for name, part in what.items():
                self.keep(part, getattr(value, name))  # its own fields
        elif (name := _name_of(what)) in self.data_given:
            self.data[name] = value

    def data_of(self, name: str) -> Any:
        """The bytes of that digest: that the replay made itself, or, if the record begins later, of a checkpoint.

        Raises:
            RunFailedError: nobody has them.
        """
        import numpy as np

        if name in self.data:
            return self.data[name]
        for path in sorted((self.run_dir / "checkpoints").glob("step_*/*.pt")):
            if digest(content := path.read_bytes()) == name:
                self.data[name] = np.frombuffer(content, np.uint8) if path.name == "agent.pt" else content
                return self.data[name]
        raise RunFailedError("the run went on from something that is neither in its record nor in its checkpoints")

    def path_of(self, path: str, is_read: bool) -> str:
        """Where what was saved at a path of the run's folder is for the replay.

        Raises:
            RunFailedError: it isn't there.
        """
        final = PARTIAL.sub(r"\1", path)
        if ".." in Path(final).parts or Path(final).is_absolute():
            raise RunFailedError(f"{path} is not in the run's folder")
        if not is_read or final in self.saved:
            return str(self.scratch / final)
        if (self.run_dir / final).exists():
            return str(self.run_dir / final)
        raise RunFailedError(f"the run went on from {final}, which is neither in its record nor there any more")


class _Stage:
    """One leg being played: who is there, and what they have brought.

    Args:
        replay: the whole.
        leg: what is played.
    """

    def __init__(self, replay: Replay, leg: Leg) -> None:
        from sheeprl.actors.fabric import local_fabric
        from sheeprl.config.checks import check

        self.replay, self.leg = replay, leg
        resolved = check(leg.about["config"])
        self.config, self.spaces = _without_clock(resolved.config), resolved.spaces
        self.fabric = local_fabric(self.config)
        self.made: dict[int, Made] = {}
        self.objects: dict[int, Any] = {}
        self.outcomes: dict[int, Outcome] = {}

    def play(self) -> None:
        """Play the leg.

        Raises:
            DifferenceError: something isn't what it was.
            RunFailedError: the record asks for what isn't there.
        """
        chosen = require(self.leg, self.replay.read)
        try:
            for event in self.leg.events:
                if isinstance(event, Made):
                    self.made[event.target] = event
                elif isinstance(event, Close):
                    self._close(event.target)
                elif event.number in chosen:
                    self._carry_out(event)
                    if self.replay.is_over:
                        break
        finally:
            for target in list(self.objects):
                self._close(target)

    def _carry_out(self, call: Call) -> None:
        if any(number not in self.outcomes for number in call.uses):
            return  # it was given what came to nothing
        target = self._object(call.target)
        is_read = call.method != "save"
        try:
            outcome = Outcome(_method(target, call.method)(*(self._value(arg, is_read) for arg in call.args)))
        except RunFailedError:
            raise
        except Exception as error:
            outcome = Outcome(error=error)
        self.outcomes[call.number] = outcome
        self._compare(call, outcome)
        if outcome.error is None:
            self.replay.take_note(call, outcome.value)
        for number in call.frees:
            self.outcomes.pop(number, None)

    def _object(self, target: int) -> Any:
        """Who is called; made when the first call comes."""
        if target not in self.objects:
            self.objects[target] = self._make(self.made[target])
        return self.objects[target]

    def _make(self, made: Made) -> Any:
        from sheeprl.actors.fabric import build_learner
        from sheeprl.actors.player import Player
        from sheeprl.actors.replay import build_replay

        config, scratch = self.config, self.replay.scratch
        if made.role == "player":
            videos = str(scratch / "videos") if config.env.capture_video and made.number == 0 else None
            return Player(config, self.spaces, made.number, made.incarnation, videos)
        if made.role == "shard":
            folder = str(scratch / "buffer") if config.buffer.memmap else None
            return build_replay(config, made.number, config.buffer.shards, made.incarnation, folder)
        self.replay.learner = build_learner(config, self.spaces, self.fabric)
        return self.replay.learner

    def _value(self, arg: Any, is_read: bool) -> Any:
        """An argument as it was."""
        if not isinstance(arg, dict):
            return arg
        if "of" in arg:
            number, *half = arg["of"]
            return self.outcomes[number].half(half[0] if half else None)
        if (name := _name_of(arg)) is not None:
            return self.replay.data_of(name)
        if "path" in arg:
            return self.replay.path_of(arg["path"], is_read)
        raise RunFailedError(f"an argument is of a kind that isn't recorded: {arg.get('unknown')}")

    def _compare(self, call: Call, outcome: Outcome) -> None:
        """Whether the run heard the same.

        Raises:
            DifferenceError: it didn't.
        """
        if call.method == "restore":  # a lost shard's files may hold what it had carried out unheard
            return
        for answer in call.answers:
            if answer.how == "error" or outcome.error is not None:
                before = f"raised {answer.what!r}" if answer.how == "error" else "didn't fail"
                now = f"raises {one_line(outcome.error)!r}" if outcome.error is not None else "doesn't"
                if answer.how != "error" or outcome.error is None or one_line(outcome.error) != answer.what:
                    raise DifferenceError(f"{self._where(call)} {before} in the run, and now {now}")
            elif answer.how == "answer":
                now = outcome.half(answer.half)
                if difference := first_difference(answer.what, _as_read(seen(now))):
                    raise DifferenceError(f"{self._where(call)} is another one: {difference}")
                self.replay.keep(answer.what, now)

    def _where(self, call: Call) -> str:
        """Which call, for a message."""
        replay = self.replay
        return (
            f"{RECORD}:{call.line}: `{call.method}` of {self.made[call.target].name}, with the weights of version "
            f"{replay.version} and after gradient step {replay.gradient_steps},"
        )

    def _close(self, target: int) -> None:
        """Let go of somebody, so that another one may have the files."""
        closed = self.objects.pop(target, None)
        if closed is not None and self.made[target].role == "shard":
            closed.buffer.close()
        elif closed is not None and self.made[target].role == "player":
            closed.close()
        del closed
        gc.collect()


def replay_run(
    run_dir: str, until_step: int | None = None, out: str | None = None, say: Callable[[str], None] = print
) -> Replayed:
    """Play a recorded run again.

    Args:
        run_dir: its folder.
        until_step: gradient step after which to stop.
        out: file to write the replayed agent to, as a checkpoint's `agent.pt`.
        say: is told how far it is.

    Raises:
        ConfigError: there is no record, or this machine can't play it.
        RunFailedError: the record asks for what isn't there.
    """
    folder = Path(run_dir).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError([f"{run_dir}: no such folder"])
    legs = read_record(folder)
    with tempfile.TemporaryDirectory(prefix="sheeprl_replay_") as scratch:
        replay = Replay(folder, legs, Path(scratch), say, until_step)
        replayed = replay.play()
        if out is not None:
            Path(out).write_bytes(replay.snapshot())
    return replayed


def _method(target: Any, name: str) -> Callable[..., Any]:
    """A method of ours by the name that a record has: which there are, the handles don't know either."""
    if not name.isidentifier() or name.startswith("_") or not callable(getattr(type(target), name, None)):
        raise RunFailedError(f"{type(target).__name__} has no method {name!r}: the record is of another version")
    method: Callable[..., Any] = getattr(target, name)
    return method


def _without_clock(config: Config) -> Config:
    """No step takes too long here."""
    return config.model_copy(update={"players": config.players.model_copy(update={"step_timeout": None})})


def _as_read(value: Any) -> Any:
    """A value as it comes back out of JSON."""
    return json.loads(json.dumps(value))


def first_difference(before: Any, now: Any, where: str = "") -> str | None:
    """Where two answers differ, and how; None if they don't. A player's state is no answer, just passed on."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys() == {"data"}:
        return None
    pairs: Iterator[tuple[str, Any, Any]] | None = None
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        pairs = ((f"{where}.{key}" if where else key, before[key], now[key]) for key in before)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = ((f"{where}[{number}]", *both) for number, both in enumerate(zip(before, now, strict=True)))
    if pairs is not None:
        return next((found for name, *both in pairs if (found := first_difference(both[0], both[1], name))), None)
    if json.dumps(before) == json.dumps(now):  # in which a NaN is a NaN
        return None
    return f"{where + ' ' if where else ''}was {before!r} in the run, and is {now!r}"


def _name_of(value: Any) -> str | None:
    """The digest that stands for bytes or an array."""
    return (value.get("data") or value.get("array")) if isinstance(value, dict) else None
