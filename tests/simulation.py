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

from sheeprl.actors.fragment import BufferStatus, FragmentInfo, UpdateInfo
from sheeprl.actors.handle import Every, Handle
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.evaluate import Evaluation
from sheeprl.report import Progress
from sheeprl.run import Counters, Plan, Run, RunFailedError

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


class DiedError(RuntimeError):
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
    """

    def __init__(
        self,
        name: str,
        target: Any,
        delay: Callable[[], float],
        events: list[Event],
        on_call: Callable[[SimulatedHandle, str], None] = lambda handle, method: None,
    ) -> None:
        self.name, self.target, self.delay, self.events, self.on_call = name, target, delay, events, on_call
        self.loop = asyncio.get_running_loop()
        self.calls: deque[Call] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.dead: Exception | None = None
        self.closed = False

    def call(self, method: str, *args: Any) -> SimulatedRef:
        refs = tuple(arg.ref if isinstance(arg, Every) else arg for arg in args)
        call = Call(method, refs, self.loop.create_future())
        self._note("asked", call)
        self.calls.append(call)
        if self.dead is not None:
            self._fail_all()
        elif len(self.calls) == 1:
            self._begin()
        return SimulatedRef(call.outcome)

    def call_pair(self, method: str, *args: Any) -> tuple[SimulatedRef, SimulatedRef]:
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
    """A run and all that happens to it. What isn't of the plan:

    Args:
        envs: of a player; a fragment has `fragment_rows * envs` rows.
        end_rows: rows of fragments on which nothing was decided, gone through again and again.
        ready_rows: rows with which the buffer can serve a sample.
        keeps_buffer: whether a checkpoint has the buffer in it.
        delays: how long calls take.
        failures: of players.
        trouble: of learner or buffer.
        stop_after: calls carried out by all actors before the run is asked to stop.
        resume_from: which checkpoint a later leg goes on from, counted from the last one.
    """

    data: OnPolicy | OffPolicy
    players: int = 1
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
    ready_rows: int = 0
    keeps_buffer: bool = True
    delays: Delays = field(default_factory=Delays)
    failures: tuple[PlayerFailure, ...] = ()
    trouble: Trouble | None = None
    stop_after: int | None = None
    resume_from: int = 0

    @property
    def plan(self) -> Plan:
        """What the run is told."""
        return Plan(
            data=self.data,
            total_steps=self.total_steps,
            players=self.players,
            fragment_rows=self.fragment_rows,
            max_staleness=self.max_staleness,
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
_methods = [("learner", name) for name in ("update", "weights", "save")]
_methods += [("buffer", name) for name in ("add", "sample", "write_back", "save", "status")]
_troubles = st.builds(
    lambda method, dies, at: Trouble(*method, dies, at), st.sampled_from(_methods), st.booleans(), uniform(0, 4)
)


@st.composite
def schedules(draw: st.DrawFn, calm: bool = False, max_staleness: int = 3) -> Schedule:
    """Schedules of up to six full rounds.

    Args:
        draw: given by hypothesis.
        calm: without failures and stops.
        max_staleness: the most that is drawn.
    """
    players, fragment_rows, envs = draw(uniform(1, 5)), draw(uniform(1, 6)), draw(uniform(1, 4))
    rows = players * fragment_rows * envs
    data: OnPolicy | OffPolicy
    if draw(uniform(0, 3)) == 3:
        data = OnPolicy(fragment_rows, batch_size=draw(st.integers(1, 2 * rows)), epochs=draw(st.integers(1, 3)))
    else:
        data = OffPolicy(
            batch_size=4,
            replay_ratio=draw(_ratios),
            learning_starts=draw(st.integers(0, 2 * rows)),
            fragment_rows=fragment_rows,
            writes_back=draw(st.booleans()),
        )
    # One thing at a time goes wrong in most schedules: the first one hides what the others would have done.
    wrong = "" if calm else draw(st.sampled_from(["", "failures", "stop", "failures", "stop", "trouble", "all"]))
    return Schedule(
        data=data,
        players=players,
        fragment_rows=fragment_rows,
        envs=envs,
        total_steps=draw(uniform(1, 6 * rows)),
        max_staleness=draw(uniform(0, max_staleness)),
        prefetch=draw(st.integers(0, 3)),
        max_failures=draw(st.integers(0, 4)),
        log_every=draw(st.integers(1, 2 * rows)),
        checkpoint_every=draw(st.none() | st.integers(1, 2 * rows)),
        eval_every=draw(st.none() | st.integers(1, 2 * rows)) if (eval_episodes := draw(st.integers(0, 2))) else None,
        eval_episodes=eval_episodes,
        end_rows=draw(st.lists(st.integers(0, 8), min_size=1, max_size=4).map(tuple)),
        ready_rows=0 if isinstance(data, OnPolicy) else draw(st.integers(0, 2 * rows)),
        keeps_buffer=draw(st.booleans()) and isinstance(data, OffPolicy),
        delays=draw(delays),
        failures=draw(_failures) if wrong in ("failures", "all") else (),
        trouble=draw(_troubles) if wrong in ("trouble", "all") else None,
        stop_after=draw(uniform(0, 60)) if wrong in ("stop", "all") else None,
        resume_from=draw(st.integers(0, 3)),
    )


# ------------------------------------------------------------------------------------------------- stand-ins


@dataclass(frozen=True)
class Weights:
    """What the learner handed out, and what was true when it did.

    Args:
        number: of this hand-out in this leg.
        fragments: added before, in this leg.
        policy_steps: in all fragments added.
        gradient_steps: that the learner had taken.
        ready: whether the buffer could serve a sample.
        stopping: whether the run had been asked to stop.
    """

    number: int
    fragments: int
    policy_steps: int
    gradient_steps: int
    ready: bool
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
class Block:
    """Batches that were sampled: their number in this leg, how many were asked for, what had been added by then."""

    number: int
    asked: int
    fragments: int
    policy_steps: int


@dataclass(frozen=True)
class Update:
    """Gradient steps that were taken with a block."""

    block: Block
    steps: int
    progress: float


@dataclass(frozen=True)
class Writes:
    """What an update gave, to be written back."""

    block: int


class StandInPlayer:
    """Plays fragments in which some rows are end rows."""

    def __init__(self, schedule: Schedule, number: int, incarnation: int) -> None:
        self.schedule, self.number, self.incarnation = schedule, number, incarnation
        self.sequence = 0

    def collect(
        self, rows: int, weights: Weights, version: int, mode: str, progress: float
    ) -> tuple[FragmentInfo, Played]:
        assert rows == self.schedule.fragment_rows
        steps = self.schedule.decided(self.number, self.incarnation, self.sequence)
        total = rows * self.schedule.envs
        played = Played(self.number, self.incarnation, self.sequence, version, mode, steps, total, progress, weights)
        self.sequence += 1
        returns, lengths = ((1.0,), (steps,)) if steps < total else ((), ())
        return FragmentInfo(version, steps, total, returns, lengths, seconds=1.0), played

    def evaluate(self, weights: Weights, episodes: int) -> Evaluation:
        assert isinstance(weights, Weights)
        return Evaluation(0.0, 0.0, [0.0] * episodes, [1] * episodes)


class StandInBuffer:
    """Writes down what is added and sampled, in `log`."""

    def __init__(self, schedule: Schedule, rows: int, policy_steps: int) -> None:
        self.schedule, self.rows, self.policy_steps = schedule, rows, policy_steps
        self.added: list[Played] = []
        self.log: list[Played | Block | Writes] = []
        self.sampled = 0

    @property
    def ready(self) -> bool:
        return self.rows >= max(1, self.schedule.ready_rows)

    def status(self) -> BufferStatus:
        return BufferStatus(self.rows, self.ready)

    def add(self, fragment: Played) -> BufferStatus:
        self.added.append(fragment)
        self.log.append(fragment)
        self.rows += fragment.rows
        self.policy_steps += fragment.policy_steps
        return self.status()

    def sample(self, n_batches: int) -> Block:
        if not self.ready:
            raise AssertionError("a sample was asked of a buffer that isn't ready")
        block = Block(self.sampled, n_batches, len(self.added), self.policy_steps)
        self.sampled += 1
        self.log.append(block)
        return block

    def write_back(self, writes: Writes) -> int:
        self.log.append(writes)
        return 0

    def save(self) -> int:
        return self.rows


class StandInLearner:
    """Counts gradient steps, and writes down what they were taken with."""

    def __init__(self, gradient_steps: int, look: Callable[[int, int], Weights]) -> None:
        self.gradient_steps = gradient_steps
        self.look = look
        self.log: list[Update | Weights] = []
        self.published: list[Weights] = []
        self.failed = False

    def update(self, block: Block, steps: int, progress: float) -> tuple[UpdateInfo, Writes]:
        if self.failed:
            raise FailedError("a loss is not finite")
        self.gradient_steps += steps
        self.log.append(Update(block, steps, progress))
        return UpdateInfo(self.gradient_steps, {"Loss/policy_loss": 1.0}, seconds=1.0), Writes(block.number)

    def weights(self) -> tuple[int, Weights]:
        weights = self.look(len(self.published), self.gradient_steps)
        self.published.append(weights)
        self.log.append(weights)
        return self.gradient_steps, weights

    def save(self) -> int:
        return self.gradient_steps


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Args:
        counters: those that it keeps; their gradient steps are the learner's own.
        counted: gradient steps as the run had counted them.
        rows: in the buffer, None if it wasn't kept.
        streams: of all fragments that have ever been added.
    """

    counters: Counters
    counted: int
    rows: int | None
    streams: frozenset[tuple[int, int]]


