"""Writes down what a run asks of its pieces, so that `sheeprl replay` can do the very same again in one process.

The run speaks to players, shards and trainers through handles only, and each of these carries out its calls in their
order. So the order of the calls, and which of them came to nothing because somebody died, is all that chance decides in
a run. Data isn't written down: an argument that is the result of an earlier call is that call's number, and bytes are
their digest, by which the replay finds them among what it made itself. Answers that the run sees (returns, losses,
sizes) are, and so is the digest of every snapshot: the replay is compared with them. (A player's state is not: it holds
generators of the environments' spaces, which nobody seeds and nobody draws from.)

`record.jsonl` holds one JSON array a line:

    ["begin", {"config": ..., "checkpoint": null, "versions": ...}]   a run begins, or goes on from a checkpoint
    ["make", object, role, number, incarnation]                       of role player, shard or learner
    ["call", call, object, method, [arguments]]                       or "pair": its result is a pair
    ["answer", call, half, what]                                      half of a pair, or null; as `seen` gives it
    ["failed", call, half, how, text]                                 lost, data (an argument was lost) or error
    ["close", object]

Calls and objects are numbered anew from every "begin" on.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Generator, Iterator
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
# Of an answer: what depends on time, or on calls that a shard which was lost had carried out unheard.
NOT_COMPARED = frozenset({"seconds", "began", "counts", "unsaved", "notes"})


def digest(data: bytes | np.ndarray[Any, Any]) -> str:
    """Of 16 bytes, in hex: the name of data in a record."""
    return hashlib.blake2b(data.tobytes() if isinstance(data, np.ndarray) else data, digest_size=16).hexdigest()


def seen(value: Any) -> Any:
    """What is written of an answer, as JSON has it: what doesn't depend on time, and the digest of what is bytes."""
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
    """The file. One that can't be written any more is told of once, and the run goes on without.

    Args:
        run_dir: the run's folder; a record in it is continued.
        tell: is told of what goes wrong.
    """

    def __init__(self, run_dir: Path, tell: Callable[[str], None]) -> None:
        self.run_dir, self.tell = run_dir, tell
        self.path = run_dir / RECORD
        self._lines: list[str] = []
        self._flushed = time.monotonic()
        self._objects = self._calls = 0
        self._is_broken = False
        with self._told():
            _end_last_line(self.path)

    def begin(self, config: Config, checkpoint: str | None) -> None:
        """A run begins; what was recorded before is of runs that have ended."""
        versions = {"sheeprl": __version__, "python": platform.python_version(), "numpy": np.__version__}
        about = {"config": config.model_dump(mode="json"), "checkpoint": checkpoint, "versions": versions}
        self._append(["begin", about])
        self.flush()

    def make(self, role: str, number: int, incarnation: int) -> int:
        """Somebody is made, who gets a number."""
        self._objects += 1
        self._append(["make", self._objects, role, number, incarnation])
        return self._objects

    def call(self, kind: str, target: int, method: str, args: tuple[Any, ...]) -> int:
        """A method is called; the number of the call."""
        self._calls += 1
        self._append([kind, self._calls, target, method, [self._symbol(arg) for arg in args]])
        if method == "weights" or time.monotonic() - self._flushed > FLUSH_AFTER:  # that is once a round at least
            self.flush()
        return self._calls

    def answer(self, call: int, half: int | None, value: Any) -> None:
        """A call has brought something."""
        what = seen(value)
        self._append(["answer", call, half, what])
        if isinstance(value, np.ndarray):  # a snapshot: a checkpoint is going to be written that a resumed run names
            self.flush()

    def failed(self, call: int, half: int | None, error: Exception) -> None:
        """A call has come to nothing."""
        how = "lost" if isinstance(error, LostError) else "data" if isinstance(error, DataLostError) else "error"
        self._append(["failed", call, half, how, one_line(error)])
        self.flush()

    def close(self, target: int) -> None:
        """Somebody is let go of."""
        self._append(["close", target])

    def flush(self) -> None:
        """Hand over to the operating system what was recorded, so that the death of this process doesn't take it."""
        lines, self._lines = self._lines, []
        self._flushed = time.monotonic()
        if lines and not self._is_broken:
            with self._told(), self.path.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")

    def _append(self, line: list[Any]) -> None:
        self._lines.append(json.dumps(line, separators=(",", ":")))

    def _symbol(self, arg: Any) -> Any:
        """An argument as it is written."""
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
        return {"unknown": type(arg).__name__}  # which a replay can't go past

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._is_broken = True
            self.tell(f"{self.path} can't be written, and can't be replayed past here: {one_line(error)}")


