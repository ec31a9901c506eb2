"""Stateful tests of the buffer against a model, in memory and memory-mapped."""

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tensordict import TensorDict

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.episodes import Episodes
from sheeprl.buffer.priorities import MIN_PRIORITY, Prioritized
from sheeprl.buffer.replay_buffer import Counts
from sheeprl.buffer.samplers import NStep, Transitions
from sheeprl.buffer.sequences import Sequences
from sheeprl.buffer.storage import NotEnoughDataError
from sheeprl.buffer.tensordicts import flatten
from tests.helpers.buffer_faults import BEGUN, NOTHING, STAGES, add_and_die
from tests.helpers.buffer_model import (
    Model,
    Player,
    check_equal,
    check_rows,
    columns_of,
    encode,
    encode_transitions,
    one_of_each,
)

EXAMPLES = 40
PLAYERS = 6
DRAWS = 1000  # misses one of 40 samples with a probability of 1e-9
ENDINGS = st.sampled_from([None] * 6 + ["terminated", "truncated"])
ALPHA = {"prioritized": 0.5, "prioritized sequences": 1.0}


def envs_of(player):
    """Return the number of environments of a player."""
    return player % 3 + 1


@dataclass
class State:
    """Expected state of the buffers, as far as saves contain it."""

    model: Model
    counts: Counts = field(default_factory=Counts)
    leaves: dict = field(default_factory=lambda: {kind: {} for kind in ALPHA})  # priority^alpha by arrival number
    highest: dict = field(default_factory=lambda: dict.fromkeys(ALPHA, 1.0))
    late_priorities: dict = field(default_factory=lambda: dict.fromkeys(ALPHA, 0))


def restore_first_rows(rows):
    """Check that sequences whose context row is their own first row begin an episode; restore the stored flag."""
    first, repeated = rows["is_first"], rows["index"][:, 0] == rows["index"][:, 1]
    assert first[:, 1][repeated].all()
    first[:, 1] = np.where(repeated, first[:, 0], first[:, 1])


