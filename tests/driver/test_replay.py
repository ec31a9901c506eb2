"""Compare a replay of several shards with one of a single shard, in one process, and test lost shards."""

import asyncio
import shutil
import tempfile

import numpy as np
import pytest

from sheeprl.actors.handle import LocalHandle, LocalRef, LostError
from sheeprl.actors.messages import Fragment, Write
from sheeprl.actors.replay import Replay
from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.fragments import RefusedFragmentError
from sheeprl.buffer.priorities import Prioritized
from sheeprl.buffer.samplers import Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.driver.replay import ReplayClient
from sheeprl.learning.batches import join_parts
from sheeprl.utils.errors import RunFailedError

BATCH = 8


def fragment(player, sequence, rows, first=0, incarnation=0):
    """Return rows of one environment with the observations `first`, `first + 1` and so on."""
    shape = (rows + 1, 1)
    obs = np.arange(first, first + rows + 1, dtype=np.float64).reshape(*shape, 1)
    flags = np.zeros(shape, np.bool_)
    rest = {"reward": np.zeros(shape, np.float32), "terminated": flags, "truncated": flags, "is_first": flags}
    note = np.zeros(shape, np.float32)
    return Fragment(player, incarnation, sequence, {"obs": obs, "action": obs[..., 0], "note": note, **rest})


def make(shards=1, sampler=None, capacity=1000, seed=0):
    """Return the shards and their client."""
    replays = [
        Replay(ReplayBuffer(capacity, sampler or Transitions(), seed + number), BATCH, number, shards)
        for number in range(shards)
    ]
    return replays, ReplayClient([LocalHandle(replay) for replay in replays], BATCH, seed)


def add(shards, *fragments):
    """Add fragments; return the error of each."""
    return asyncio.run(shards.add([(each.player, LocalRef(each)) for each in fragments]))


def sample(shards, steps, first=0):
    """Return the batches that the learner makes of the blocks, and the chunk."""
    chunk = shards.request(first, steps, progress=0.0)
    assert asyncio.run(shards.wait_for(chunk))
    blocks = [ref.get() for ref in chunk.blocks]
    return (blocks[0] if chunk.order is None else join_parts(blocks, chunk.order, steps)), chunk


def test_players_are_distributed_over_the_shards():
    """Players are distributed over the shards."""
    replays, shards = make(3)
    add(shards, *(fragment(player, 0, rows=player + 1) for player in range(5)))
    assert [len(replay.buffer) for replay in replays] == [1 + 4, 2 + 5, 3]
    assert (shards.size, shards.available, shards.is_ready) == (15, 15, True)
    assert shards.batch_bytes == BATCH * replays[0].buffer.sample_bytes


@pytest.mark.parametrize("sampler", [Transitions(), Sequences(3), Sequences(3, context=True)])
def test_batches_have_the_shapes_of_one_buffer(sampler):
    """Batches of several shards have the shapes of one buffer's."""
    blocks = []
    for count in (1, 2):
        _, shards = make(count, sampler)
        add(shards, fragment(0, 0, rows=30), fragment(1, 0, rows=20, first=100))
        blocks.append(sample(shards, steps=4)[0])
    one, several = blocks
    assert {name: (v.shape, v.dtype) for name, v in one.items()} == {
        name: (v.shape, v.dtype) for name, v in several.items()
    }
    if isinstance(sampler, Sequences):
        steps = np.diff(several["obs"][..., 0], axis=1)  # rows of a sequence stay together and in order
        assert (steps[:, int(sampler.context) :] == 1).all() and (steps >= 0).all()
        own = several["index"] // 2 + 100 * (several["index"] % 2)  # observations of player 1 in shard 1 start at 100
        assert (several["obs"][..., 0] == own).all()


# Fixed bounds that a chi-square statistic exceeds once in a thousand times.
CHI_SQUARE_0_999 = {59: 98.3, 7: 24.3}


