"""The run in simulation: virtual time, and stand-ins for players, buffer and learner that keep the truth themselves.

`simulate(schedule)` drives an unchanged `sheeprl.run.Run` and returns a `Leg`, in which everything that happened can be
read. The same schedule always gives the same leg. A run that waits for nothing raises `StuckError` instead of hanging.

What the stand-ins promise is what Ray promises: an actor's calls are carried out one after the other, in the order in
which they were asked; a call waits for the references among its arguments and fails with what they fail with; calls to
an actor that died fail, those under way at the moment of its death too.
"""

from __future__ import annotations

import asyncio
import copy
import selectors
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Literal, NamedTuple, TypeVar

from hypothesis import strategies as st

from sheeprl.actors.evaluation import Evaluation
from sheeprl.actors.handle import AllRanks, LostError
from sheeprl.actors.messages import BufferStatus, FragmentInfo, UpdateInfo
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.buffer.storage import RefusedFragmentError
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.driver.updates import CHUNK_BYTES, CHUNK_STEPS
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.reporter import Progress
from sheeprl.run import Run
from sheeprl.utils.errors import RunFailedError
from tests.helpers.driver_config import driver_config

T = TypeVar("T")
MAX_TURNS = 200_000  # of the event loop: more than any schedule here needs

# ---------------------------------------------------------------------------------------------- virtual time


class StuckError(AssertionError):
    """Nothing is under way and the program isn't done, or it does things for ever."""


class VirtualSelector(selectors.SelectSelector):
    """Lets time pass instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Go to the moment when the next thing happens."""
        self.turns += 1
        if timeout is None:
            raise StuckError(f"deadlock at {self.now}: everything waits and nothing is under way")
        if self.turns > MAX_TURNS:
            raise StuckError(f"still going on after {MAX_TURNS} turns, at {self.now}")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing is left to do at the present moment."""

    def __init__(self) -> None:
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


class VirtualClock:
    """The run's clock, in a virtual loop."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `main()`, in no time.

    Raises:
        StuckError: it can't come to an end.
    """
    loop = VirtualLoop()

    async def end_the_rest() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        return loop.run_until_complete(main())
    finally:
        loop.selector.turns = 0
        loop.run_until_complete(end_the_rest())
        loop.close()


# -------------------------------------------------------------------------------------------------- handles


class DiedError(LostError):
    """The actor is gone."""


class FailedError(RuntimeError):
    """The actor's method raised."""


class Outcome(NamedTuple):
    """What came of a call."""

    value: Any = None
    error: Exception | None = None


class SimulatedRef:
    """A result of a simulated call, or one half of it."""

    def __init__(self, outcome: asyncio.Future[Outcome], half: int | None = None) -> None:
        self.outcome, self.half = outcome, half

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.shield(self.outcome).__await__()  # who stops waiting doesn't stop the call
        return self.get()

    def get(self) -> Any:
        """The value, or raise; only once it is there."""
        value, error = self.outcome.result()
        if error is not None:
            raise error
        return value if self.half is None else value[self.half]


class Event(NamedTuple):
    """A call was asked for, or has ended."""

    what: Literal["asked", "ended"]
    actor: str
    method: str
    time: float
    error: Exception | None = None


@dataclass
class Call:
    """A call that an actor has to carry out."""

    method: str
    args: tuple[Any, ...]
    outcome: asyncio.Future[Outcome]


