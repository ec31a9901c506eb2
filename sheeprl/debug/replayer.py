"""Re-execute a recorded run: every call in the recorded order, one after another, on objects in this process.

The order of the calls, and which of them failed, captures all races, delays and deaths of the recorded run. A call
whose result never arrived is skipped, since no worker used its result. A shard whose files outlived it received the
call again and added the rows that it had not stored. Outcomes that depend on time can't be re-executed: an environment
that reads the clock, or a step that took too long.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from sheeprl.config.schema import Config
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.debug.record import (
    PARTIAL,
    Call,
    Close,
    Leg,
    Made,
    count_fragments,
    digest_in,
    inputs_of,
    paths_of,
    read_record,
    require,
)
from sheeprl.debug.recorder import RECORD, digest, seen
from sheeprl.utils import rank_variables
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line
from sheeprl.utils.process import StopSignals, exclusive
from sheeprl.utils.text import counted

LEARNER_FILES = ("agent.pt", "initial.pt")  # snapshots of the learner; the latter of a run with `algo.init_from`
REPORT_INTERVAL = 10.0  # seconds between two progress messages


class DifferenceError(RuntimeError):
    """Raised when a result differs from the recorded one."""


@dataclass(frozen=True)
class ReexecutionResult:
    """Result of a re-execution.

    Args:
        fragments: number of collected fragments.
        gradient_steps: gradient steps at the end.
        parameters: digest of the learner's last snapshot.
        recorded_from: gradient steps before the record began, which aren't re-executed.
        difference: first difference from the record; None if there is none.
    """

    fragments: int
    gradient_steps: int
    parameters: str
    recorded_from: int = 0
    difference: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Result or exception of a re-executed call."""

    value: Any = None
    error: Exception | None = None

    def half(self, which: int | None) -> Any:
        """Return the result or one half of it, or raise the exception."""
        if self.error is not None:
            raise self.error
        return self.value if which is None else self.value[which]


class Reexecution:
    """Re-execution of a record.

    Args:
        run_dir: folder of the run.
        legs: parts of the recorded run.
        scratch: folder for files that the re-execution writes.
        report: called with progress messages.
        until_step: gradient step after which to stop; None runs to the end.
    """

    def __init__(
        self,
        run_dir: Path,
        legs: Sequence[Leg],
        scratch: Path,
        report: Callable[[str], None],
        until_step: int | None = None,
    ) -> None:
        """Collect the digests and paths that the record refers to."""
        self.run_dir, self.legs, self.scratch, self.report = run_dir, legs, scratch, report
        self.until_step = until_step
        self.data_given, self.read = inputs_of(legs)
        self.data: dict[str, Any] = {}
        self.saved: set[str] = set()
        self.fragments = self.gradient_steps = 0
        self.recorded_from: int | None = None
        self.version = -1
        self.parameters = ""
        self.learner: Any = None
        self._reported = time.monotonic()

    def run(self) -> ReexecutionResult:
        """Re-execute all parts, up to the first difference."""
        difference = None
        try:
            for leg in self.legs:
                _Stage(self, leg).run()
                if self.is_over:
                    break
        except DifferenceError as error:
            difference = str(error)
        began = self.recorded_from or 0
        return ReexecutionResult(self.fragments, self.gradient_steps, self.snapshot_digest(), began, difference)

    @property
    def is_over(self) -> bool:
        """True if the re-execution has reached `until_step`."""
        return self.until_step is not None and self.gradient_steps >= self.until_step

    def snapshot(self) -> bytes:
        """Return the learner's state in the format of a checkpoint's `agent.pt`."""
        data: bytes = self.learner.snapshot()[1].tobytes()
        return data

    def snapshot_digest(self) -> str:
        """Return the digest of the learner's state."""
        return digest(self.snapshot()) if self.learner is not None else "none"

    def record_progress(self, call: Call, value: Any) -> None:
        """Update the counters after a call and report the progress."""
        if call.method == "collect":
            self.fragments += 1
            self.version = value[0].version
        if call.method == "update":
            self.gradient_steps = value[0].gradient_steps
        if call.method == "save":
            self.saved |= paths_of(call)
        if time.monotonic() - self._reported > REPORT_INTERVAL:
            self._reported = time.monotonic()
            recorded = counted(count_fragments(self.legs), "fragment")
            steps = counted(self.gradient_steps - (self.recorded_from or 0), "gradient step")
            self.report(f"identical so far: {self.fragments:,} of {recorded}, {steps}")

    def store(self, what: Any, value: Any) -> None:
        """Store the bytes of a result that a later call receives, under their digest in the record.

        Args:
            what: recorded result.
            value: result of the re-execution.
        """
        if is_dataclass(value):
            for name, part in what.items():
                self.store(part, getattr(value, name))  # fields of this module's dataclasses
        elif (name := digest_in(what)) in self.data_given:
            self.data[name] = value

    def data_of(self, name: str) -> Any:
        """Return the bytes of a digest, from the re-execution or from a checkpoint.

        Raises:
            RunFailedError: neither has these bytes.
        """
        import numpy as np

        if name in self.data:
            return self.data[name]
        checkpoints = sorted((self.run_dir / "checkpoints").glob("step_*/*.pt"))
        for path in [*self.run_dir.glob("initial.pt"), *checkpoints]:
            if digest(content := path.read_bytes()) == name:
                self.data[name] = np.frombuffer(content, np.uint8) if path.name in LEARNER_FILES else content
                return self.data[name]
        raise RunFailedError(
            "an argument of a recorded call is neither a result in the record nor in a checkpoint of the run"
        )

    def path_of(self, path: str, is_read: bool) -> str:
        """Return the path that the re-execution uses for a path in the run's folder.

        Raises:
            RunFailedError: the path is read and doesn't exist, or it is outside the folder.
        """
        final = PARTIAL.sub(r"\1", path)
        if ".." in Path(final).parts or Path(final).is_absolute():
            raise RunFailedError(f"{path} is outside the run's folder")
        if not is_read or final in self.saved:
            return str(self.scratch / final)
        if (self.run_dir / final).exists():
            return str(self.run_dir / final)
        raise RunFailedError(f"{final}, which the run read, is neither in the record nor in the run's folder")