def chi_square(counts):
    """Return the chi-square statistic of equal frequencies."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("shards", [1, 3])
def test_samples_are_uniform_over_shards_of_different_sizes(shards):
    """Samples are uniform over shards of different sizes."""
    _, replay = make(shards)
    add(replay, fragment(0, 0, 48), fragment(1, 0, 1, first=48), fragment(2, 0, 11, first=49))
    drawn = np.concatenate([sample(replay, 16, first)[0]["obs"].flatten() for first in range(0, 16 * 60, 16)])
    assert chi_square(np.bincount(drawn.astype(int), minlength=60)) < CHI_SQUARE_0_999[59]


def test_each_position_of_a_batch_samples_from_all_shards():
    """Each position of a batch samples from all shards alike."""
    # How often the small shard serves a place doesn't depend on the place.
    _, replay = make(2)
    add(replay, fragment(0, 0, 60), fragment(1, 0, 20, first=60))
    drawn = np.concatenate([sample(replay, 4, first)[0]["obs"][..., 0] for first in range(0, 4 * 250, 4)])
    by_place = (drawn >= 60).sum(axis=0)  # [BATCH]
    assert by_place.sum() / drawn.size == pytest.approx(0.25, abs=0.02)
    # Each count is binomial, with a variance of 0.75 times its mean.
    assert chi_square(by_place) / 0.75 < CHI_SQUARE_0_999[7]


def test_samples_per_shard_have_the_variance_of_independent_draws():
    """A shard's number of samples per batch has the variance of independent draws."""
    _, replay = make(2)
    add(replay, fragment(0, 0, 60), fragment(1, 0, 60, first=60))
    drawn = np.concatenate([sample(replay, 4, first)[0]["obs"][..., 0] for first in range(0, 4 * 250, 4)])
    counts = (drawn >= 60).sum(axis=1)
    assert counts.var() == pytest.approx(BATCH / 4, rel=0.2)
    assert np.corrcoef(counts[:-1], counts[1:])[0, 1] == pytest.approx(0, abs=0.12)


def test_the_gradient_step_determines_the_samples():
    """The gradient step determines the samples."""
    drawn = []
    for first in (0, 64, 0):
        _, replay = make(2)
        add(replay, fragment(0, 0, 60), fragment(1, 0, 20, first=60))
        drawn.append(sample(replay, 4, first)[0]["obs"])
    assert (drawn[0] == drawn[2]).all()
    assert (drawn[0] != drawn[1]).any()


def test_ranks_write_step_by_step():
    """Of two ranks that write to a row, the one with the later gradient step wins."""
    (replay,), shards = make()
    add(shards, fragment(0, 0, 30))
    one, other = (
        [Write(np.array([number]), {"note": np.full(1, value, np.float32)}) for number, value in writes]
        for writes in ([(3, 1.0), (5, 4.0)], [(5, 2.0), (3, 3.0)])
    )
    replay.write_back(one, other)
    assert replay.buffer.storage.rows["note"][[3, 5]].tolist() == [3.0, 4.0]
    replay.write_back(other, one)
    assert replay.buffer.storage.rows["note"][[3, 5]].tolist() == [3.0, 4.0]


def test_values_are_written_to_the_owning_shard():
    """Values are written to the shard that owns the row."""
    replays, shards = make(3)
    add(shards, fragment(0, 0, 30), fragment(1, 0, 30, first=100), fragment(2, 0, 30, first=200))
    block, chunk = sample(shards, steps=1)
    writes = [Write(block["index"][0], {"note": block["obs"][0, :, 0].astype(np.float32)})]
    asyncio.run(shards.write_back(chunk, LocalRef(writes)))
    noted = np.concatenate([replay.buffer.storage.rows["note"][:30] for replay in replays])
    obs = np.concatenate([replay.buffer.storage.rows["obs"][:30, 0] for replay in replays])
    drawn = np.isin(obs, block["obs"])
    assert (noted[drawn] == obs[drawn]).all() and not noted[~drawn].any()
    assert shards.counts["late_writes"] == 0


class Remembering(ReplayBuffer):
    """Records the priorities that it receives; their sum is its total priority."""

    given = ()

    @property
    def total_priority(self):
        """Sum of the priorities."""
        return 10.0 * len(self.given) + 1.0

    def update_priorities(self, index, priorities):
        """Record priorities."""
        self.given += tuple(zip(index.tolist(), priorities.tolist(), strict=True))