class SimulatedHandle:
    """An actor: carries out the methods of `target`, each after a delay.

    Args:
        name: tells it from others in `events`.
        target: an object whose methods are called.
        delay: how long its next call takes.
        events: where to write down what happens.
        on_call: is told of each call just before it is carried out; may raise in its place, or call `die`.
        on_answer: is told of each call when it has been carried out; may call `die`, and nobody hears what came of it.
    """

    def __init__(
        self,
        name: str,
        target: Any,
        delay: Callable[[], float],
        events: list[Event],
        on_call: Callable[[SimulatedHandle, str], None] = lambda handle, method: None,
        on_answer: Callable[[SimulatedHandle, str], None] = lambda handle, method: None,
    ) -> None:
        self.name, self.target, self.delay, self.events = name, target, delay, events
        self.on_call, self.on_answer = on_call, on_answer
        self.loop = asyncio.get_running_loop()
        self.calls: deque[Call] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.dead: Exception | None = None
        self.closed = False

    def call(self, method: Callable[..., Any], *args: Any) -> SimulatedRef:
        refs = tuple(arg.ref if isinstance(arg, AllRanks) else arg for arg in args)
        call = Call(method.__name__, refs, self.loop.create_future())
        self._note("asked", call)
        self.calls.append(call)
        if self.dead is not None:
            self._fail_all()
        elif len(self.calls) == 1:
            self._begin()
        return SimulatedRef(call.outcome)

    def call_pair(self, method: Callable[..., Any], *args: Any) -> tuple[SimulatedRef, SimulatedRef]:
        outcome = self.call(method, *args).outcome
        return SimulatedRef(outcome, 0), SimulatedRef(outcome, 1)

    def close(self) -> None:
        self.closed = True
        self.die(DiedError(f"{self.name} was closed"))

    def die(self, error: Exception) -> None:
        """Fail every call under way and to come."""
        if self.dead is None:
            self.dead = error
            if self.timer is not None:
                self.timer.cancel()
            self._fail_all()

    def _begin(self) -> None:
        """Begin the foremost call, as soon as its arguments are there."""
        for arg in self.calls[0].args:
            if isinstance(arg, SimulatedRef) and not arg.outcome.done():
                arg.outcome.add_done_callback(lambda _: None if self.dead else self._begin())
                return
        self.timer = self.loop.call_later(self.delay(), self._finish)

    def _finish(self) -> None:
        call = self.calls[0]
        try:
            values = [arg.get() if isinstance(arg, SimulatedRef) else arg for arg in call.args]
            self.on_call(self, call.method)
            if self.dead:
                return  # the call has failed with the others
            outcome = Outcome(getattr(self.target, call.method)(*values))
        except Exception as error:
            outcome = Outcome(error=error)
        self.on_answer(self, call.method)
        if self.dead:
            return
        self.calls.popleft()
        self._end(call, outcome)
        if self.calls:
            self._begin()

    def _fail_all(self) -> None:
        while self.calls:
            self._end(self.calls.popleft(), Outcome(error=self.dead))

    def _end(self, call: Call, outcome: Outcome) -> None:
        self._note("ended", call, outcome.error)
        call.outcome.set_result(outcome)

    def _note(self, what: Literal["asked", "ended"], call: Call, error: Exception | None = None) -> None:
        self.events.append(Event(what, self.name, call.method, self.loop.time(), error))


# ------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class PlayerFailure:
    """Ends one life of a player: the first of its failures the first life, and so on.

    Args:
        player: its number, taken modulo the number of players.
        dies: at a moment, `at` ticks after it was made; otherwise its collect number `at` raises.
        at: when.
    """

    player: int
    dies: bool
    at: int


@dataclass(frozen=True)
class ShardDeath:
    """Ends one life of a shard: the first of its deaths the first life, and so on.

    Args:
        shard: its number, taken modulo the number of shards.
        when: `time`, `at` ticks after it was made; else in its call number `at`, before that is carried out (`call`)
            or after (`answer`).
        at: when.
    """

    shard: int
    when: Literal["time", "call", "answer"]
    at: int


@dataclass(frozen=True)
class Trouble:
    """Lets the learner or the buffer fail in call number `at` of a method, for good if it dies."""

    actor: Literal["buffer", "learner"]
    method: str
    dies: bool
    at: int


