"""Records the calls of a run to its workers, so that `sheeprl replay` can re-execute them in one process.

The driver calls players, shards and trainers through handles only, and each worker runs its calls in their order. So
the only nondeterminism of a run is the order of the calls and which calls failed because an actor died. The record
holds no data: an argument that is the result of an earlier call is stored as that call's number, and bytes as their
digest, by which the re-execution finds them among its results. Results that the driver awaits (returns, losses, sizes)
and the digest of every snapshot are stored and compared with the re-execution. A player's state is not compared: it
contains generators of the environments' spaces, which are neither seeded nor used.

`record.jsonl` holds one JSON array a line:

    ["begin", {"config": YAML, "checkpoint": null, "versions": ...}]   a run begins, or resumes from a checkpoint
    ["make", object, role, number, incarnation]                       of role player, shard or learner
    ["call", call, object, method, [arguments]]                       or "pair": its result is a pair
    ["answer", call, half, what]                                      half of a pair, or null; encoded by `seen`
    ["failed", call, half, how, text]                                 lost, data (an argument was lost) or error
    ["close", object]

The numbers of calls and objects start at 1 after every "begin".
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import numpy as np

from sheeprl.actors.handle import AllRanks, DataLostError, Handle, LostError, Ref, method_name
from sheeprl.utils.errors import one_line
from sheeprl.version import __version__

if TYPE_CHECKING:
    from sheeprl.config.schema import Config
    from sheeprl.driver.workers import Workers
P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
RECORD = "record.jsonl"
FLUSH_AFTER = 1.0  # seconds
# Fields that depend on time, or on calls of a lost shard whose results never arrived.
NOT_COMPARED = frozenset({"seconds", "state_seconds", "began", "compiling", "counts", "unsaved", "notes"})


def digest(data: bytes | np.ndarray[Any, Any]) -> str:
    """Return a digest of 16 bytes in hex, which names data in a record."""
    return hashlib.blake2b(data.tobytes() if isinstance(data, np.ndarray) else data, digest_size=16).hexdigest()


def seen(value: Any) -> Any:
    """Encode a result as JSON, with bytes as their digest and without the fields that depend on time."""
    if isinstance(value, (bytes, np.ndarray)):
        return {"data" if isinstance(value, bytes) else "array": digest(value)}
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}  # their own names
        return {name: seen(part) for name, part in parts.items() if name not in NOT_COMPARED}
    if isinstance(value, dict):
        return {str(name): seen(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [seen(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


class Record:
    """The record file. If a write fails, this is reported once and the run continues without a record.

    Args:
        run_dir: folder of the run; an existing record is continued.
        report: called with a message if a write fails.
    """

    def __init__(self, run_dir: Path, report: Callable[[str], None]) -> None:
        """Open the record."""
        self.run_dir, self.report = run_dir, report
        self.path = run_dir / RECORD
        self._lines: list[str] = []
        self._flushed = time.monotonic()
        self._objects = self._calls = 0
        self._is_broken = False
        with self._reporting_errors():
            _end_last_line(self.path)

    def begin(self, config: Config, checkpoint: str | None) -> None:
        """Record the begin of a run."""
        versions = {"sheeprl": __version__, "python": platform.python_version(), "numpy": np.__version__}
        about = {"config": config.to_yaml(), "checkpoint": checkpoint, "versions": versions}
        self._append(["begin", about])
        self.flush()

    def make(self, role: str, number: int, incarnation: int) -> int:
        """Record the creation of a worker; return its number."""
        self._objects += 1
        self._append(["make", self._objects, role, number, incarnation])
        return self._objects

    def call(self, kind: str, target: int, method: str, args: tuple[Any, ...]) -> int:
        """Record a call; return its number."""
        self._calls += 1
        self._append([kind, self._calls, target, method, [self._symbol(arg) for arg in args]])
        if method == "weights" or time.monotonic() - self._flushed > FLUSH_AFTER:  # at least once per round
            self.flush()
        return self._calls

    def answer(self, call: int, half: int | None, value: Any) -> None:
        """Record the result of a call."""
        what = seen(value)
        self._append(["answer", call, half, what])
        if isinstance(value, np.ndarray):  # a snapshot: the record of a resumed run refers to it
            self.flush()

    def failed(self, call: int, half: int | None, error: Exception) -> None:
        """Record the failure of a call."""
        how = "lost" if isinstance(error, LostError) else "data" if isinstance(error, DataLostError) else "error"
        self._append(["failed", call, half, how, one_line(error)])
        self.flush()

    def close(self, target: int) -> None:
        """Record the end of a worker."""
        self._append(["close", target])

    def flush(self) -> None:
        """Write the buffered lines to the file, so that they survive the death of this process."""
        lines, self._lines = self._lines, []
        self._flushed = time.monotonic()
        if lines and not self._is_broken:
            with self._reporting_errors(), self.path.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")

    def _append(self, line: list[Any]) -> None:
        """Buffer a line."""
        self._lines.append(json.dumps(line, separators=(",", ":")))

    def _symbol(self, arg: Any) -> Any:
        """Encode an argument as JSON."""
        if isinstance(arg, AllRanks):
            arg = arg.ref
        if isinstance(arg, RecordedRef):
            return {"of": [arg.number] if arg.half is None else [arg.number, arg.half]}
        if isinstance(arg, (bytes, np.ndarray)):
            return seen(arg)
        if isinstance(arg, str) and Path(arg).is_relative_to(self.run_dir):
            return {"path": Path(arg).relative_to(self.run_dir).as_posix()}
        if isinstance(arg, np.generic):
            return arg.item()
        if arg is None or isinstance(arg, (bool, int, float, str)):
            return arg
        if isinstance(arg, dict):  # attributes of environments
            return {"json": arg}
        return {"unknown": type(arg).__name__}  # the re-execution stops here

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Report a failed write and stop recording."""
        try:
            yield
        except OSError as error:
            self._is_broken = True
            self.report(f"{self.path} can't be written ({one_line(error)}); `sheeprl replay` stops at this point")