@pytest.mark.parametrize("sampler", [Transitions(), Sequences(3)])
def test_priorities_belong_to_the_last_row(sampler):
    """Priorities are written for the last row of a sample."""
    buffers = [Remembering(100, sampler, number, prioritized=Prioritized()) for number in range(2)]
    replays = [Replay(buffer, BATCH, number, 2) for number, buffer in enumerate(buffers)]
    shards = ReplayClient([LocalHandle(replay) for replay in replays], BATCH)
    add(shards, fragment(0, 0, 30), fragment(1, 0, 30, first=100))
    block, chunk = sample(shards, steps=1)
    last = block["obs"][0, ..., 0].reshape(-1, BATCH)[-1]
    asyncio.run(shards.write_back(chunk, LocalRef([Write(block["index"][0], {}, priority=last)])))
    for number, replay in enumerate(replays):
        assert replay.buffer.given
        assert all(priority == index + 100 * number for index, priority in replay.buffer.given)
    assert sum(len(replay.buffer.given) for replay in replays) == BATCH
    assert [status.total_priority for status in shards.statuses] == [replay.buffer.total_priority for replay in replays]


def test_samples_follow_the_priorities_of_all_shards():
    """Samples follow the priorities of all shards."""
    prioritized = Prioritized(alpha=1.0, beta=1.0)
    buffers = [ReplayBuffer(1000, seed=number, prioritized=prioritized) for number in range(2)]
    shards = ReplayClient(
        [LocalHandle(Replay(buffer, BATCH, number, 2)) for number, buffer in enumerate(buffers)], BATCH
    )
    add(shards, fragment(0, 0, 40), fragment(1, 0, 20, first=40))
    rows = np.concatenate([np.arange(40) * 2, np.arange(20) * 2 + 1])  # numbered as in `index`
    _, chunk = sample(shards, steps=4)
    priority = 1.0 + np.arange(60) % 3
    asyncio.run(shards.write_back(chunk, LocalRef([Write(rows, {}, priority)])))
    blocks = [sample(shards, 16, first)[0] for first in range(4, 4 + 16 * 60, 16)]
    drawn = np.concatenate([block["obs"].flatten() for block in blocks]).astype(int)
    expected = priority / priority.sum() * len(drawn)
    assert float(((np.bincount(drawn, minlength=60) - expected) ** 2 / expected).sum()) < CHI_SQUARE_0_999[59]
    importance = np.concatenate([block["importance"].flatten() for block in blocks])
    assert np.ptp(importance * priority[drawn]) < 1e-6  # one scale for all shards


def test_late_writes_are_counted():
    """Writes to overwritten rows are counted."""
    replays, shards = make(1, capacity=10)
    add(shards, fragment(0, 0, 10))
    block, chunk = sample(shards, steps=1)
    add(shards, fragment(0, 1, 10, first=10))
    asyncio.run(shards.write_back(chunk, LocalRef([Write(block["index"][0], {"note": np.ones(BATCH, np.float32)})])))
    assert shards.counts["late_writes"] == BATCH
    assert not replays[0].buffer.storage.rows["note"].any()


def test_a_refused_fragment_is_reported_and_others_are_added():
    """A refused fragment is reported and the others are added."""
    _, shards = make(2)
    bad = fragment(0, 0, 5)
    bad.rows["reward"][3] = np.nan
    refused, taken = add(shards, bad, fragment(1, 0, 5))
    assert isinstance(refused, RefusedFragmentError) and "reward is nan in row 3" in str(refused)
    assert taken is None and shards.size == 5
    assert add(shards, fragment(0, 1, 5), fragment(1, 1, 5)) == [None, None]
    assert shards.size == 15


def test_importance_of_sequences_stays_with_them():
    """Importance weights stay with their sequences."""
    rng = np.random.default_rng(0)
    parts = []
    for shard, count in enumerate((5, 7)):
        index = rng.integers(1000, size=(1, 3, count)) * 2 + shard
        parts.append({"index": index, "importance": index[:, -1].astype(np.float32)})
    block = join_parts(parts, order=1, n_batches=4)
    assert block["index"].shape == (4, 3, 3) and block["importance"].shape == (4, 3)
    assert (block["importance"] == block["index"][:, -1]).all()


# ------------------------------------------------------------------------------------------------------ losses


class Mortal(LocalHandle):
    """Handle whose calls fail once `alive` is false."""

    alive = True

    def call(self, method, *args):
        """Call the object or fail."""
        return super().call(method, *args) if self.alive else LocalRef(error=LostError("it died"))