@dataclass(frozen=True)
class Delays:
    """Ticks that calls take: each actor goes through its tuple again and again."""

    player: tuple[int, ...] = (1,)
    buffer: tuple[int, ...] = (1,)
    learner: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Schedule:
    """A run and all that happens to it. What isn't of the configuration:

    Args:
        envs: of a player; a fragment has `fragment_rows * envs` rows.
        end_rows: rows of fragments on which nothing was decided, gone through again and again.
        refused: whether a fragment is refused, gone through again and again.
        chunk_steps: gradient steps whose batches are as many bytes as a chunk may have.
        keeps_buffer: whether a checkpoint has the buffer in it.
        delays: how long calls take.
        failures: of players.
        shard_deaths: of shards.
        trouble: of learner or buffer.
        stop_after: calls carried out by all actors before the run is asked to stop.
    """

    data: OnPolicy | OffPolicy
    players: int = 1
    shards: int = 1
    fragment_rows: int = 1
    envs: int = 1
    total_steps: int = 1
    max_staleness: int = 0
    prefetch: int = 0
    max_failures: int = 0
    log_every: int = 10
    checkpoint_every: int | None = None
    eval_every: int | None = None
    eval_episodes: int = 0
    end_rows: tuple[int, ...] = (0,)
    refused: tuple[bool, ...] = (False,)
    chunk_steps: int = CHUNK_STEPS
    keeps_buffer: bool = True
    delays: Delays = field(default_factory=Delays)
    failures: tuple[PlayerFailure, ...] = ()
    shard_deaths: tuple[ShardDeath, ...] = ()
    trouble: Trouble | None = None
    stop_after: int | None = None

    @property
    def config(self) -> Config:
        """Configuration of the run."""
        return driver_config(
            self.data,
            self.total_steps,
            self.players,
            self.fragment_rows,
            self.max_staleness,
            envs=self.envs,
            prefetch=self.prefetch,
            max_failures=self.max_failures,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            eval_every=self.eval_every,
            eval_episodes=self.eval_episodes,
        )

    @property
    def round_rows(self) -> int:
        """Rows of a round."""
        return self.players * self.fragment_rows * self.envs

    @property
    def batch_size(self) -> int:
        """Samples that must be there to learn."""
        return self.data.batch_size if isinstance(self.data, OffPolicy) else 1

    def is_refused(self, player: int, incarnation: int, sequence: int) -> bool:
        """Whether the replay doesn't take a fragment."""
        return self.refused[(2 * player + incarnation + sequence) % len(self.refused)]

    def decided(self, player: int, incarnation: int, sequence: int) -> int:
        """Policy steps of a fragment. No more rows are end rows than every second one in each environment's stream."""
        most = (self.fragment_rows + sequence % 2) // 2 * self.envs
        ends = self.end_rows[(player + 3 * incarnation + 5 * sequence) % len(self.end_rows)]
        return self.fragment_rows * self.envs - min(ends, most)


def uniform(least: int, most: int) -> st.SearchStrategy[int]:
    """Whole numbers, each as often as any other; `st.integers` prefers the ends."""
    return st.sampled_from(range(least, most + 1))


_ticks = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
delays = st.builds(Delays, player=_ticks, buffer=_ticks, learner=_ticks)
_ratios = st.one_of(
    st.sampled_from([1.0, 0.5, 0.3, 0.7, 4.0, 0.0]),
    uniform(1, 9999).map(lambda thousandths: thousandths / 1000),
    uniform(10, 50).map(float),  # for several chunks a round
)
_failures = st.lists(
    st.builds(PlayerFailure, player=uniform(0, 4), dies=st.booleans(), at=uniform(0, 20)), max_size=5
).map(tuple)
_refused = st.lists(st.sampled_from([False, False, True]), min_size=1, max_size=7).map(tuple)


@st.composite
def schedules(draw: st.DrawFn, calm: bool = False, max_staleness: int = 3) -> Schedule:
    """Schedules of up to six full rounds.

    Args:
        draw: given by hypothesis.
        calm: without failures.
        max_staleness: the most that is drawn.
    """
    players, fragment_rows, envs = draw(uniform(1, 5)), draw(uniform(1, 6)), draw(uniform(1, 4))
    rows = players * fragment_rows * envs
    data: OnPolicy | OffPolicy
    if draw(uniform(0, 3)) == 3:
        data = OnPolicy(fragment_rows, batch_size=draw(st.integers(1, 2 * rows)), epochs=draw(st.integers(1, 3)))
    else:
        data = OffPolicy(
            batch_size=draw(st.integers(1, 2 * rows)),
            replay_ratio=draw(_ratios),
            learning_starts=draw(st.integers(0, 2 * rows)),
            fragment_rows=fragment_rows,
            writes_back=draw(st.booleans()),
        )
    # One thing at a time goes wrong in most schedules: the first one hides what the others would have done.
    kinds = ["", "failures", "failures", "refused", "all"]
    wrong = "" if calm else draw(st.sampled_from(kinds))
    on_policy = isinstance(data, OnPolicy)
    return Schedule(
        data=data,
        players=players,
        shards=1 if on_policy else draw(st.integers(1, min(players, 3))),
        fragment_rows=fragment_rows,
        envs=envs,
        total_steps=draw(uniform(1, 6 * rows)),
        max_staleness=draw(uniform(0, max_staleness)),
        prefetch=draw(st.integers(0, 3)),
        max_failures=draw(st.integers(0, 4)) if wrong == "refused" else 10,
        log_every=draw(st.integers(1, 2 * rows)),
        checkpoint_every=draw(st.none() | st.integers(1, 2 * rows)),
        eval_every=draw(st.none() | st.integers(1, 2 * rows)) if (eval_episodes := draw(st.integers(0, 2))) else None,
        eval_episodes=eval_episodes,
        end_rows=draw(st.lists(st.integers(0, 8), min_size=1, max_size=4).map(tuple)),
        refused=draw(_refused) if wrong in ("refused", "all") else (False,),
        chunk_steps=draw(st.sampled_from([CHUNK_STEPS, 17])),
        keeps_buffer=draw(st.booleans()) and not on_policy,
        delays=draw(delays),
        failures=draw(_failures) if wrong in ("failures", "all") else (),
    )