class _Stage:
    """Re-execution of one part of the run, with its workers and their results.

    Args:
        reexecution: re-execution of the whole record.
        leg: part of the run.
    """

    def __init__(self, reexecution: Reexecution, leg: Leg) -> None:
        """Check the configuration and launch Fabric."""
        from sheeprl.actors.fabric import local_fabric
        from sheeprl.config.checks import check

        self.reexecution, self.leg = reexecution, leg
        resolved = check(parse_yaml(leg.about["config"], RECORD))
        self.config, self.spaces = _without_clock(resolved.config), resolved.spaces
        self.fabric = local_fabric(self.config)
        self.made: dict[int, Made] = {}
        self.objects: dict[int, Any] = {}
        self.outcomes: dict[int, Outcome] = {}

    def run(self) -> None:
        """Re-execute the part.

        Raises:
            DifferenceError: a result differs from the record.
            RunFailedError: data or a file that the record refers to is missing.
        """
        chosen = require(self.leg, self.reexecution.read)
        try:
            for event in self.leg.events:
                if isinstance(event, Made):
                    self.made[event.target] = event
                elif isinstance(event, Close):
                    self._close(event.target)
                elif event.number in chosen:
                    self._execute(event)
                    if self.reexecution.is_over:
                        break
        finally:
            for target in list(self.objects):
                self._close(target)

    def _execute(self, call: Call) -> None:
        """Run a call and compare its outcome with the record."""
        if any(number not in self.outcomes for number in call.uses):
            return  # an argument is the result of a skipped call
        target = self._object(call.target)
        is_read = call.method != "save"
        if call.method == "update" and self.reexecution.recorded_from is None:
            self.reexecution.recorded_from = self.reexecution.gradient_steps = target.gradient_steps
        try:
            outcome = Outcome(_method(target, call.method)(*(self._value(arg, is_read) for arg in call.args)))
        except RunFailedError:
            raise
        except Exception as error:
            outcome = Outcome(error=error)
        self.outcomes[call.number] = outcome
        self._compare(call, outcome)
        if outcome.error is None:
            self.reexecution.record_progress(call, outcome.value)
        for number in call.frees:
            self.outcomes.pop(number, None)

    def _object(self, target: int) -> Any:
        """Return a worker; build it at its first call."""
        if target not in self.objects:
            self.objects[target] = self._make(self.made[target])
        return self.objects[target]

    def _make(self, made: Made) -> Any:
        """Build a worker."""
        from sheeprl.actors.fabric import build_learner
        from sheeprl.actors.player import Player
        from sheeprl.actors.replay import build_replay

        config, scratch = self.config, self.reexecution.scratch
        if made.role == "player":
            videos = str(scratch / "videos") if config.env.capture_video and made.number == 0 else None
            return Player(config, self.spaces, made.number, made.incarnation, videos)
        if made.role == "shard":
            folder = str(scratch / "buffer") if config.buffer.memmap else None
            place = made.number, config.buffer.shards, made.incarnation, folder
            return build_replay(config, *place, self.spaces.frame_stack)
        self.reexecution.learner = build_learner(config, self.spaces, self.fabric)
        return self.reexecution.learner

    def _value(self, arg: Any, is_read: bool) -> Any:
        """Decode a recorded argument."""
        if not isinstance(arg, dict):
            return arg
        if "of" in arg:
            number, *half = arg["of"]
            return self.outcomes[number].half(half[0] if half else None)
        if "json" in arg:
            return arg["json"]
        if (name := digest_in(arg)) is not None:
            return self.reexecution.data_of(name)
        if "path" in arg:
            return self.reexecution.path_of(arg["path"], is_read)
        raise RunFailedError(f"arguments of type {arg.get('unknown')} can't be recorded")

    def _compare(self, call: Call, outcome: Outcome) -> None:
        """Compare an outcome with the recorded one.

        Raises:
            DifferenceError: they differ.
        """
        if call.method == "restore":  # a lost shard's files may include calls whose results never arrived
            return
        for answer in call.answers:
            if answer.how == "error" or outcome.error is not None:
                before = f"raised {answer.what!r}" if answer.how == "error" else "didn't fail"
                now = f"raises {one_line(outcome.error)!r}" if outcome.error is not None else "doesn't fail"
                if answer.how != "error" or outcome.error is None or one_line(outcome.error) != answer.what:
                    raise DifferenceError(f"{self._where(call)} {before} in the run, but {now} in the re-execution")
            elif answer.how == "answer":
                now = outcome.half(answer.half)
                if difference := first_difference(answer.what, _as_read(seen(now))):
                    raise DifferenceError(f"{self._where(call)} differs: {difference}")
                self.reexecution.store(answer.what, now)

    def _where(self, call: Call) -> str:
        """Describe a call for a message."""
        whole = self.reexecution
        return (
            f"{RECORD}:{call.line}: `{call.method}` of {self.made[call.target].name}, with the weights of version "
            f"{whole.version} and after gradient step {whole.gradient_steps},"
        )

    def _close(self, target: int) -> None:
        """Release a worker, so that its successor can open the files."""
        closed = self.objects.pop(target, None)
        if closed is not None and self.made[target].role == "shard":
            closed.buffer.close()
        elif closed is not None and self.made[target].role == "player":
            closed.close()
        del closed
        gc.collect()