def make_mortal(count, on_loss=None):
    """Return mortal shards, their client and the replaced shards."""
    made = []

    def make_shard(number, incarnation):
        """Make a shard that replaces a lost one."""
        made.append((number, incarnation))
        return Mortal(Replay(ReplayBuffer(1000, seed=number), BATCH, number, count))

    shards = ReplayClient([make_shard(number, 0) for number in range(count)], BATCH, 0, make_shard)
    made.clear()
    if on_loss is not None:
        shards.on_loss = on_loss
    return shards, made


def test_other_shards_sample_the_part_of_a_lost_one():
    """Other shards sample the part of a lost one."""
    losses = []
    shards, made = make_mortal(3, lambda number, error: losses.append((number, str(error))))
    add(shards, *(fragment(player, 0, 30, first=100 * player) for player in range(3)))
    before = shards.request(0, 4, 0.0)
    shards.handles[1].alive = False
    assert asyncio.run(shards.wait_for(before))  # sampled before the loss
    block, chunk = sample(shards, 4, first=4)
    assert losses == [(1, "it died")] and made == [(1, 1)]
    assert block["obs"].shape == (4, BATCH, 1)
    assert not ((block["obs"] >= 100) & (block["obs"] < 200)).any()
    assert {part.shard for part in chunk.parts} == {0, 2}
    assert shards.size == 60


def test_a_failed_addition_is_repeated_on_the_new_shard():
    """A fragment whose addition failed is added to the new shard."""
    shards, made = make_mortal(2, lambda number, error: None)
    add(shards, fragment(0, 0, 30), fragment(1, 0, 30))
    shards.handles[0].alive = False
    assert add(shards, *(fragment(player, 1, 30, first=30) for player in range(4))) == [None] * 4
    assert made == [(0, 1)]
    assert [status.size for status in shards.statuses] == [60, 90]  # players 0 and 2; 1 and 3
    assert shards.handles[0].target.buffer.available == 60


def test_a_chunk_is_lost_if_no_shard_can_serve_it():
    """A chunk is lost if no shard can serve it."""
    shards, _ = make_mortal(1, lambda number, error: None)
    add(shards, fragment(0, 0, 30))
    shards.handles[0].alive = False
    assert not asyncio.run(shards.wait_for(shards.request(0, 4, 0.0)))
    assert not shards.is_ready and shards.size == 0


def test_an_irreplaceable_shard_ends_the_run():
    """The loss of a shard that can't be replaced ends the run."""
    _, shards = make(2)
    shards.handles[0] = Mortal(None)
    shards.handles[0].alive = False
    with pytest.raises(RunFailedError, match="the buffer failed: it died"):
        add(shards, fragment(0, 0, 5), fragment(1, 0, 5))


def test_an_empty_new_shard_is_saved_and_loaded(tmp_path):
    """A new shard without a checkpoint is saved empty and can be loaded."""
    shards, made = make_mortal(2, lambda number, error: None)
    add(shards, fragment(0, 0, 30), fragment(1, 0, 20))
    shards.handles[0].alive = False
    asyncio.run(shards.save(str(tmp_path)))
    assert shards.added == 20
    assert made == [(0, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard_0", "shard_1"]
    restored, _ = make_mortal(2)
    asyncio.run(restored.load(str(tmp_path)))
    assert [status.size for status in restored.statuses] == [0, 20]
    assert add(restored, fragment(0, 1, 10), fragment(1, 1, 10)) == [None, None]
    assert restored.available == 40


def make_saved(tmp_path, count=2):
    """Return shards with a checkpoint and newer rows, the replaced shards and the reports of restored ones."""
    reports = []
    shards, made = make_mortal(count, lambda number, error: None)
    shards.on_back = lambda number, lost, error: reports.append((number, lost, str(error or "")))
    shards.newest_save = lambda: str(tmp_path / "saved")
    add(shards, *(fragment(player, 0, 30, first=100 * player) for player in range(count)))
    asyncio.run(shards.save(str(tmp_path / "saved")))
    add(shards, *(fragment(player, 1, 10, first=100 * player + 30) for player in range(count)))
    return shards, made, reports


def test_a_new_shard_restores_the_rows_of_the_checkpoint(tmp_path):
    """A new shard restores the rows of the checkpoint."""
    shards, made, reports = make_saved(tmp_path)
    assert shards.added == 80
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 2, 5, first=40), fragment(1, 2, 5, first=140)) == [None, None]
    assert made == [(0, 1)] and reports == [(0, 10, "")]
    assert [status.size for status in shards.statuses] == [35, 45]
    assert shards.added == 80  # and 10 more were added, and 10 lost
    storage = shards.handles[0].target.buffer.storage
    obs = storage.rows["obs"][:35, 0]
    assert obs.tolist() == [*range(30), *range(40, 45)]
    after = storage.get("obs", storage.follow(np.arange(35)))[:, 0]
    assert (after == obs + 1).all()  # no sequence spans the lost rows