# ------------------------------------------------------------------------------------------------- stand-ins


@dataclass(frozen=True)
class Weights:
    """What the learner handed out, and what was true when it did.

    Args:
        number: of this hand-out in this leg.
        fragments: offered to the replay before, in this leg.
        policy_steps: in all fragments that it took.
        gradient_steps: that the learner had taken.
        ready: whether the replay could serve a batch.
        losses: shards that had been replaced.
        stopping: whether the run had been asked to stop.
    """

    number: int
    fragments: int
    policy_steps: int
    gradient_steps: int
    ready: bool
    losses: int
    stopping: bool


@dataclass(frozen=True)
class Played:
    """A fragment."""

    player: int
    incarnation: int
    sequence: int
    version: int
    mode: str
    policy_steps: int
    rows: int
    progress: float
    weights: Weights


@dataclass(frozen=True)
class Offer:
    """A fragment that was offered to a shard, which took or refused it, and could say so."""

    fragment: Played
    shard: int
    incarnation: int
    refused: bool


@dataclass(frozen=True)
class Block:
    """What a shard sampled.

    Args:
        shard: which.
        incarnation: of that shard.
        number: of the block in this life.
        batches: how many batches were asked for, 0 if it was a part of some.
        samples: how many samples these are.
        progress: with which they were asked for.
        fragments: offered to all shards by then.
    """

    shard: int
    incarnation: int
    number: int
    batches: int
    samples: int
    progress: float
    fragments: int


@dataclass(frozen=True)
class Update:
    """Gradient steps that were taken with blocks."""

    blocks: tuple[Block, ...]
    steps: int
    progress: float
    order: int | None


@dataclass(frozen=True)
class Writes:
    """What an update gave, to be written back."""

    update: int


class StandInPlayer:
    """Plays fragments in which some rows are end rows."""

    def __init__(self, schedule: Schedule, number: int, incarnation: int) -> None:
        self.schedule, self.number, self.incarnation = schedule, number, incarnation
        self.sequence = 0

    def collect(
        self,
        rows: int,
        weights: Weights,
        version: int,
        mode: str,
        progress: float,
        keep_state: bool,
        unsaved: str | None,
    ) -> tuple[FragmentInfo, Played]:
        assert rows == self.schedule.fragment_rows
        steps = self.schedule.decided(self.number, self.incarnation, self.sequence)
        total = rows * self.schedule.envs
        played = Played(self.number, self.incarnation, self.sequence, version, mode, steps, total, progress, weights)
        self.sequence += 1
        returns, lengths = ((1.0,), (steps,)) if steps < total else ((), ())
        state = self.state() if keep_state else None
        return FragmentInfo(version, steps, total, returns, lengths, seconds=1.0, state=state), played

    def state(self) -> bytes:
        return str(self.sequence).encode()

    def load(self, state: bytes) -> bool:
        self.sequence = int(state)
        return True

    def evaluate(self, weights: Weights, episodes: int) -> Evaluation:
        assert isinstance(weights, Weights)
        return Evaluation(0.0, 0.0, [0.0] * episodes, [1] * episodes)