class RecordedRef(Generic[T]):
    """A result whose arrival is recorded."""

    def __init__(self, record: Record, number: int, half: int | None, ref: Ref[T]) -> None:
        self.record, self.number, self.half, self.ref = record, number, half, ref
        self._is_known = False

    def __await__(self) -> Generator[Any, None, T]:
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
        record: where.
        handle: does what it is asked.
        target: number of the one it stands for.
    """

    def __init__(self, record: Record, handle: Handle, target: int) -> None:
        self.record, self.handle, self.target = record, handle, target

    def call(self, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> RecordedRef[T]:
        """Record a call and start the method."""
        number = self.record.call("call", self.target, method_name(method, kwargs), args)
        unchecked = cast(Callable[..., T], method)  # the checked arguments, with other references
        return RecordedRef(self.record, number, None, self.handle.call(unchecked, *_plain(args)))

    def call_pair(
        self, method: Callable[Concatenate[Any, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[RecordedRef[A], RecordedRef[B]]:
        """Record a call and start the method, which returns a pair."""
        number = self.record.call("pair", self.target, method_name(method, kwargs), args)
        unchecked = cast(Callable[..., tuple[A, B]], method)
        first, second = self.handle.call_pair(unchecked, *_plain(args))
        return RecordedRef(self.record, number, 0, first), RecordedRef(self.record, number, 1, second)

    def close(self) -> None:
        """Let go of it."""
        self.record.close(self.target)
        self.handle.close()


def _plain(args: tuple[Any, ...]) -> list[Any]:
    """Arguments as the handle takes them."""
    plain: list[Any] = []
    for arg in args:
        if isinstance(arg, AllRanks) and isinstance(arg.ref, RecordedRef):
            plain.append(AllRanks(arg.ref.ref))
        else:
            plain.append(arg.ref if isinstance(arg, RecordedRef) else arg)
    return plain


@contextmanager
def recorded(
    config: Config, workers: Workers, run_dir: Path, checkpoint: str | None, tell: Callable[[str], None]
) -> Iterator[Workers]:
    """The pieces of a run, with all that is asked of them recorded if `log.record` says so.

    Args:
        config: the run's, resolved.
        workers: handles of all workers.
        run_dir: the run's folder.
        checkpoint: name of the one that the run goes on from.
        tell: is told if the record can't be written.
    """
    if not config.log.record:
        yield workers
        return
    record = Record(run_dir, tell)
    record.begin(config, checkpoint)
    try:
        yield _wrapped(record, workers)
    finally:
        record.flush()


def _wrapped(record: Record, workers: Workers) -> Workers:
    def wrap(handle: Handle, role: str, number: int, incarnation: int) -> Handle:
        return RecordedHandle(record, handle, record.make(role, number, incarnation))

    replay, make_shard, make_learner = workers.replay, workers.replay.make_shard, workers.make_learner
    replay.handles = [wrap(handle, "shard", number, 0) for number, handle in enumerate(replay.handles)]
    if make_shard is not None:
        replay.make_shard = lambda number, life: wrap(make_shard(number, life), "shard", number, life)

    async def make_recorded_learner(incarnation: int) -> Handle:
        assert make_learner is not None
        return wrap(await make_learner(incarnation), "learner", 0, incarnation)

    return replace(
        workers,
        make_player=lambda number, life: wrap(workers.make_player(number, life), "player", number, life),
        learner=wrap(workers.learner, "learner", 0, 0),
        make_learner=make_recorded_learner if make_learner is not None else None,
    )


def _end_last_line(path: Path) -> None:
    """Take away the half line that a killed run may have left at the end."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