def test_a_new_shard_without_a_checkpoint_begins_with_the_rows_of_the_other_run(tmp_path):
    """Rows that the run began with aren't lost with a shard."""
    make_saved(tmp_path)
    shards, made = make_mortal(2, lambda number, error: None)
    asyncio.run(shards.add_initial(str(tmp_path / "saved")))
    before = [status.size for status in shards.statuses]
    assert before == [30, 30] and shards.added == 60
    add(shards, fragment(0, 0, 5), fragment(1, 0, 5))
    reports = []
    shards.on_back = lambda number, lost, error: reports.append((number, lost, error))
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 1, 5), fragment(1, 1, 5)) == [None, None]
    assert made == [(0, 1)] and reports == [(0, 5, None)]
    assert [status.size for status in shards.statuses] == [35, 40]


def test_a_new_shard_is_empty_if_the_rows_of_the_other_run_are_gone(tmp_path):
    """Lost initial rows are reported and don't end the run."""
    make_saved(tmp_path)
    shards, made = make_mortal(1, lambda number, error: None)
    asyncio.run(shards.add_initial(str(tmp_path / "saved")))
    shutil.rmtree(tmp_path / "saved")
    reports = []
    shards.on_back = lambda number, lost, error: reports.append((number, lost, str(error)))
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 0, 5)) == [None]
    assert made == [(0, 1), (0, 2)] and shards.size == 5
    assert [(number, lost) for number, lost, _ in reports] == [(0, 60)] and "contains no shard" in reports[0][2]


def test_pending_samples_come_from_the_restored_shard(tmp_path):
    """Pending samples of a lost shard come from the restored one."""
    shards, made, reports = make_saved(tmp_path, count=1)
    shards.handles[0].alive = False
    chunk = shards.request(0, 4, 0.0)
    assert asyncio.run(shards.wait_for(chunk))
    assert made == [(0, 1)] and reports == [(0, 10, "")]
    assert {part.handle for part in chunk.parts} == {shards.handles[0]}
    assert chunk.order is None and [ref.get()["obs"].shape for ref in chunk.blocks] == [(4, BATCH, 1)]
    assert shards.size == 30


def test_a_restored_shard_has_a_new_generator(tmp_path):
    """A restored shard has a new generator."""
    drawn = []
    for dies in (False, True):
        shards, *_ = make_saved(tmp_path / str(dies), count=1)
        shards.handles[0].alive = not dies
        asyncio.run(shards.save(str(tmp_path / f"again_{dies}")))
        drawn.append(sample(shards, 4)[0]["obs"])
    assert (drawn[0] != drawn[1]).any()


def test_a_damaged_checkpoint_is_reported_and_the_shard_starts_empty(tmp_path):
    """A damaged checkpoint is reported and the shard starts empty."""
    shards, made, reports = make_saved(tmp_path)
    damaged = next((tmp_path / "saved" / "shard_0").glob("*.bin"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 2, 5), fragment(1, 2, 5)) == [None, None]
    assert made == [(0, 1), (0, 2)]
    assert [(number, lost) for number, lost, _ in reports] == [(0, 40)] and damaged.name in reports[0][2]
    assert [status.size for status in shards.statuses] == [5, 45]


def test_the_newer_checkpoint_is_restored_if_the_older_is_deleted(tmp_path):
    """A shard restores the newer checkpoint if the older one was deleted."""
    shards, made, reports = make_saved(tmp_path)
    asyncio.run(shards.save(str(tmp_path / "newer")))
    answers = [str(tmp_path / "removed"), str(tmp_path / "newer")]
    shards.newest_save = lambda: answers.pop(0) if len(answers) > 1 else answers[0]
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 2, 5), fragment(1, 2, 5)) == [None, None]
    assert made == [(0, 1), (0, 2)] and reports == [(0, 0, "")]