class StandInReplay:
    """Everything that happened to the shards, in all their lives."""

    def __init__(self, schedule: Schedule, rows: list[int], policy_steps: int) -> None:
        self.schedule, self.policy_steps_before = schedule, policy_steps
        self.offered: list[Offer] = []
        self.lives: list[StandInShard] = []
        self.newest = [self.make(number, 0, stored) for number, stored in enumerate(rows)]

    def make(self, number: int, incarnation: int, rows: int = 0) -> StandInShard:
        """A shard; from now on it is the one of that number."""
        shard = StandInShard(self, number, incarnation, rows)
        self.lives.append(shard)
        if incarnation:
            self.newest[number] = shard
        return shard

    @property
    def taken(self) -> list[Offer]:
        return [offer for offer in self.offered if not offer.refused]

    @property
    def policy_steps(self) -> int:
        return self.policy_steps_before + sum(offer.fragment.policy_steps for offer in self.taken)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.newest)

    @property
    def ready(self) -> bool:
        return self.rows >= self.schedule.batch_size

    @property
    def losses(self) -> int:
        return len(self.lives) - self.schedule.shards


class StandInShard:
    """Writes down what is added and sampled, in `log`. Its total priority grows with what is written back."""

    def __init__(self, replay: StandInReplay, number: int, incarnation: int, rows: int) -> None:
        self.replay, self.schedule = replay, replay.schedule
        self.number, self.incarnation, self.rows = number, incarnation, rows
        self.log: list[Played | Block | Writes] = []
        self.sampled = self.written = 0

    def status(self) -> BufferStatus:
        sample_bytes = CHUNK_BYTES // (self.schedule.batch_size * self.schedule.chunk_steps)
        total_priority = float(self.rows + self.written)
        return BufferStatus(self.rows, self.rows, total_priority, sample_bytes if self.rows else 0, added=self.rows)

    def add(self, fragment: Played) -> BufferStatus:
        refused = self.schedule.is_refused(fragment.player, fragment.incarnation, fragment.sequence)
        self.replay.offered.append(Offer(fragment, self.number, self.incarnation, refused))
        if refused:
            raise RefusedFragmentError(f"fragment {fragment.sequence} of player {fragment.player} doesn't fit")
        self.log.append(fragment)
        self.rows += fragment.rows
        return self.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, Block]:
        assert self.schedule.shards == 1
        assert self.rows >= self.schedule.batch_size, "a batch was asked of a replay that can't serve it"
        return self.draw(n_batches, n_batches * self.schedule.batch_size, progress)

    def sample_part(self, count: int, progress: float) -> tuple[int, Block]:
        assert self.schedule.shards > 1
        assert self.rows, "samples were asked of a shard that is empty"
        return self.draw(0, count, progress)

    def draw(self, batches: int, samples: int, progress: float) -> tuple[int, Block]:
        fragments = len(self.replay.offered)
        block = Block(self.number, self.incarnation, self.sampled, batches, samples, progress, fragments)
        self.sampled += 1
        self.log.append(block)
        return samples, block

    def write_back(self, writes: Writes) -> BufferStatus:
        self.log.append(writes)
        self.written += 1
        return self.status()

    def save(self, folder: str) -> BufferStatus:
        return self.status()

    def restore(self, folder: str | None) -> BufferStatus:
        return self.status()