class BuffersAgainstModel(RuleBasedStateMachine):
    """Buffers with different samplers and the same data."""

    mapped = False

    def __init__(self):
        """Draw the configuration and create an empty buffer and model."""
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.made = 0
        self.saves = []  # folder and state of each save
        self.states = []  # state_dict of each buffer, and state
        self.patches = [
            mock.patch("sheeprl.buffer.dirty.CHUNK_BYTES", 32),
            mock.patch("sheeprl.buffer.storage.RECORDS", 3),
            mock.patch("sheeprl.buffer.sum_tree.TOP", 4),
        ]
        for patch in self.patches:
            patch.start()

    def teardown(self):
        """Undo the patches and remove the folder."""
        for patch in self.patches:
            patch.stop()
        shutil.rmtree(self.folder)

    @initialize(
        capacity=st.integers(18, 40),
        length=st.integers(1, 4),
        context=st.booleans(),
        crosses=st.booleans(),
        part=st.sampled_from([None, 1, 2, 3]),
        prioritize_ends=st.booleans(),
    )
    def start(self, capacity, length, context, crosses, part, prioritize_ends):
        """Create the buffers and the model."""
        self.state = State(Model(capacity))
        self.samplers = {
            "steps": Transitions(),
            "within": Sequences(length, context, crosses=False),
            "episodes": Episodes(part, prioritize_ends and part is not None),
            "prioritized": Transitions(),
            "prioritized sequences": Sequences(length, context, crosses),
        }
        self.buffers = self.new_buffers(self.mapped)
        self.sampled = {kind: np.zeros(0, np.int64) for kind in self.samplers}

    @property
    def model(self):
        """Return the model."""
        return self.state.model

    def new_buffers(self, mapped):
        """Return a new buffer for each sampler."""
        self.made += 1
        return {
            kind: ReplayBuffer(
                self.model.capacity,
                sampler,
                self.made,
                prioritized=Prioritized(ALPHA[kind]) if kind in ALPHA else None,
                memmap=self.folder / f"memory_{self.made}" / kind if mapped else None,
            )
            for kind, sampler in self.samplers.items()
        }

    def attach_buffers(self):
        """Attach the files of all buffers, as a new process does."""
        self.made += 1
        for kind, buffer in self.buffers.items():
            folder = buffer.storage.memory.folder
            buffer.close()
            self.buffers[kind] = ReplayBuffer.attach(
                folder,
                self.model.capacity,
                self.samplers[kind],
                self.made,
                prioritized=Prioritized(ALPHA[kind]) if kind in ALPHA else None,
            )
        state = self.state
        state.counts = Counts()
        state.late_priorities = dict.fromkeys(ALPHA, 0)
        for kind in ALPHA:
            leaves = [leaf for number, leaf in state.leaves[kind].items() if number in self.model.stored]
            state.highest[kind] = max(leaves, default=0.0) or 1.0

    # -------------------------------------------------------------------------------------------- adding

    def draw_fragment(self, player, rows, data):
        """Draw a fragment of a player."""
        count = 2 * (rows + 1) * envs_of(player)
        return self.model.fragment(envs_of(player), data.draw(st.lists(ENDINGS, min_size=count, max_size=count)))

    def expect_added(self, player, fragment, sequence, gap):
        """Add a fragment to the expected state."""
        model, begin = self.model, len(self.model.arrivals)
        model.add(player, fragment, gap)
        self.state.counts.gaps += gap and model.players[player].sequence > 0
        model.players[player].sequence = sequence + 1
        for number in range(begin, len(model.arrivals)):
            for kind in ALPHA:
                has_priority = kind == "prioritized sequences" or not model.row(number).is_last
                self.state.leaves[kind][number] = self.state.highest[kind] if has_priority else 0.0

    @rule(
        player=st.integers(0, PLAYERS - 1),
        rows=st.integers(1, 6),
        lost=st.sampled_from([0, 0, 0, 0, 1, 3]),
        data=st.data(),
    )
    def add(self, player, rows, lost, data):
        """Add a fragment after `lost` lost ones."""
        player_state = self.model.players.setdefault(player, Player())
        fragment = self.draw_fragment(player, rows, data)
        given = encode(fragment)
        sequence = player_state.sequence + lost
        number = None if not lost and data.draw(st.booleans()) else sequence
        for buffer in self.buffers.values():
            assert buffer.add(given, (player, player_state.incarnation), number)
        for values in given.values(include_nested=True, leaves_only=True):
            values.fill_(1)  # the buffers must hold copies
        self.expect_added(player, fragment, sequence, lost > 0)

    @rule(player=st.integers(0, PLAYERS - 1))
    def restart(self, player):
        """Begin a new incarnation of a player."""
        player_state = self.model.players.setdefault(player, Player())
        player_state.incarnation, player_state.begun, player_state.sequence = player_state.incarnation + 1, 0, 0

    @rule(player=st.integers(0, PLAYERS - 1), number=st.integers(0, 8), incarnation=st.integers(0, 3))
    def add_outdated_fragment(self, player, number, incarnation):
        """Add fragments that were added before or belong to a replaced incarnation."""
        fragment = encode(Model(1).fragment(envs_of(player), [None] * 4 * envs_of(player)))
        player_state = self.model.players.get(player, Player())
        if number < player_state.sequence:
            self.add_ignored(fragment, (player, player_state.incarnation), number)
        if incarnation < player_state.incarnation and player_state.sequence:  # replaced
            self.add_ignored(fragment, (player, incarnation), number)
            self.add_ignored(fragment, (player, incarnation), None)

    def add_ignored(self, fragment, stream, number):
        """Add a fragment that all buffers ignore."""
        self.state.counts.repeated += 1
        for buffer in self.buffers.values():
            assert not buffer.add(fragment, stream, number)

    # ------------------------------------------------------------------------------------- kills and saves

    @precondition(lambda self: self.mapped and self.model.arrivals)
    @rule()
    def attach(self):
        """Attach all buffers."""
        self.attach_buffers()

    @precondition(lambda self: self.mapped and self.model.arrivals)
    @rule(
        player=st.integers(0, PLAYERS - 1),
        rows=st.integers(1, 6),
        stage=st.sampled_from(list(STAGES)),
        lost=st.sampled_from([0, 0, 1]),
        data=st.data(),
    )
    def die_while_adding(self, player, rows, stage, lost, data):
        """Interrupt `add` at a stage and attach all buffers."""
        player_state = self.model.players.setdefault(player, Player())
        fragment = self.draw_fragment(player, rows, data)
        given, sequence = flatten(encode(fragment)), player_state.sequence + lost
        died = [
            add_and_die(buffer, given, (player, player_state.incarnation), sequence, stage)
            for buffer in self.buffers.values()
        ]
        assert len(set(died)) == 1
        if died[0] and STAGES[stage][0] == BEGUN:
            self.model.leave_gap(rows * envs_of(player))
        elif not died[0] or STAGES[stage][0] != NOTHING:
            self.expect_added(player, fragment, sequence, lost > 0)
        self.attach_buffers()

    @rule(deleted=st.integers(0, 2), moved=st.booleans())
    def save(self, deleted, moved):
        """Save all buffers, possibly move the folder, and remove the oldest saves."""
        self.made += 1
        folder = self.folder / f"save_{self.made}"
        for kind, buffer in self.buffers.items():
            buffer.save(folder / kind)
        if moved:
            folder = folder.rename(self.folder / f"moved_{self.made}")
        self.saves.append((folder, copy.deepcopy(self.state)))
        for old, _ in self.saves[:deleted]:
            shutil.rmtree(old)
        self.saves = self.saves[deleted:]
        if not self.saves:
            return
        restored = self.new_buffers(mapped=False)
        for kind, buffer in restored.items():
            buffer.load(folder / kind)
            self.check_same_draws(kind, buffer)

    @rule()
    def take_state_dict(self):
        """Store the state of all buffers and restore it into new ones."""
        self.states.append(
            ({kind: buffer.state_dict() for kind, buffer in self.buffers.items()}, copy.deepcopy(self.state))
        )
        restored = self.new_buffers(mapped=False)
        for kind, buffer in restored.items():
            buffer.load_state_dict(self.states[-1][0][kind])
            self.check_same_draws(kind, buffer)

    def check_same_draws(self, kind, restored):
        """Assert that a restored buffer draws the same samples."""
        buffer = self.buffers[kind]
        assert buffer.available == restored.available
        if buffer.available:
            drawn, expected = restored.draw(3, 5), buffer.draw(3, 5)
            assert drawn.keys() == expected.keys()
            assert all(np.array_equal(drawn[name], expected[name]) for name in drawn)

    @precondition(lambda self: self.saves)
    @rule(fresh=st.booleans(), which=st.integers(0, 9))
    def load(self, fresh, which):
        """Load a save into the buffers, or into new ones."""
        folder, state = self.saves[which % len(self.saves)]
        self.prepare_to_load(fresh, state)
        for kind, buffer in self.buffers.items():
            buffer.load(folder / kind)

    @precondition(lambda self: self.states)
    @rule(fresh=st.booleans(), which=st.integers(0, 9))
    def load_state_dict(self, fresh, which):
        """Load a state into the buffers, or into new ones."""
        states, state = self.states[which % len(self.states)]
        self.prepare_to_load(fresh, state)
        for kind, buffer in self.buffers.items():
            buffer.load_state_dict(states[kind])

    def prepare_to_load(self, fresh, state):
        """Restore the expected state, and create new buffers if `fresh` is True."""
        self.state = copy.deepcopy(state)
        if fresh:
            for buffer in self.buffers.values():
                buffer.close()
            self.buffers = self.new_buffers(self.mapped)
        self.sampled = {kind: np.zeros(0, np.int64) for kind in self.samplers}

    # ------------------------------------------------------------------------------------------- writing

    @rule()
    def sample(self):
        """Sample rows for later writes."""
        for kind, buffer in self.buffers.items():
            if buffer.available:
                self.sampled[kind] = buffer.draw(1, 15)["index"].reshape(-1)

    @precondition(lambda self: self.model.arrivals)
    @rule(kind=st.sampled_from(["steps", "episodes"]))
    def write_back(self, kind):
        """Write to sampled rows, some of which may be evicted."""
        index = self.sampled[kind]
        stored = [number for number in index.tolist() if number in self.model.stored]
        notes = np.sqrt(index + 1.5).astype(np.float32)
        values = TensorDict({"note": torch.from_numpy(notes)}, batch_size=notes.shape)
        for buffer in self.buffers.values():
            assert buffer.write_back(index, values) == len(stored)
        self.state.counts.late_writes += int((index >= 0).sum()) - len(stored)
        for number in stored:
            self.model.row(number).note = float(np.sqrt(number + 1.5).astype(np.float32))

    @precondition(lambda self: self.model.arrivals)
    @rule(kind=st.sampled_from(list(ALPHA)), data=st.data())
    def update_priorities(self, kind, data):
        """Update the priorities of sampled rows, some of which may be evicted."""
        index, state = self.sampled[kind], self.state
        given = data.draw(st.lists(st.floats(0, 8), min_size=len(index), max_size=len(index)))
        stored = [number for number in index.tolist() if number in self.model.stored]
        assert self.buffers[kind].update_priorities(index, np.array(given)) == len(stored)
        state.late_priorities[kind] += len(index) - len(stored)
        expected = np.maximum(np.array(given), MIN_PRIORITY) ** ALPHA[kind]
        for number, leaf in zip(index.tolist(), expected.tolist(), strict=True):
            if number in self.model.stored:
                state.leaves[kind][number] = leaf
                state.highest[kind] = max(state.highest[kind], leaf)

    # ------------------------------------------------------------------------------------------- invariants

    @invariant()
    def sizes_and_counts_match(self):
        """Check sizes and counts."""
        for kind, buffer in self.buffers.items():
            assert len(buffer) == len(self.model.stored)
            late = self.state.late_priorities.get(kind, 0)
            assert buffer.counts == Counts(**{**vars(self.state.counts), "late_priorities": late})

    def draw(self, kind, available):
        """Return samples of a buffer that must have `available` distinct ones, None for 0."""
        buffer = self.buffers[kind]
        assert buffer.available == available
        if not available:
            with pytest.raises(NotEnoughDataError):
                buffer.sample(1)
            return None
        rows = buffer.draw(1, DRAWS)
        if getattr(buffer.sampler, "context", False):
            restore_first_rows(rows)
        return rows

    @invariant()
    def transitions_match(self):
        """Check all transitions."""
        expected = self.model.transitions()
        if (rows := self.draw("steps", len(expected))) is not None:
            assert rows["reward"].shape == (DRAWS, 1)
            found = one_of_each(rows)
            assert found["index"].tolist() == list(expected)
            check_equal(found, encode_transitions(expected.values()))

    @invariant()
    def sequences_inside_episodes_match(self):
        """Check all sequences inside episodes."""
        sampler = self.samplers["within"]
        self.check_sequences("within", sampler, self.model.sequences(sampler.length, sampler.context, crosses=False))

    @rule(length=st.integers(1, 4), context=st.booleans())
    def sequences_match(self, length, context):
        """Check all sequences."""
        self.buffers["steps"].sampler = sampler = Sequences(length, context)
        self.check_sequences("steps", sampler, self.model.sequences(length, context))
        self.buffers["steps"].sampler = self.samplers["steps"]

    def check_sequences(self, kind, sampler, expected):
        """Assert that the sequences of a buffer are the expected ones."""
        if (rows := self.draw(kind, len(expected))) is not None:
            assert rows["reward"].shape == (DRAWS, sampler.length + sampler.context, 1)
            check_rows(self.model, rows)
            assert {column[-1]: list(column) for column in columns_of(rows)} == expected

    @rule(n=st.integers(1, 4), gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def n_step_returns_match(self, n, gamma):
        """Check all n-step returns."""
        self.buffers["steps"].sampler = NStep(n, gamma)
        expected = self.model.n_step(n, gamma)
        rows = self.draw("steps", len(expected))
        self.buffers["steps"].sampler = self.samplers["steps"]
        if rows is None:
            return
        found = one_of_each(rows)
        assert found["index"].tolist() == list(expected)
        firsts, lasts, totals, discounts = zip(*expected.values(), strict=True)
        assert np.allclose(found.pop("reward"), totals) and np.allclose(found.pop("discount"), discounts)
        expected_rows = encode_transitions(zip(firsts, lasts, strict=True))
        del expected_rows["reward"]
        check_equal(found, expected_rows)

    @invariant()
    def episodes_match(self):
        """Check all parts of complete episodes."""
        length = self.samplers["episodes"].length
        episodes = [numbers for numbers in self.model.episodes() if len(numbers) >= (length or 1)]
        parts = {
            tuple(numbers[begin : begin + (length or len(numbers))])
            for numbers in episodes
            for begin in range(len(numbers) - length + 1 if length else 1)
        }
        if (rows := self.draw("episodes", len(parts))) is None:
            return
        found = columns_of(rows)
        if length is None:
            mask = rows.pop("mask")
            assert (rows["index"] >= 0).tolist() == mask.tolist()
            assert all(not values[~mask].any() for name, values in rows.items() if name != "index")
            found = [tuple(number for number in column if number >= 0) for column in found]
            rows = {name: values[mask] for name, values in rows.items()}
        assert set(found) == parts
        check_rows(self.model, rows)

    @invariant()
    def priorities_match(self):
        """Check priorities, prioritized samples and importance weights."""
        sampler = self.samplers["prioritized sequences"]
        valid = {
            "prioritized": set(self.model.transitions()),
            "prioritized sequences": set(self.model.sequences(sampler.length, sampler.context, sampler.crosses)),
        }
        for kind in ALPHA:
            buffer, leaves, highest = self.buffers[kind], self.state.leaves[kind], self.state.highest[kind]
            if not self.model.arrivals:
                continue
            expected = [leaves.get(number, 0.0) for number in self.model.stored]
            slots = np.array(self.model.stored) % self.model.capacity
            assert buffer.priorities.tree.leaves[slots].tolist() == expected
            assert buffer.priorities.highest == highest
            assert buffer.total_priority == pytest.approx(sum(expected))
            if (rows := self.draw(kind, len(valid[kind]))) is not None:
                index = rows["index"] if kind == "prioritized" else rows["index"][:, -1]
                assert set(index.flatten().tolist()) <= valid[kind]
                importance = [leaves[number] ** -0.4 for number in index.flatten().tolist()]
                assert np.allclose(rows["importance"].flatten(), importance)
                if kind == "prioritized sequences":
                    check_rows(self.model, rows)


class MappedBuffersAgainstModel(BuffersAgainstModel):
    """Memory-mapped buffers, which kills interrupt."""

    mapped = True


for machine, examples in ((BuffersAgainstModel, EXAMPLES), (MappedBuffersAgainstModel, EXAMPLES)):
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck)
    )
TestInMemory = BuffersAgainstModel.TestCase
TestMapped = MappedBuffersAgainstModel.TestCase
