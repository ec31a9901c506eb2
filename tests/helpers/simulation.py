"""Simulate a run: virtual time, and fakes of players, buffer and learner that record every call.

`simulate(schedule)` drives an unchanged `sheeprl.run.Run` and returns a `Leg`, which holds everything that happened.
The same schedule always gives the same leg. A run that can't continue raises `StuckError` instead of hanging.

The fakes give Ray's guarantees. An actor runs its calls in the order in which they were requested. A call waits for the
references among its arguments and fails with their error. Calls to a dead actor fail, including pending ones.
"""

from __future__ import annotations

import asyncio
import copy
import selectors
import zlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from itertools import chain, cycle
from typing import Any, Literal, NamedTuple, TypeVar

from hypothesis import strategies as st

from sheeprl.actors.evaluation import Evaluation
from sheeprl.actors.handle import AllRanks, DataLostError, Handle, LostError, own_ref
from sheeprl.actors.host import Host
from sheeprl.actors.hosts import HostGroup
from sheeprl.actors.messages import BufferStatus, FragmentInfo, UpdateInfo
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.buffer.fragments import FragmentOrder, RefusedFragmentError
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerGroup, PlayerState
from sheeprl.driver.replay import ReplayClient
from sheeprl.driver.trainers import LearnerGroup, Snapshot
from sheeprl.driver.updates import CHUNK_BYTES, CHUNK_STEPS
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.display import Progress
from sheeprl.run import Run
from sheeprl.utils.errors import RunFailedError
from tests.helpers.driver_config import driver_config

T = TypeVar("T")
MAX_TURNS = 200_000  # turns of the event loop, more than any schedule needs

# ---------------------------------------------------------------------------------------------- virtual time


class StuckError(AssertionError):
    """Raised when no event is pending and the program isn't done, or when it never ends."""


class VirtualSelector(selectors.SelectSelector):
    """Selector that advances the time instead of waiting."""

    def __init__(self) -> None:
        """Start at time 0."""
        super().__init__()
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Advance the time to the next event."""
        self.turns += 1
        if timeout is None:
            raise StuckError(f"deadlock at {self.now}: all tasks wait and no event is pending")
        if self.turns > MAX_TURNS:
            raise StuckError(f"no end after {MAX_TURNS} turns, at {self.now}")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop whose time advances only when no task is ready."""

    def __init__(self) -> None:
        """Use a virtual selector."""
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.selector.now


class VirtualClock:
    """Clock of the run in a virtual loop."""

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return asyncio.get_running_loop().time()