def replay_run(
    run_dir: str, until_step: int | None = None, out: str | None = None, report: Callable[[str], None] = print
) -> ReexecutionResult:
    """Re-execute a recorded run.

    Args:
        run_dir: folder of the run.
        until_step: gradient step after which to stop; None runs to the end.
        out: file for the agent, in the format of a checkpoint's `agent.pt`.
        report: called with progress messages.

    Raises:
        ConfigError: the folder has no valid record, or one without fragments, or this machine can't run its
            configuration.
        RunFailedError: data or a file that the record refers to is missing, or this process has a run.
    """
    folder = Path(run_dir).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError([f"{run_dir}: no such folder"])
    legs = read_record(folder)
    if not count_fragments(legs):
        raise ConfigError([f"{folder / RECORD}: holds no collected fragment, so there is nothing to compare"])
    temporary = tempfile.TemporaryDirectory(prefix="sheeprl_replay_")
    with exclusive("the re-execution"), StopSignals(), rank_variables.only_own(), temporary as scratch:
        reexecution = Reexecution(folder, legs, Path(scratch), report, until_step)
        result = reexecution.run()
        if out is not None:
            Path(out).write_bytes(reexecution.snapshot())
    return result


def _method(target: Any, name: str) -> Callable[..., Any]:
    """Return a worker's public method by its recorded name.

    Raises:
        RunFailedError: the worker has no such method.
    """
    if not name.isidentifier() or name.startswith("_") or not callable(getattr(type(target), name, None)):
        raise RunFailedError(
            f"{type(target).__name__} has no method {name!r}; use the sheeprl version that wrote the record"
        )
    method: Callable[..., Any] = getattr(target, name)
    return method


def _without_clock(config: Config) -> Config:
    """Return the configuration without the step timeout."""
    return config.model_copy(update={"players": config.players.model_copy(update={"step_timeout": None})})


def _as_read(value: Any) -> Any:
    """Return a value after a round trip through JSON."""
    return json.loads(json.dumps(value))


def first_difference(before: Any, now: Any, where: str = "") -> str | None:
    """Describe the first difference of two results; None if they are equal. Players' states aren't compared."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys() == {"data"}:
        return None
    pairs: Iterator[tuple[str, Any, Any]] | None = None
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        pairs = ((f"{where}.{key}" if where else key, before[key], now[key]) for key in before)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = ((f"{where}[{number}]", *both) for number, both in enumerate(zip(before, now, strict=True)))
    if pairs is not None:
        return next((found for name, *both in pairs if (found := first_difference(both[0], both[1], name))), None)
    if json.dumps(before) == json.dumps(now):  # NaN equals NaN in JSON
        return None
    return f"{where + ' ' if where else ''}was {before!r} in the run, but is {now!r} in the re-execution"