def test_counts_of_a_lost_shard_count_once(tmp_path):
    """Counts of a lost shard count once."""
    shards, *_ = make_saved(tmp_path)
    add(shards, fragment(0, 1, 10))  # a second time
    asyncio.run(shards.save(str(tmp_path / "later")))
    shards.newest_save = lambda: str(tmp_path / "later")
    add(shards, fragment(0, 1, 10))
    assert shards.counts["repeated"] == 2
    shards.handles[0].alive = False
    add(shards, fragment(0, 2, 5))
    assert shards.counts["repeated"] == 2


def test_a_replacement_that_dies_is_restored(tmp_path):
    """A replacement that dies is restored as well."""
    shards, made, reports = make_saved(tmp_path)
    make_shard = shards.make_shard

    def make_shard_that_dies_first(number, incarnation):
        """Make a shard that dies if it is the first."""
        made_now = make_shard(number, incarnation)
        made_now.alive = incarnation != 1
        return made_now

    shards.make_shard = make_shard_that_dies_first
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 2, 5), fragment(1, 2, 5)) == [None, None]
    assert made == [(0, 1), (0, 2)] and reports == [(0, 10, "")]
    assert [status.size for status in shards.statuses] == [35, 45]


def test_a_mapped_shard_recovers_all_rows_without_a_checkpoint(tmp_path):
    """A memory-mapped shard recovers all rows without a checkpoint."""
    made = []

    def make_shard(number, incarnation):
        """Make a memory-mapped shard."""
        if made:
            made[-1].buffer.close()
            buffer = ReplayBuffer.attach(tmp_path / "mapped", 1000, seed=incarnation)
        else:
            buffer = ReplayBuffer(1000, memmap=tmp_path / "mapped")
        made.append(Replay(buffer, BATCH, number, 1))
        return Mortal(made[-1])

    shards, reports = ReplayClient([make_shard(0, 0)], BATCH, 0, make_shard), []
    shards.on_loss = lambda number, error: None
    shards.on_back = lambda number, lost, error: reports.append(lost)
    add(shards, fragment(0, 0, 30))
    asyncio.run(shards.save(str(tmp_path / "saved")))
    shards.newest_save = lambda: str(tmp_path / "saved")
    add(shards, fragment(0, 1, 30, first=30))
    shards.handles[0].alive = False
    assert add(shards, fragment(0, 2, 30, first=60)) == [None]
    assert reports == [0] and shards.size == shards.added == 90
    assert made[-1].buffer.available == 90  # one stream throughout


def test_a_slow_save_does_not_hide_later_additions():
    """A slow save doesn't hide later additions to other shards."""

    class Slow(LocalHandle):
        """Handle that saves only once `may_answer` is set."""

        def call(self, method, *args):
            """Call the shard; delay a save."""
            ref = super().call(method, *args)
            return asyncio.ensure_future(self.later(ref)) if method.__name__ == "save" else ref

        async def later(self, ref):
            """Return the result once `may_answer` is set."""
            await self.may_answer.wait()
            return await ref

    async def main(folder):
        """Save and add at the same time."""
        replays, _ = make(2)
        slow = Slow(replays[0])
        slow.may_answer = asyncio.Event()
        shards = ReplayClient([slow, LocalHandle(replays[1])], BATCH)
        await shards.add([(0, LocalRef(fragment(0, 0, 30))), (1, LocalRef(fragment(1, 0, 20)))])
        saving = asyncio.ensure_future(shards.save(folder))
        await asyncio.sleep(0)
        await shards.add([(0, LocalRef(fragment(0, 1, 30))), (1, LocalRef(fragment(1, 1, 20)))])
        slow.may_answer.set()
        await saving
        return [status.size for status in shards.statuses]

    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(main(folder)) == [60, 40]


def test_shards_of_ranks_are_ready_once_each_is():
    """The shards of ranks are ready once each one is."""
    replays, parts = make(2)
    together = ReplayClient(parts.handles, BATCH, together=parts.handles[0])
    add(together, fragment(0, 0, 30), fragment(1, 0, 3))
    assert together.available == 6 and not together.is_ready
    add(together, fragment(0, 1, 1), fragment(1, 1, 1))
    assert together.is_ready
    assert sum(len(replay.buffer) for replay in replays) == together.size == 35
    chunk = together.request(0, 2, 0.0)
    assert chunk.order is None and len(chunk.parts) == 1