class StandInLearner:
    """Counts gradient steps, and writes down what they were taken with."""

    def __init__(self, gradient_steps: int, look: Callable[[int, int], Weights]) -> None:
        self.gradient_steps = gradient_steps
        self.look = look
        self.log: list[Update | Weights] = []
        self.published: list[Weights] = []
        self.updates = 0
        self.failed = False

    def update(self, steps: int, progress: float, order: int | None, *blocks: Block) -> tuple[UpdateInfo, Writes]:
        if self.failed:
            raise FailedError("a loss is not finite")
        self.gradient_steps += steps
        self.log.append(Update(blocks, steps, progress, order))
        self.updates += 1
        began = asyncio.get_running_loop().time() - 1.0  # true where its calls take one tick
        info = UpdateInfo(self.gradient_steps, {"Loss/policy_loss": 1.0}, seconds=1.0, began=began)
        return info, Writes(self.updates - 1)

    def weights(self) -> tuple[int, Weights]:
        weights = self.look(len(self.published), self.gradient_steps)
        self.published.append(weights)
        self.log.append(weights)
        return self.gradient_steps, weights

    def snapshot(self) -> tuple[int, int]:
        return self.gradient_steps, self.gradient_steps

    def restore(self, data: int) -> int:
        self.gradient_steps = data
        return data


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Args:
        counters: those that it keeps; their gradient steps are the learner's own.
        counted: gradient steps as the run had counted them.
        rows: in each shard, None if these weren't kept.
        streams: of all fragments that have ever been added.
    """

    counters: Counters
    counted: int
    rows: list[int] | None
    streams: frozenset[tuple[int, int]]
    stats: dict[str, Any]
    players: Mapping[int, PlayerState]


class StandInKeeper:
    """Keeps checkpoints in a list."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.checkpoints: list[Checkpoint] = []

    @property
    def keeps_buffer(self) -> bool:
        return self.world.schedule.keeps_buffer

    @property
    def newest_buffer(self) -> str | None:
        return None

    def begin(self, policy_steps: int) -> str:
        return "folder"

    def abandon(self, folder: str) -> None:
        """Nothing is there."""

    async def finish(
        self, folder: str, stats: dict[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        counters = Counters(**copy.deepcopy(stats["counters"]))
        rows = [shard.rows for shard in self.world.buffer.newest] if self.keeps_buffer else None
        checkpoint = Checkpoint(
            counters, counters.gradient_steps, rows, self.world.streams, copy.deepcopy(stats), dict(players)
        )
        self.checkpoints.append(checkpoint)


class RecordingReporter:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.lines: list[tuple[int, Mapping[str, float]]] = []
        self.messages: list[tuple[str, str]] = []

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, values))

    def message(self, text: str, level: str = "info") -> None:
        self.messages.append((level, text))

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Not of interest here."""

    def close(self) -> None:
        """Nothing is open."""


# ----------------------------------------------------------------------------------------------- simulation


class World:
    """Everything that a run finds around it, and what has happened to it.

    Args:
        schedule: what is to happen.
        checkpoint: what the leg goes on from.
    """

    def __init__(self, schedule: Schedule, checkpoint: Checkpoint | None = None) -> None:
        self.schedule = schedule
        self.events: list[Event] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self.troubled_at: str | None = None  # method that the trouble struck
        self.players: list[SimulatedHandle] = []
        self.before = checkpoint.streams if checkpoint else frozenset()
        counters = copy.deepcopy(checkpoint.counters) if checkpoint else Counters()
        self.began_at = copy.deepcopy(counters)
        rows = checkpoint.rows if checkpoint else None
        self.buffer = StandInReplay(schedule, rows or [0] * schedule.shards, counters.policy_steps)
        self.shards: list[SimulatedHandle] = []
        self.learner = StandInLearner(counters.gradient_steps, self.weights)
        self.store = StandInKeeper(self)
        self.reporter = RecordingReporter()
        clock = VirtualClock()
        stats = (
            RunStats.from_state_dict(copy.deepcopy(checkpoint.stats), clock.time())
            if checkpoint
            else RunStats(counters, 0.0)
        )
        kept = checkpoint.players if checkpoint and (rows or not schedule.data.is_off_policy) else {}
        self.run = Run(
            schedule.config,
            PlayerGroup(schedule.players, self.make_player, stats.counters.incarnations, kept),
            ReplayClient(
                [self.shard_handle(shard) for shard in self.buffer.newest], schedule.batch_size, 0, self.make_shard
            ),
            LearnerGroup(self.handle("learner", self.learner, schedule.delays.learner)),
            self.reporter,
            self.store,
            stats,
            clock,
        )

    @property
    def streams(self) -> frozenset[tuple[int, int]]:
        """(player, incarnation) of all fragments that have ever been offered."""
        fragments = [offer.fragment for offer in self.buffer.offered]
        return self.before | {(each.player, each.incarnation) for each in fragments}

    def weights(self, number: int, gradient_steps: int) -> Weights:
        """What the learner hands out now."""
        buffer, stopping = self.buffer, self.run.stopping.is_set()
        fragments = len(buffer.offered)
        return Weights(number, fragments, buffer.policy_steps, gradient_steps, buffer.ready, buffer.losses, stopping)

    def make_shard(self, number: int, incarnation: int) -> SimulatedHandle:
        """A shard that takes the place of one that was lost."""
        return self.shard_handle(self.buffer.make(number, incarnation))

    def shard_handle(self, shard: StandInShard) -> SimulatedHandle:
        """A handle of a shard, which dies when the schedule says so."""
        handle = self.handle(f"shard {shard.number}", shard, _turned(self.schedule.delays.buffer, shard.number))
        self.shards.append(handle)
        deaths = [each for each in self.schedule.shard_deaths if each.shard % self.schedule.shards == shard.number]
        if shard.incarnation < len(deaths):
            self.let_die(handle, deaths[shard.incarnation])
        return handle

    def let_die(self, handle: SimulatedHandle, death: ShardDeath) -> None:
        """Give a shard's life its end."""
        error = DiedError(f"{handle.name} died")
        if death.when == "time":
            handle.loop.call_later(death.at, handle.die, error)
            return
        on_call, number = handle.on_call, iter(range(death.at + 1))

        def die(handle: SimulatedHandle, method: str) -> None:
            if next(number, None) == death.at:
                handle.die(error)
                if death.when == "answer" and method == "add":
                    self.buffer.offered.pop()  # it happened, but nobody has heard of it

        def die_before(handle: SimulatedHandle, method: str) -> None:
            on_call(handle, method)
            die(handle, method)

        if death.when == "call":
            handle.on_call = die_before
        else:
            handle.on_answer = die

    def make_player(self, number: int, incarnation: int) -> SimulatedHandle:
        """A player, which fails when the schedule says so."""
        player = StandInPlayer(self.schedule, number, incarnation)
        handle = self.handle(f"player {number}", player, _turned(self.schedule.delays.player, number))
        lives = sum(other.name == handle.name for other in self.players)
        self.players.append(handle)
        ends = [each for each in self.schedule.failures if each.player % self.schedule.players == number]
        if lives < len(ends):
            self.let_fail(handle, ends[lives])
        return handle

    def let_fail(self, handle: SimulatedHandle, failure: PlayerFailure) -> None:
        """Give a player's life its end."""
        if failure.dies:
            handle.loop.call_later(failure.at, handle.die, DiedError(f"{handle.name} died"))
            return
        on_call, sequence = handle.on_call, iter(range(failure.at + 1))

        def fail(handle: SimulatedHandle, method: str) -> None:
            on_call(handle, method)
            if method == "collect" and next(sequence, None) == failure.at:
                raise FailedError(f"the environment of {handle.name} raised")

        handle.on_call = fail

    def handle(self, name: str, target: Any, ticks: tuple[int, ...]) -> SimulatedHandle:
        """A handle whose calls take `ticks`, over and over."""
        endless = cycle(ticks)
        return SimulatedHandle(name, target, lambda: float(next(endless)), self.events, self.on_call)

    def on_call(self, handle: SimulatedHandle, method: str) -> None:
        """Stop the run, or let buffer or learner fail, when it is time."""
        actor = "buffer" if handle in self.shards else handle.name
        kind = "sample" if method == "sample_part" else method
        self.calls[actor, kind] += 1
        if self.schedule.stop_after is not None and self.calls.total() > self.schedule.stop_after:
            self.run.stop()
        trouble, number = self.schedule.trouble, self.calls[actor, kind] - 1
        if trouble and (trouble.actor, trouble.method, trouble.at) == (actor, kind, number):
            if trouble.dies:
                handle.die(DiedError(f"the {actor} died"))
                if actor == "learner" or not self.schedule.data.is_off_policy:
                    self.troubled_at = kind
                return
            self.troubled_at = kind
            if method == "update":  # fails halfway, and goes on failing
                self.learner.gradient_steps += 1
                self.learner.failed = True
            raise FailedError(f"the {actor} raised in {method}")


def _turned(ticks: tuple[int, ...], by: int) -> tuple[int, ...]:
    """The same ticks, begun at another one."""
    return ticks[by % len(ticks) :] + ticks[: by % len(ticks)]


@dataclass(frozen=True)
class Leg:
    """A run from its start, or from a checkpoint, to its end.

    Args:
        world: all that happened.
        outcome: how it ended.
        error: why it failed.
    """

    world: World
    outcome: Literal["done", "stopped", "failed"]
    error: RunFailedError | None = None


def simulate(schedule: Schedule, checkpoint: Checkpoint | None = None) -> Leg:
    """Run a schedule.

    Args:
        schedule: the run and what happens to it.
        checkpoint: where to go on from.

    Raises:
        StuckError: it can't come to an end.
    """

    async def main() -> Leg:
        world = World(schedule, checkpoint)
        try:
            await world.run.train()
        except RunFailedError as error:
            return Leg(world, "failed", error)
        return Leg(world, "stopped" if world.run.stopping.is_set() else "done")

    return run_virtually(main)
