"""Test snapshots of environments: exact restores, detection of hidden state, and damaged data."""

import importlib.util
import pickle
import random

import gymnasium
import numpy as np
import pytest
import torch

from sheeprl.actors.player import Player
from sheeprl.config.checks import check
from sheeprl.config.loading import load_config
from sheeprl.envs.capture import StateError, capture, restore
from sheeprl.envs.make import is_of_known_family, make_snapshot_env
from sheeprl.envs.snapshot_check import why_not_snapshotable
from sheeprl.models.weights import to_arrays
from sheeprl.utils import serialization
from tests.helpers import run_envs

HAS_MUJOCO = importlib.util.find_spec("mujoco") is not None
needs_mujoco = pytest.mark.skipif(not HAS_MUJOCO, reason="needs the extra mujoco")
KNOWN = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Blackjack-v1"]
KNOWN = [pytest.param(name) for name in KNOWN]
KNOWN += [pytest.param(name, marks=needs_mujoco) for name in ("HalfCheetah-v5", "Ant-v5")]


def resolved(env, *overrides):
    """Return the checked configuration of an environment."""
    algorithm = "sac" if isinstance(gymnasium.make(env).action_space, gymnasium.spaces.Box) else "ppo"
    flat = [f"env.id={env}", "trainer.threads=1", "algo.hidden_sizes=[8]", *overrides]
    return check(load_config(algorithm, flat).model_dump(mode="json"))


def player(env, *overrides, incarnation=0):
    """Return a player of an environment."""
    found = resolved(env, *overrides)
    torch.manual_seed(0)  # for equal policies
    return Player(found.config, found.spaces, 0, incarnation)


def play(some, rows):
    """Return the rows that a player collects with its current weights."""
    _, fragment = some.collect(rows, None, 0, "random")
    return fragment.rows


def assert_same(one, other):
    """Check that two fragments are equal."""
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize("name", KNOWN)
def test_snapshots_of_common_environments_are_exact(name):
    """Snapshots of common environments are exact."""
    if "Box" not in str(gymnasium.make(name).observation_space):
        env = gymnasium.make(name)
        config = load_config("ppo").env.model_copy(update={"id": name})
        assert why_not_snapshotable(lambda: make_snapshot_env(config)) == ""
        env.close()
        return
    assert player(name).unsaved == ""


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("before", [1, 13, 60])  # in an episode, around its end, later
def test_a_restored_player_collects_the_same_rows(vectorization, before):
    """A restored player collects the same rows."""
    settings = ["env.num_envs=3", f"env.vectorization={vectorization}", "env.max_episode_steps=13"]
    one, other = (player("Pendulum-v1", *settings) for _ in range(2))
    play(one, before)
    state = one.state()
    assert other.load(state)
    assert (other.sequence, other.steps) == (one.sequence, one.steps)
    for rows in (5, 30):
        assert_same(play(one, rows), play(other, rows))
    one.close()
    other.close()


def test_a_restored_native_vector_returns_the_same_rows():
    """A restored native vector returns the same rows."""
    settings = ["env.vectorization=native", "env.num_envs=4"]
    one, other = (player("CartPole-v1", *settings) for _ in range(2))
    play(one, 33)
    assert other.load(one.state())
    assert_same(play(one, 40), play(other, 40))


WORLDLY = "tests.helpers.run_envs:Worldly-v0"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_snapshot_includes_the_process_generators(vectorization):
    """A snapshot includes the process's generators."""
    settings = ["checkpoint.envs=true", "env.num_envs=2", f"env.vectorization={vectorization}"]
    one, other = (player(WORLDLY, *settings) for _ in range(2))
    assert one.unsaved == ""
    play(one, 33)
    assert other.load(one.state())
    assert_same(play(one, 40), play(other, 40))
    one.close()
    other.close()


def test_players_of_one_process_have_separate_generators():
    """Players of one process have separate generators."""
    one, other, alone = (player(WORLDLY) for _ in range(3))
    weights = to_arrays(one.policy)
    for _ in range(3):
        part, evaluated = play(one, 7), other.evaluate(weights, 2)
        play(other, 5)
        random.random(), np.random.random(), torch.rand(())
        assert_same(part, play(alone, 7))
        assert alone.evaluate(weights, 2) == evaluated


def test_collection_preserves_the_process_generators():
    """Collection doesn't change the process's generators."""
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    wanted = random.random(), np.random.random(), torch.rand(())
    one = player(WORLDLY, "checkpoint.envs=true")
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    play(one, 5)
    assert one.unsaved == ""
    assert (random.random(), np.random.random(), torch.rand(())) == wanted


def test_a_restore_replaces_the_whole_state():
    """A restore replaces the whole previous state."""
    one, other = (player("CartPole-v1", "env.num_envs=2") for _ in range(2))
    play(one, 21)
    play(other, 64)
    state = serialization.loads(one.state())
    assert other.load(one.state())
    assert_same(play(one, 30), play(other, 30))
    assert state["playing"]["envs"]