def run_virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` in virtual time and return its result.

    Raises:
        StuckError: it never ends.
    """
    loop = VirtualLoop()

    async def end_the_rest() -> None:
        """Cancel all other tasks and wait for them."""
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
    """Raised by calls to an actor that is dead."""


class FailedError(RuntimeError):
    """Raised by an actor's method."""


class Outcome(NamedTuple):
    """Result or error of a call."""

    value: Any = None
    error: Exception | None = None


class SimulatedRef:
    """Result of a simulated call, or one part of it. Parts after the first are lost with the node of the actor."""

    def __init__(
        self, outcome: asyncio.Future[Outcome], half: int | None = None, actor: SimulatedHandle | None = None
    ) -> None:
        """Store the outcome of the call, and the actor that holds the part."""
        self.outcome, self.half, self.actor = outcome, half, actor

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result."""
        yield from asyncio.shield(self.outcome).__await__()  # a cancelled wait doesn't cancel the call
        return self.get()

    def get(self) -> Any:
        """Return the value or raise the error of a finished call."""
        if self.half and self.actor is not None and getattr(self.actor.dead, "with_node", False):
            raise DataLostError("the result was on a lost node")
        value, error = self.outcome.result()
        if error is not None:
            raise error
        return value if self.half is None else value[self.half]


class Event(NamedTuple):
    """Request or end of a call."""

    what: Literal["requested", "ended"]
    actor: str
    method: str
    time: float
    error: Exception | None = None


@dataclass
class Call:
    """Call that an actor has to run."""

    method: str
    args: tuple[Any, ...]
    outcome: asyncio.Future[Outcome]


class SimulatedHandle:
    """Actor that runs the methods of `target`, each after a delay.

    Args:
        name: name in `events`.
        target: object whose methods are called.
        delay: returns the duration of the next call.
        events: list to which requests and ends of calls are appended.
        on_call: called just before a call runs; may raise in its place, or call `die`.
        on_answer: called after a call has run; may call `die`, so that the result is lost.
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
        """Start without calls."""
        self.name, self.target, self.delay, self.events = name, target, delay, events
        self.on_call, self.on_answer = on_call, on_answer
        self.loop = asyncio.get_running_loop()
        self.calls: deque[Call] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.dead: Exception | None = None
        self.closed = False

    def call(self, method: Callable[..., Any], *args: Any) -> SimulatedRef:
        """Request a call."""
        refs = tuple(arg.ref if isinstance(arg, AllRanks) else own_ref(arg) for arg in args)
        call = Call(method.__name__, refs, self.loop.create_future())
        self._note("requested", call)
        self.calls.append(call)
        if self.dead is not None:
            self._fail_all()
        elif len(self.calls) == 1:
            self._begin()
        return SimulatedRef(call.outcome)

    def call_pair(self, method: Callable[..., Any], *args: Any) -> tuple[SimulatedRef, SimulatedRef]:
        """Request a call that returns a pair."""
        first, second = self.call_parts(method, 2, *args)
        return first, second

    def call_parts(self, method: Callable[..., Any], count: int, *args: Any) -> list[SimulatedRef]:
        """Request a call that returns `count` values."""
        outcome = self.call(method, *args).outcome
        return [SimulatedRef(outcome, part, self) for part in range(count)]

    def close(self) -> None:
        """Release the actor, which fails its pending calls."""
        self.closed = True
        self.die(DiedError(f"{self.name} was closed"))

    def die(self, error: Exception) -> None:
        """Fail all pending and future calls."""
        if self.dead is None:
            self.dead = error
            if self.timer is not None:
                self.timer.cancel()
            self._fail_all()

    def _begin(self) -> None:
        """Begin the first pending call once its arguments are available."""
        for arg in self.calls[0].args:
            if isinstance(arg, SimulatedRef) and not arg.outcome.done():
                arg.outcome.add_done_callback(lambda _: None if self.dead else self._begin())
                return
        self.timer = self.loop.call_later(self.delay(), self._finish)

    def _finish(self) -> None:
        """Run the first pending call and begin the next one."""
        call = self.calls[0]
        try:
            values = [arg.get() if isinstance(arg, SimulatedRef) else arg for arg in call.args]
            self.on_call(self, call.method)
            if self.dead:
                return  # `die` has failed the call
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
        """Fail all pending calls."""
        while self.calls:
            self._end(self.calls.popleft(), Outcome(error=self.dead))

    def _end(self, call: Call, outcome: Outcome) -> None:
        """Record the end of a call and set its outcome."""
        self._note("ended", call, outcome.error)
        call.outcome.set_result(outcome)

    def _note(self, what: Literal["requested", "ended"], call: Call, error: Exception | None = None) -> None:
        """Append an event."""
        self.events.append(Event(what, self.name, call.method, self.loop.time(), error))


# ------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class PlayerFailure:
    """Failure of one incarnation of a player; the n-th failure of a player ends its n-th incarnation.

    Args:
        player: number, taken modulo the number of players.
        dies: True if the player dies `at` ticks after it was made; False if its collect number `at` raises.
        at: tick or collect number.
    """

    player: int
    dies: bool
    at: int


@dataclass(frozen=True)
class ShardDeath:
    """Death of one incarnation of a shard; the n-th death of a shard ends its n-th incarnation.

    Args:
        shard: number, taken modulo the number of shards.
        when: `time`: `at` ticks after it was made; `call` or `answer`: before or after call number `at` runs.
        at: tick or call number.
    """

    shard: int
    when: Literal["time", "call", "answer"]
    at: int


@dataclass(frozen=True)
class Trouble:
    """Failure of the learner or the buffer in call number `at` of a method; the actor may die."""

    actor: Literal["buffer", "learner"]
    method: str
    dies: bool
    at: int


@dataclass(frozen=True)
class Delays:
    """Durations of calls in ticks; each actor cycles through its tuple."""

    player: tuple[int, ...] = (1,)
    buffer: tuple[int, ...] = (1,)
    learner: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class FleetEvent:
    """Change of the fleet.

    Args:
        at: tick of the event.
        kind: `drain`: the node of a host is drained; `die`: a host is lost; `node`: with its node and its fragments.
        host: index among the hosts that are up, modulo their number.
    """

    at: int
    kind: Literal["drain", "die", "node"]
    host: int


@dataclass(frozen=True)
class Hosts:
    """Hosts of a simulated run.

    Args:
        least: hosts that the run starts with.
        most: hosts that the run may have.
        starts: ticks until a host is up; cycled.
        events: changes of the fleet.
    """

    least: int
    most: int
    starts: tuple[int, ...] = (0,)
    events: tuple[FleetEvent, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """Settings of a run and all its failures. Fields that aren't settings:

    Args:
        envs: environments of a player; a fragment has `fragment_rows * envs` rows.
        end_rows: rows without an action per fragment; cycled.
        refused: True for a refused fragment; cycled.
        chunk_steps: gradient steps whose batches fill the byte limit of a chunk.
        keeps_buffer: True if checkpoints contain the buffer.
        delays: durations of calls.
        failures: failures of players.
        shard_deaths: deaths of shards.
        trouble: failure of learner or buffer.
        stop_after: number of calls of all actors after which the run is stopped.
        hosts: hosts of the players; None if each player is an actor.
        slowness: factors of the durations of the players' calls; cycled over the players.
        state_seconds: time that a player reports for its state; a fragment takes a second.
        plays_differently: True for environments whose results depend on the time.
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
    hosts: Hosts | None = None
    quorum: float = 1.0
    slowness: tuple[int, ...] = (1,)
    state_seconds: float = 0.0
    plays_differently: bool = False

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
            quorum=self.quorum,
        )

    @property
    def round_rows(self) -> int:
        """Rows of a round."""
        return self.config.round_rows

    @property
    def batch_size(self) -> int:
        """Samples that the replay needs to serve a batch."""
        return self.data.batch_size if isinstance(self.data, OffPolicy) else 1

    def is_refused(self, player: int, incarnation: int, sequence: int) -> bool:
        """Return whether the replay refuses a fragment."""
        return self.refused[(2 * player + incarnation + sequence) % len(self.refused)]

    def decided(self, player: int, incarnation: int, sequence: int) -> int:
        """Return the policy steps of a fragment; at most every second row of an environment is an end row."""
        most = (self.fragment_rows + sequence % 2) // 2 * self.envs
        ends = self.end_rows[(player + 3 * incarnation + 5 * sequence) % len(self.end_rows)]
        return self.fragment_rows * self.envs - min(ends, most)


def uniform(least: int, most: int) -> st.SearchStrategy[int]:
    """Return a strategy of integers with equal frequencies; `st.integers` prefers the ends."""
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
# Of odd length: only every second fragment may have policy steps, so that a pattern of two could refuse all of them.
_refused = st.sampled_from([1, 3, 5, 7]).flatmap(
    lambda size: st.tuples(*[st.sampled_from([False, False, True])] * size)
)


@st.composite
def schedules(draw: st.DrawFn, calm: bool = False, max_staleness: int = 3) -> Schedule:
    """Draw schedules of up to six full rounds.

    Args:
        draw: passed by hypothesis.
        calm: True for schedules without failures.
        max_staleness: upper bound of the drawn staleness.
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
    # Most schedules have one kind of failure: the first failure would hide the effects of others.
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


# ----------------------------------------------------------------------------------------------------- fakes


@dataclass(frozen=True)
class Weights:
    """Weights that the learner published, with the state of the run at that time.

    Args:
        number: number of the weights in this leg.
        fragments: fragments offered to the replay in this leg.
        policy_steps: policy steps of all accepted fragments.
        gradient_steps: gradient steps of the learner.
        ready: True if the replay could serve a batch.
        losses: number of replaced shards.
        stopping: True if the run was stopping.
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
    """Fragment of a fake player; `history` depends on all requests of its incarnation until then."""

    player: int
    incarnation: int
    sequence: int
    version: int
    mode: str
    policy_steps: int
    rows: int
    progress: float
    weights: Weights
    history: int


@dataclass(frozen=True)
class Offer:
    """Fragment that was offered to a shard, which accepted or refused it."""

    fragment: Played
    shard: int
    incarnation: int
    refused: bool


@dataclass(frozen=True)
class Block:
    """Samples of a shard.

    Args:
        shard: number of the shard.
        incarnation: incarnation of the shard.
        number: number of the block in this incarnation.
        batches: requested batches; 0 for a part of batches.
        samples: number of samples.
        progress: progress of the request.
        fragments: fragments offered to all shards before.
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
    """Gradient steps taken with blocks."""

    blocks: tuple[Block, ...]
    steps: int
    progress: float
    order: int | None


@dataclass(frozen=True)
class Writes:
    """Values of an update to write back."""

    update: int


class FakePlayer:
    """Fake player whose fragments contain some end rows."""

    def __init__(self, schedule: Schedule, number: int, incarnation: int) -> None:
        """Start at the first fragment."""
        self.schedule, self.number, self.incarnation = schedule, number, incarnation
        self.sequence = self.history = 0

    def collect(
        self,
        rows: int,
        weights: Weights,
        version: int,
        mode: str,
        progress: float,
        keep_state: bool,
        unsaved: str | None,
        env_values: dict[str, Any] | None = None,
    ) -> tuple[FragmentInfo, Played]:
        """Return the next fragment."""
        assert rows == self.schedule.fragment_rows
        steps = self.schedule.decided(self.number, self.incarnation, self.sequence)
        total = rows * self.schedule.envs
        self.history = zlib.crc32(f"{version} {mode} {progress}".encode(), self.history)
        life = self.number, self.incarnation, self.sequence
        played = Played(*life, version, mode, steps, total, progress, weights, self.history)
        self.sequence += 1
        returns, lengths = ((1.0,), (steps,)) if steps < total else ((), ())
        if self.schedule.plays_differently:
            returns, lengths = (asyncio.get_running_loop().time(),), (steps,)
        state = self.state() if keep_state else None
        cost = self.schedule.state_seconds
        info = FragmentInfo(version, steps, total, returns, lengths, seconds=1.0, state=state, state_seconds=cost)
        return info, played

    def state(self) -> bytes:
        """Return the number of the next fragment and the history."""
        return f"{self.sequence} {self.history}".encode()

    def load(self, state: bytes) -> bool:
        """Restore the number of the next fragment and the history."""
        self.sequence, self.history = map(int, state.split())
        return True

    def close(self) -> None:
        """Do nothing."""

    def evaluate(self, weights: Weights, episodes: int, env_values: dict[str, Any] | None = None) -> Evaluation:
        """Return episodes without reward."""
        assert isinstance(weights, Weights)
        return Evaluation(0.0, 0.0, [0.0] * episodes, [1] * episodes)


class FakeReplay:
    """Fake replay: all shards in all their incarnations."""

    def __init__(self, schedule: Schedule, rows: list[int], policy_steps: int) -> None:
        """Make the first shards."""
        self.schedule, self.policy_steps_before = schedule, policy_steps
        self.offered: list[Offer] = []
        self.lives: list[FakeShard] = []
        self.newest = [self.make(number, 0, stored) for number, stored in enumerate(rows)]

    def make(self, number: int, incarnation: int, rows: int = 0) -> FakeShard:
        """Make a shard, which replaces the one of the same number."""
        shard = FakeShard(self, number, incarnation, rows)
        self.lives.append(shard)
        if incarnation:
            self.newest[number] = shard
        return shard

    @property
    def taken(self) -> list[Offer]:
        """Accepted offers."""
        return [offer for offer in self.offered if not offer.refused]

    @property
    def policy_steps(self) -> int:
        """Policy steps of the run that the replay accepted."""
        return self.policy_steps_before + sum(offer.fragment.policy_steps for offer in self.taken)

    @property
    def rows(self) -> int:
        """Rows in all current shards."""
        return sum(shard.rows for shard in self.newest)

    @property
    def ready(self) -> bool:
        """True if the replay can serve a batch."""
        return self.rows >= self.schedule.batch_size

    @property
    def losses(self) -> int:
        """Number of replaced shards."""
        return len(self.lives) - self.schedule.shards


class FakeShard:
    """Fake shard that records additions and samples in `log`; each write-back raises its total priority."""

    def __init__(self, replay: FakeReplay, number: int, incarnation: int, rows: int) -> None:
        """Start with `rows` rows."""
        self.replay, self.schedule = replay, replay.schedule
        self.number, self.incarnation, self.rows = number, incarnation, rows
        self.log: list[Played | Block | Writes] = []
        self.sampled = self.written = 0
        self.order = FragmentOrder()

    def status(self) -> BufferStatus:
        """Return the status."""
        sample_bytes = CHUNK_BYTES // (self.schedule.batch_size * self.schedule.chunk_steps)
        total_priority = float(self.rows + self.written)
        return BufferStatus(self.rows, self.rows, total_priority, sample_bytes if self.rows else 0, added=self.rows)

    def add(self, fragment: Played, batch: int, place: int) -> BufferStatus:
        """Record a fragment, or refuse it if the schedule says so."""
        self.order.check(batch, place)
        refused = self.schedule.is_refused(fragment.player, fragment.incarnation, fragment.sequence)
        self.replay.offered.append(Offer(fragment, self.number, self.incarnation, refused))
        if refused:
            raise RefusedFragmentError(f"fragment {fragment.sequence} of player {fragment.player} doesn't fit")
        self.log.append(fragment)
        self.rows += fragment.rows
        return self.status()

    def sample(self, n_batches: int, progress: float) -> tuple[int, Block]:
        """Record and return batches."""
        assert self.schedule.shards == 1
        assert self.rows >= self.schedule.batch_size, "a batch was requested from a replay that can't serve it"
        return self.draw(n_batches, n_batches * self.schedule.batch_size, progress)

    def sample_part(self, count: int, progress: float) -> tuple[int, Block]:
        """Record and return a part of batches."""
        assert self.schedule.shards > 1
        assert self.rows, "samples were requested from an empty shard"
        return self.draw(0, count, progress)

    def draw(self, batches: int, samples: int, progress: float) -> tuple[int, Block]:
        """Record a block; return the number of samples and the block."""
        fragments = len(self.replay.offered)
        block = Block(self.number, self.incarnation, self.sampled, batches, samples, progress, fragments)
        self.sampled += 1
        self.log.append(block)
        return samples, block

    def write_back(self, writes: Writes) -> BufferStatus:
        """Record a write-back."""
        self.log.append(writes)
        self.written += 1
        return self.status()

    def save(self, folder: str) -> BufferStatus:
        """Return the status."""
        return self.status()

    def restore(self, folder: str | None, initial: str | None = None) -> BufferStatus:
        """Return the status."""
        return self.status()


class FakeLearner:
    """Fake learner that counts gradient steps and records updates and weights in `log`."""

    def __init__(self, gradient_steps: int, look: Callable[[int, int], Weights]) -> None:
        """Start with `gradient_steps` gradient steps."""
        self.gradient_steps = gradient_steps
        self.look = look
        self.log: list[Update | Weights] = []
        self.published: list[Weights] = []
        self.updates = 0
        self.failed = False

    def update(self, steps: int, progress: float, order: int | None, *blocks: Block) -> tuple[UpdateInfo, Writes]:
        """Record gradient steps."""
        if self.failed:
            raise FailedError("a loss is not finite")
        self.gradient_steps += steps
        self.log.append(Update(blocks, steps, progress, order))
        self.updates += 1
        began = asyncio.get_running_loop().time() - 1.0  # true where its calls take one tick
        info = UpdateInfo(self.gradient_steps, {"Loss/policy_loss": 1.0}, seconds=1.0, began=began)
        return info, Writes(self.updates - 1)

    def weights(self) -> tuple[int, Weights]:
        """Record and return new weights."""
        weights = self.look(len(self.published), self.gradient_steps)
        self.published.append(weights)
        self.log.append(weights)
        return self.gradient_steps, weights

    def snapshot(self) -> tuple[int, int]:
        """Return the number of gradient steps as the state."""
        return self.gradient_steps, self.gradient_steps

    def restore(self, data: int) -> int:
        """Restore the number of gradient steps."""
        self.gradient_steps = data
        return data


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint of a simulated run.

    Args:
        counters: stored counters, with the learner's gradient steps.
        counted: gradient steps as counted by the run.
        rows: rows of each shard; None if the buffer isn't stored.
        streams: streams of all fragments that were ever added.
        stats: stored metrics.
        players: states of the players.
    """

    counters: Counters
    counted: int
    rows: list[int] | None
    streams: frozenset[tuple[int, int]]
    stats: dict[str, Any]
    players: Mapping[int, PlayerState]


class FakeStore:
    """Checkpoint store that appends checkpoints to a list."""

    def __init__(self, world: World) -> None:
        """Start without checkpoints."""
        self.world = world
        self.checkpoints: list[Checkpoint] = []

    @property
    def keeps_buffer(self) -> bool:
        """True if checkpoints contain the buffer."""
        return self.world.schedule.keeps_buffer

    @property
    def newest_buffer(self) -> str | None:
        """None: no buffer is saved."""
        return None

    def replay_place(self, folder: str) -> str:
        """Return the folder of the replay."""
        return f"{folder}/buffer"

    def begin(self, policy_steps: int) -> str:
        """Return the name of the folder."""
        return "folder"

    def abandon(self, folder: str) -> None:
        """Do nothing."""

    async def finish(
        self, folder: str, stats: dict[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Append a checkpoint."""
        counters = Counters(**copy.deepcopy(stats["counters"]))
        rows = [shard.rows for shard in self.world.buffer.newest] if self.keeps_buffer else None
        checkpoint = Checkpoint(
            counters, counters.gradient_steps, rows, self.world.streams, copy.deepcopy(stats), dict(players)
        )
        self.checkpoints.append(checkpoint)


class RecordingReporter:
    """Reporter that stores all reports."""

    def __init__(self) -> None:
        """Start without reports."""
        self.shown: list[Progress] = []
        self.lines: list[tuple[int, Mapping[str, float]]] = []
        self.messages: list[tuple[str, str]] = []

    def progress(self, progress: Progress) -> None:
        """Store the progress."""
        self.shown.append(progress)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Store a metrics line."""
        self.lines.append((step, values))

    def message(self, text: str, level: str = "info") -> None:
        """Store a message."""
        self.messages.append((level, text))

    def event(self, name: str, /, **values: float | str | None) -> None:
        """Ignore the event."""

    def close(self) -> None:
        """Do nothing."""


# ----------------------------------------------------------------------------------------------- simulation


class World:
    """Run with its simulated workers and everything that happened to them.

    Args:
        schedule: settings and failures of the run.
        checkpoint: checkpoint that the leg resumes from.
    """

    def __init__(self, schedule: Schedule, checkpoint: Checkpoint | None = None) -> None:
        """Make the workers and the run."""
        self.schedule = schedule
        self.events: list[Event] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self.troubled_at: str | None = None  # method in which the trouble occurred
        self.players: list[SimulatedHandle] = []
        self.before = checkpoint.streams if checkpoint else frozenset()
        counters = copy.deepcopy(checkpoint.counters) if checkpoint else Counters()
        self.began_at = copy.deepcopy(counters)
        rows = checkpoint.rows if checkpoint else None
        self.buffer = FakeReplay(schedule, rows or [0] * schedule.shards, counters.policy_steps)
        self.shards: list[SimulatedHandle] = []
        self.learner = FakeLearner(counters.gradient_steps, self.weights)
        self.store = FakeStore(self)
        self.reporter = RecordingReporter()
        clock = VirtualClock()
        stats = (
            RunStats.from_state_dict(copy.deepcopy(checkpoint.stats), clock.time())
            if checkpoint
            else RunStats(counters, 0.0)
        )
        self.draining: set[str] = set()
        self.hosts = self.make_hosts(schedule.hosts) if schedule.hosts else None
        states = checkpoint.players if checkpoint and (rows or not schedule.data.is_off_policy) else {}
        self.run = Run(
            schedule.config,
            PlayerGroup(schedule.players, self.make_player, stats.counters.incarnations, states),
            ReplayClient(
                [self.shard_handle(shard) for shard in self.buffer.newest], schedule.batch_size, 0, self.make_shard
            ),
            LearnerGroup(self.handle("learner", self.learner, schedule.delays.learner)),
            self.reporter,
            self.store,
            stats,
            clock,
            self.find_moves if self.hosts else None,
        )
        self.run.checkpointing.rest = 0.0  # the invariants expect a checkpoint at every due step

    @property
    def streams(self) -> frozenset[tuple[int, int]]:
        """(player, incarnation) of all fragments that were ever offered."""
        fragments = [offer.fragment for offer in self.buffer.offered]
        return self.before | {(each.player, each.incarnation) for each in fragments}

    def weights(self, number: int, gradient_steps: int) -> Weights:
        """Return the weights that the learner publishes now."""
        buffer, stopping = self.buffer, self.run.stopping.is_set()
        fragments = len(buffer.offered)
        return Weights(number, fragments, buffer.policy_steps, gradient_steps, buffer.ready, buffer.losses, stopping)

    def make_shard(self, number: int, incarnation: int) -> SimulatedHandle:
        """Make a shard that replaces a lost one."""
        return self.shard_handle(self.buffer.make(number, incarnation))

    def shard_handle(self, shard: FakeShard) -> SimulatedHandle:
        """Return the handle of a shard, with its scheduled death."""
        handle = self.handle(f"shard {shard.number}", shard, _turned(self.schedule.delays.buffer, shard.number))
        self.shards.append(handle)
        deaths = [each for each in self.schedule.shard_deaths if each.shard % self.schedule.shards == shard.number]
        if shard.incarnation < len(deaths):
            self.let_die(handle, deaths[shard.incarnation])
        return handle

    def let_die(self, handle: SimulatedHandle, death: ShardDeath) -> None:
        """Schedule the death of a shard."""
        error = DiedError(f"{handle.name} died")
        if death.when == "time":
            handle.loop.call_later(death.at, handle.die, error)
            return
        on_call, number = handle.on_call, iter(range(death.at + 1))

        def die(handle: SimulatedHandle, method: str) -> None:
            """Count a call and die in the scheduled one."""
            if next(number, None) == death.at:
                handle.die(error)
                if death.when == "answer" and method == "add":
                    self.buffer.offered.pop()  # the shard added it, but the result was lost

        def die_before(handle: SimulatedHandle, method: str) -> None:
            """Die before the scheduled call runs."""
            on_call(handle, method)
            die(handle, method)

        if death.when == "call":
            handle.on_call = die_before
        else:
            handle.on_answer = die

    def make_hosts(self, hosts: Hosts) -> HostGroup:
        """Make the hosts, and schedule the changes of the fleet."""
        ticks, loop = cycle(hosts.starts), asyncio.get_running_loop()

        def make(name: str) -> SimulatedHandle:
            """Start a host, whose first call takes until it is up."""
            host = Host(lambda number, incarnation: FakePlayer(self.schedule, number, incarnation))  # type: ignore[arg-type,return-value]
            host.node = lambda: name  # type: ignore[method-assign]
            delays = chain([next(ticks)], cycle(self.schedule.delays.player))
            return SimulatedHandle(name, host, lambda: float(next(delays)), self.events, self.on_call)

        def apply(event: FleetEvent) -> None:
            """Apply a change of the fleet."""
            if up := group.up:
                host = up[event.host % len(up)]
                if event.kind == "drain":
                    self.draining.add(host.node.result())
                else:
                    error = DiedError(f"{host.name} died", with_node=event.kind == "node")
                    host.handle.die(error)  # type: ignore[attr-defined]

        group = HostGroup(self.schedule.players, hosts.least, hosts.most, make, clock=loop.time)
        for event in hosts.events:
            loop.call_later(event.at, apply, event)
        group.start()
        return group

    async def find_moves(self, waited: float) -> dict[int, str]:
        """Return the players that have to move."""
        assert self.hosts is not None
        return self.hosts.moves(self.draining, waited)

    def make_player(self, number: int, incarnation: int) -> Handle:
        """Make a player, with its scheduled failure, or place it on a host."""
        if self.hosts is not None:
            return self.hosts.make_player(number, incarnation)
        player = FakePlayer(self.schedule, number, incarnation)
        slowness = self.schedule.slowness[number % len(self.schedule.slowness)]
        ticks = tuple(slowness * each for each in _turned(self.schedule.delays.player, number))
        handle = self.handle(f"player {number}", player, ticks)
        lives = sum(other.name == handle.name for other in self.players)
        self.players.append(handle)
        ends = [each for each in self.schedule.failures if each.player % self.schedule.players == number]
        if lives < len(ends):
            self.let_fail(handle, ends[lives])
        return handle

    def let_fail(self, handle: SimulatedHandle, failure: PlayerFailure) -> None:
        """Schedule the failure of a player."""
        if failure.dies:
            handle.loop.call_later(failure.at, handle.die, DiedError(f"{handle.name} died"))
            return
        on_call, sequence = handle.on_call, iter(range(failure.at + 1))

        def fail(handle: SimulatedHandle, method: str) -> None:
            """Raise in the scheduled collect."""
            on_call(handle, method)
            if method == "collect" and next(sequence, None) == failure.at:
                raise FailedError(f"the environment of {handle.name} raised")

        handle.on_call = fail

    def handle(self, name: str, target: Any, ticks: tuple[int, ...]) -> SimulatedHandle:
        """Return a handle whose calls take `ticks`, cycled."""
        endless = cycle(ticks)
        return SimulatedHandle(name, target, lambda: float(next(endless)), self.events, self.on_call)

    def on_call(self, handle: SimulatedHandle, method: str) -> None:
        """Stop the run, or let buffer or learner fail, at the scheduled call."""
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
            if method == "update":  # fails halfway, and in all later calls
                self.learner.gradient_steps += 1
                self.learner.failed = True
            raise FailedError(f"the {actor} raised in {method}")


def _turned(ticks: tuple[int, ...], by: int) -> tuple[int, ...]:
    """Return the ticks rotated by `by`."""
    return ticks[by % len(ticks) :] + ticks[: by % len(ticks)]


@dataclass(frozen=True)
class Leg:
    """Run from its start, or from a checkpoint, to its end.

    Args:
        world: workers and their history.
        outcome: end of the run.
        error: reason of a failed run.
    """

    world: World
    outcome: Literal["done", "stopped", "failed"]
    error: RunFailedError | None = None


def simulate(schedule: Schedule, checkpoint: Checkpoint | None = None) -> Leg:
    """Run a schedule.

    Args:
        schedule: settings and failures of the run.
        checkpoint: checkpoint to resume from.

    Raises:
        StuckError: the run never ends.
    """

    async def main() -> Leg:
        """Train and return the leg."""
        world = World(schedule, checkpoint)
        try:
            await world.run.train()
        except RunFailedError as error:
            return Leg(world, "failed", error)
        return Leg(world, "stopped" if world.run.stopping.is_set() else "done")

    return run_virtually(main)
