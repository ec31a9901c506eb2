"""Test that the warm-up compiles the graph of real updates and leaves the learner unchanged."""

import numpy as np
import pytest
import torch

from sheeprl.actors import warmup
from sheeprl.actors.learner import Learner
from sheeprl.actors.player import Player
from sheeprl.actors.replay import build_replay
from sheeprl.buffer.block import pack
from sheeprl.config import checks, defaults
from sheeprl.learning.compile.cache import CompiledSteps
from tests.actors.test_learner import assert_same, fabric

__all__ = ["fabric"]

pytestmark = pytest.mark.skipif(not defaults.has_compiler(), reason="there is no C++ compiler")

STEPS = 4
SMALL = {"hidden_sizes": [8]}
SAC = {**SMALL, "batch_size": 16, "learning_starts": 0}
RUNS = {
    "ppo": ({"name": "ppo", **SMALL, "rollout_steps": 8, "batch_size": 10}, "CartPole-v1", {}),
    "sac": ({"name": "sac", **SAC}, "Pendulum-v1", {}),
    "sac, shards": ({"name": "sac", **SAC}, "Pendulum-v1", {"size": 1000, "shards": 2}),
    "priorities": ({"name": "sac", **SAC, "prioritized": True, "n_step": 3}, "Pendulum-v1", {}),
    "delayed": ({"name": "td3", **SAC}, "Pendulum-v1", {}),
    "sequences": (
        {"name": "tests.helpers.toy_world_model:ToyWorldModel", "batch_size": 16},
        "tests.helpers.toy_envs:Recall-v0",
        {},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Yield the folder of the compilation cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SHEEPRL_CACHE", str(folder))
        yield folder


def checked(algo, env, buffer):
    """Return the checked configuration of a run."""
    tree = {
        "algo": algo,
        "env": {"id": env, "num_envs": 2},
        "run": {"mode": "decoupled", "total_steps": 5000},
        "players": {"num": 2},
        "buffer": buffer,
        "trainer": {"accelerator": "cpu", "threads": 1, "compile": True},
    }
    return checks.check(tree)


def real_blocks(config, spaces, learner):
    """Return `order` and blocks of an update, collected by two players and stored in the replay."""
    shards = [build_replay(config, shard, config.buffer.shards) for shard in range(config.buffer.shards)]
    _, weights = learner.weights()
    for number in range(2):
        player = Player(config, spaces, number)
        rows = config.players.fragment_rows
        for _ in range(1 if not config.algo.data().is_off_policy else 100 // rows):
            shards[number % len(shards)].add(player.collect(rows, weights, 0, "explore")[1])
    if len(shards) == 1:
        return None, [pack(shards[0].sample(STEPS, 0.0)[1]).unpack()]
    samples = STEPS * shards[0].batch_size
    return 7, [pack(shard.sample_part(samples // 2, 0.0)[1]).unpack() for shard in shards]


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(which, marks=pytest.mark.every if which in ("delayed", "priorities") else pytest.mark.slow)
        for which in RUNS
    ],
)
def test_a_warmed_up_learner_has_compiled_and_learns_the_same(fabric, monkeypatch, folder, which):
    """After a warm-up, updates don't compile and give the same parameters."""
    found = checked(*RUNS[which])
    plain, warmed_up = (Learner(found.config, found.spaces, fabric) for _ in range(2))
    made, make = [], CompiledSteps._compile
    monkeypatch.setattr(CompiledSteps, "_compile", lambda self, *args: made.append(self) or make(self, *args))
    before, stored = warmed_up.snapshot()[1], len(list(folder.rglob("*.pt2")))
    warmed_up.warm_up()
    kinds = 2 if which == "delayed" else 1
    assert len(made) == kinds
    new = len(list(folder.rglob("*.pt2"))) - stored  # two shards need the same library as one
    np.testing.assert_array_equal(warmed_up.snapshot()[1], before)
    order, blocks = real_blocks(found.config, found.spaces, plain)
    (info, writes), (expected, expected_writes) = (
        learner.update(STEPS, 0.5, order, *blocks) for learner in (warmed_up, plain)
    )
    assert made == [warmed_up.compiled] * kinds + [plain.compiled] * kinds
    assert len([note for note in info.notes if "compiled the gradient step" in note]) == new
    assert (info.gradient_steps, info.metrics) == (STEPS, expected.metrics)
    assert_same(warmed_up.agent, plain.agent.state_dict())
    for write, other in zip(writes, expected_writes, strict=True):
        np.testing.assert_array_equal(write.index, other.index)
    assert torch.equal(warmed_up.group_rng.get_state(), plain.group_rng.get_state())


@pytest.mark.slow
def test_a_failed_warm_up_is_reported_and_harmless(fabric, monkeypatch):
    """A failed warm-up is reported and leaves the learner unchanged."""
    found = checked(*RUNS["sac"])
    learner = Learner(found.config, found.spaces, fabric)
    before = learner.snapshot()[1]

    def dummy_rows(config, algorithm):
        """Return rows with rewards whose squares overflow."""
        rows = make(config, algorithm)
        rows["reward"][:] = 1e30  # its square isn't a finite number
        return rows

    make = warmup.dummy_rows
    monkeypatch.setattr(warmup, "dummy_rows", dummy_rows)
    learner.warm_up()
    np.testing.assert_array_equal(learner.snapshot()[1], before)
    monkeypatch.undo()
    order, blocks = real_blocks(found.config, found.spaces, learner)
    info, _ = learner.update(STEPS, 0.5, order, *blocks)
    assert (
        "the warm-up on dummy data failed; the first update compiles gradient steps: Loss/value_loss is inf"
        in info.notes[0]
    )
    assert info.gradient_steps == STEPS