def test_hidden_state_is_detected():
    """Hidden state is detected."""
    assert run_envs.Opaque
    opaque = "tests.helpers.run_envs:Opaque-v0"
    reason = player(opaque, "env.kwargs={hides: true}", "checkpoint.envs=true").unsaved
    assert reason == (
        "the state of tests.helpers.run_envs:Opaque-v0 can't be saved: a restored copy behaves differently: "
        "the observation of step 1 differs"
    )
    assert player(opaque, "env.kwargs={hides: false}", "checkpoint.envs=true").unsaved == ""


@pytest.mark.parametrize(
    ("env", "settings", "is_known"),
    [
        ("Pendulum-v1", [], True),
        ("Pendulum-v1", ["env.vectorization=async"], True),
        ("CartPole-v1", ["env.vectorization=native"], True),
        ("Pendulum-v1", ["env.wrappers=[gymnasium.wrappers:TransformReward]"], True),
        ("Pendulum-v1", ["env.wrappers=[tests.helpers.odd_envs:OwnStatistics]"], False),
        ("tests.helpers.run_envs:Opaque-v0", [], False),
    ],
)
def test_environments_of_unknown_families_are_not_stepped_as_a_test(env, settings, is_known):
    """By default, only environments of known families are stepped as a test and saved."""
    assert is_of_known_family(load_config("ppo", [f"env.id={env}", *settings]).env) is is_known


def test_an_unknown_family_is_saved_on_request(monkeypatch):
    """The reason names the setting that saves environments of unknown families."""
    monkeypatch.setattr("sheeprl.actors.player.why_not_snapshotable", lambda make: pytest.fail("it was stepped"))
    assert player("tests.helpers.run_envs:Opaque-v0").unsaved.endswith(
        "; checkpoint.envs=true tests and saves its state"
    )


def test_a_player_without_a_snapshot_is_unchanged():
    """A player without a snapshot starts new episodes and is unchanged."""
    one, other = (player("tests.helpers.run_envs:Opaque-v0") for _ in range(2))
    play(one, 10)
    assert one.collect(5, None, 0, "random", keep_state=True)[0].unsaved == one.unsaved
    assert not other.load(one.state())
    assert other.sequence == 0
    assert play(other, 3)["is_first"][0].all()


def test_no_probe_runs_with_checkpoint_envs_false(monkeypatch):
    """With checkpoint.envs=false no probe runs."""
    monkeypatch.setattr("sheeprl.actors.player.why_not_snapshotable", None)
    one = player("Pendulum-v1", "checkpoint.envs=false")
    play(one, 3)
    assert one.unsaved == "checkpoint.envs=false"
    assert serialization.loads(one.state())["playing"]["envs"] is None


def test_the_result_of_another_probe_is_reused(monkeypatch):
    """The result of another player's probe is reused."""
    found = [player("CartPole-v1").unsaved, "it can't"]
    monkeypatch.setattr("sheeprl.actors.player.why_not_snapshotable", None)
    for reason in found:
        one = player("CartPole-v1")
        info = one.collect(3, None, 0, "random", keep_state=True, unsaved=reason)[0]
        assert info.unsaved == reason
        assert (serialization.loads(info.state)["playing"]["envs"] is None) == bool(reason)


def test_a_probe_preserves_the_process_generators():
    """The probe doesn't change the process's generators."""
    one = player("CartPole-v1")
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert one.unsaved == ""
    assert (np.random.get_state()[1] == before[0]).all() and (torch.get_rng_state() == before[1]).all()


def test_a_state_of_other_environments_is_rejected():
    """A state of other environments is rejected."""
    one = player("CartPole-v1")
    play(one, 3)
    with pytest.raises(ValueError, match=r"env\.id=Acrobot-v1 but the saved player state is of env\.id=CartPole-v1"):
        player("Acrobot-v1").load(one.state())
    with pytest.raises(ValueError, match=r"env\.num_envs=2 but the saved player state has 4 environments"):
        player("CartPole-v1", "env.num_envs=2").load(one.state())


def test_a_damaged_state_is_rejected():
    """A damaged state is rejected."""
    one = player("CartPole-v1")
    play(one, 3)
    state = one.state()
    for damaged in (state[: len(state) // 2], b"", b"nothing"):
        with pytest.raises(ValueError, match="damaged"):
            player("CartPole-v1").load(damaged)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        """Return a call that prints."""
        return print, ("code was run",)


def test_opening_a_state_runs_no_code(tmp_path, capsys):
    """Loading a state runs no code."""
    torch.save({"env": Evil()}, tmp_path / "evil.pt")
    for data in ((tmp_path / "evil.pt").read_bytes(), pickle.dumps(Evil())):
        with pytest.raises(ValueError):
            serialization.loads(data)
    assert "code was run" not in capsys.readouterr().out


def test_the_state_of_another_class_is_an_error():
    """The state of another class of environment is an error."""
    with pytest.raises(StateError):
        restore(gymnasium.make("CartPole-v1"), capture(gymnasium.make("Blackjack-v1")))