class RecordedRef(Generic[T]):
    """A reference whose result is recorded when it arrives."""

    def __init__(self, record: Record, number: int, half: int | None, ref: Ref[T]) -> None:
        """Store the call's number and its reference."""
        self.record, self.number, self.half, self.ref = record, number, half, ref
        self._is_known = False

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result and record it."""
        try:
            value = yield from self.ref.__await__()
        except Exception as error:
            if not self._is_known:
                self._is_known = True
                self.record.failed(self.number, self.half, error)
            raise
        if not self._is_known:
            self._is_known = True
            self.record.answer(self.number, self.half, value)
        return value


class RecordedHandle:
    """A handle whose calls are recorded.

    Args:
        record: record of the run.
        handle: handle of the worker.
        target: number of the worker in the record.
    """

    def __init__(self, record: Record, handle: Handle, target: int) -> None:
        """Store the handle and the worker's number."""
        self.record, self.handle, self.target = record, handle, target

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> RecordedRef[T]:
        """Record a call and start the method."""
        number = self.record.call("call", self.target, method_name(method, kwargs), args)
        unchecked = cast(Callable[..., T], method)  # the checked arguments, with other references
        return RecordedRef(self.record, number, None, self.handle.call(unchecked, *_unwrapped(args)))

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[RecordedRef[A], RecordedRef[B]]:
        """Record a call and start the method, which returns a pair."""
        number = self.record.call("pair", self.target, method_name(method, kwargs), args)
        unchecked = cast(Callable[..., tuple[A, B]], method)
        first, second = self.handle.call_pair(unchecked, *_unwrapped(args))
        return RecordedRef(self.record, number, 0, first), RecordedRef(self.record, number, 1, second)

    def close(self) -> None:
        """Record the end of the worker and release it."""
        self.record.close(self.target)
        self.handle.close()


def _unwrapped(args: Sequence[Any]) -> list[Any]:
    """Return arguments with recorded references replaced by the handle's."""
    plain: list[Any] = []
    for arg in args:
        if isinstance(arg, AllRanks) and isinstance(arg.ref, RecordedRef):
            plain.append(AllRanks(arg.ref.ref))
        else:
            plain.append(arg.ref if isinstance(arg, RecordedRef) else arg)
    return plain


@contextmanager
def recorded(
    config: Config, workers: Workers, run_dir: Path, checkpoint: str | None, report: Callable[[str], None]
) -> Iterator[Workers]:
    """Yield the workers of a run, with their calls recorded if `log.record` is true.

    Args:
        config: configuration of the run, resolved.
        workers: handles of all workers.
        run_dir: folder of the run.
        checkpoint: name of the checkpoint that the run resumes from.
        report: called with a message if the record can't be written.
    """
    if not config.log.record:
        yield workers
        return
    record = Record(run_dir, report)
    record.begin(config, checkpoint)
    try:
        yield _wrapped(record, config, workers)
    finally:
        record.flush()


def _wrapped(record: Record, config: Config, workers: Workers) -> Workers:
    """Return workers whose handles record their calls."""

    def wrap(handle: Handle, role: str, number: int, incarnation: int) -> Handle:
        """Record the creation of a worker; return its recorded handle."""
        return RecordedHandle(record, handle, record.make(role, number, incarnation))

    replay, make_shard, make_learner = workers.replay, workers.replay.make_shard, workers.make_learner
    make_evaluator = workers.make_evaluator
    replay.handles = [wrap(handle, "shard", number, 0) for number, handle in enumerate(replay.handles)]
    if make_shard is not None:
        replay.make_shard = lambda number, life: wrap(make_shard(number, life), "shard", number, life)

    async def make_recorded_learner(incarnation: int) -> Handle:
        """Make a trainer group whose calls are recorded."""
        assert make_learner is not None
        return wrap(await make_learner(incarnation), "learner", 0, incarnation)

    def make_recorded_evaluator(incarnation: int) -> Handle:
        """Make a worker for evaluations whose calls are recorded."""
        assert make_evaluator is not None
        return wrap(make_evaluator(incarnation), "player", config.num_players, incarnation)

    return replace(
        workers,
        make_player=lambda number, life: wrap(workers.make_player(number, life), "player", number, life),
        learner=wrap(workers.learner, "learner", 0, 0),
        make_learner=make_recorded_learner if make_learner is not None else None,
        make_evaluator=make_recorded_evaluator if make_evaluator is not None else None,
    )


def _end_last_line(path: Path) -> None:
    """Remove an incomplete last line, which a killed run can leave."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