class StandInKeeper:
    """Keeps checkpoints in a list."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.checkpoints: list[Checkpoint] = []

    async def save(self, counters: Counters, learner: Handle, buffer: Handle) -> None:
        counted = counters.gradient_steps
        counters.gradient_steps = await learner.call("save")
        rows = await buffer.call("save") if self.world.schedule.keeps_buffer else None
        self.checkpoints.append(Checkpoint(copy.deepcopy(counters), counted, rows, self.world.streams))


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
        self.buffer = StandInBuffer(schedule, (checkpoint.rows or 0) if checkpoint else 0, counters.policy_steps)
        self.learner = StandInLearner(counters.gradient_steps, self.weights)
        self.keeper = StandInKeeper(self)
        self.reporter = RecordingReporter()
        self.run = Run(
            schedule.plan,
            self.make_player,
            self.handle("buffer", self.buffer, schedule.delays.buffer),
            self.handle("learner", self.learner, schedule.delays.learner),
            self.reporter,
            self.keeper,
            counters,
            VirtualClock(),
        )

    @property
    def streams(self) -> frozenset[tuple[int, int]]:
        """(player, incarnation) of all fragments that have ever been added."""
        return self.before | {(each.player, each.incarnation) for each in self.buffer.added}

    def weights(self, number: int, gradient_steps: int) -> Weights:
        """What the learner hands out now."""
        buffer, stopping = self.buffer, self.run.stopping.is_set()
        return Weights(number, len(buffer.added), buffer.policy_steps, gradient_steps, buffer.ready, stopping)

    def make_player(self, number: int, incarnation: int) -> SimulatedHandle:
        """A player, which fails when the schedule says so."""
        ticks = self.schedule.delays.player
        player = StandInPlayer(self.schedule, number, incarnation)
        handle = self.handle(f"player {number}", player, ticks[number % len(ticks) :] + ticks[: number % len(ticks)])
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
        self.calls[handle.name, method] += 1
        if self.schedule.stop_after is not None and self.calls.total() > self.schedule.stop_after:
            self.run.stop()
        trouble, number = self.schedule.trouble, self.calls[handle.name, method] - 1
        if trouble and (trouble.actor, trouble.method, trouble.at) == (handle.name, method, number):
            self.troubled_at = method
            if trouble.dies:
                handle.die(DiedError(f"the {handle.name} died"))
                return
            if method == "update":  # fails halfway, and goes on failing
                self.learner.gradient_steps += 1
                self.learner.failed = True
            raise FailedError(f"the {handle.name} raised in {method}")


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
