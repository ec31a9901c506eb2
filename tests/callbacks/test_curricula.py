"""Test curricula: callbacks set attributes of environments, which resume and re-execute bit for bit."""

import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest

from sheeprl import Callback, ConfigError, RunFailedError, load_config, train
from sheeprl.callbacks.records import EPISODES, EVALUATIONS
from sheeprl.checkpoint.resume import read_env_values
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.debug.replayer import replay_run
from sheeprl.evaluate import evaluate_checkpoint
from sheeprl.metrics.env_changes import EnvChanges
from sheeprl.policy.environment import make_evaluation_env
from tests.callbacks.test_records import read
from tests.helpers.runs import ray_session

SMALL = [
    *("run.mode=coupled", "trainer.compile=false", "log.level=error", "trainer.threads=1", "algo.hidden_sizes=[8]"),
    *("run.total_steps=480", "algo.rollout_steps=16", "algo.batch_size=32", "algo.epochs=1", "eval.every=120"),
    *("eval.episodes=2", "checkpoint.every=200", "checkpoint.keep_last=9", "checkpoint.envs=true", "log.record=true"),
    *("env.id=tests.helpers.toy_envs:Leveled-v0", "env.num_envs=2", "env.kwargs={level: 1}"),
]


class Harder(Callback):
    """Raise the level after each evaluation, and stop the run at some steps."""

    def __init__(self, *stops, name="level"):
        """Store when to stop, and the argument to raise."""
        self.stops, self.name = list(stops), name

    def on_evaluation(self, run, result):
        """Raise the level."""
        run.set_env(**{self.name: run.env["level"] + 1})

    def on_round(self, run):
        """Set the level or stop, by the policy steps."""
        if self.stops and run.policy_steps >= self.stops[0]:
            self.stops.pop(0)
            signal.raise_signal(signal.SIGINT)


def begin(folder, callback, *settings):
    """Train in a folder."""
    return train(load_config("ppo", [*SMALL, f"run.dir={folder}", *settings]), callbacks=[callback])


def resume(folder, callback):
    """Continue a run."""
    return train(load_config(str(folder / "config.yaml"), [f"run.dir={folder}", "run.resume=true"]), [callback])


def last(folder, name="agent.pt"):
    """Return a file of the newest checkpoint."""
    return (checkpoints(folder)[-1] / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("curriculum") / "run"
    begin(folder, Harder())
    return folder


def test_level_changes_players_and_evaluation(whole):
    """Episodes get shorter and evaluations pay the new level."""
    lengths = [line["length"] for line in read(whole, EPISODES)]
    assert lengths[0] == 10 and lengths[-1] == 4
    assert [line["lengths"][0] for line in read(whole, EVALUATIONS)] == [10, 8, 6, 4]
    assert json.loads(last(whole, "state.json"))["books"]["env_changes"][-1][1] == {"level": 5}  # of the next round


@pytest.mark.parametrize("stops", [(100, 300), pytest.param((240, 360), marks=pytest.mark.slow)])
def test_run_interrupted_twice_has_the_same_bits(whole, tmp_path, stops):
    """Two stops change neither weights nor episodes; the record re-executes to the same bits."""
    folder = tmp_path / "run"
    begin(folder, Harder(*stops[:1]))
    resume(folder, Harder(*stops[1:]))
    resume(folder, Harder())
    assert len(json.loads((folder / "run.json").read_text())["starts"]) == 3
    for name in (EPISODES, EVALUATIONS):
        assert read(folder, name) == read(whole, name)
    assert last(folder) == last(whole)
    again = replay_run(str(folder), out=str(tmp_path / "agent.pt"), report=lambda text: None)
    assert again.difference is None
    assert (tmp_path / "agent.pt").read_bytes() == last(whole)


def test_run_resumed_from_an_old_checkpoint_has_the_same_bits(whole, tmp_path):
    """The checkpoint has the level."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for path in checkpoints(folder)[1:]:
        shutil.rmtree(path)
    resume(folder, Harder())
    assert last(folder) == last(whole)


def test_evaluation_of_a_checkpoint_has_its_level(whole):
    """`sheeprl eval` plays at the level of the checkpoint, or at the one that a setting names."""
    assert evaluate_checkpoint(str(whole), 1).lengths == [4]
    assert evaluate_checkpoint(str(whole), 1, settings=["env.kwargs.level=2"]).lengths == [8]


def test_a_policy_plays_at_the_level_of_its_checkpoint(whole):
    """`enjoy`, `dream` and `export` make the environment of the evaluation."""
    env = make_evaluation_env(load_config(str(whole / "config.yaml")), checkpoints(whole)[-1])
    assert env.get_wrapper_attr("level") == last_level(whole) > 1


def last_level(folder):
    """Return the level of the newest checkpoint."""
    return read_env_values(checkpoints(folder)[-1])["level"]


def test_level_of_evaluations_can_be_fixed(tmp_path):
    """An argument in `eval.env` isn't changed."""
    begin(tmp_path / "run", Harder(), "eval.env={kwargs: {level: 0}}")
    assert {tuple(line["lengths"]) for line in read(tmp_path / "run", EVALUATIONS)} == {(12, 12)}


def test_further_environments_of_evaluations(tmp_path):
    """Each evaluation also plays on the environments of `eval.envs`, which differ from training's by their settings."""
    folder = tmp_path / "run"
    begin(folder, Harder(), "eval.envs={fixed: {kwargs: {level: 0}}, follows: {}}")
    lines = read(folder, EVALUATIONS)
    assert {tuple(line["envs"]["fixed"]["lengths"]) for line in lines} == {(12, 12)}
    assert [line["envs"]["follows"]["lengths"] for line in lines] == [line["lengths"] for line in lines]
    last_line = lines[-1]["envs"]["fixed"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["Test/fixed/cumulative_reward"] for line in metrics if "Test/fixed/cumulative_reward" in line][-1] == (
        last_line["mean"]
    )
    assert evaluate_checkpoint(str(folder), 1, name="fixed").lengths == [12]
    with pytest.raises(ConfigError, match="--evals hard: no such environment of evaluations; the run has fixed, fol"):
        evaluate_checkpoint(str(folder), 1, name="hard")


def test_further_environment_ends_a_run(tmp_path):
    """`run.until` knows the mean return of each environment in `eval.envs`."""
    folder = tmp_path / "run"
    begin(folder, Callback(), "eval.envs={other: {}}", "run.until={eval/other/return: 1}")
    assert len(read(folder, EVALUATIONS)) < 4


def test_unknown_attribute_fails_the_run_and_not_its_resume(tmp_path):
    """One line names the attribute; a resumed run doesn't repeat the mistake."""
    folder = tmp_path / "run"
    with pytest.raises(
        RunFailedError, match=r"set_env\(lvl=2\) of a callback: Leveled and its wrappers have no attribute 'lvl'"
    ):
        begin(folder, Harder(name="lvl"))
    assert resume(folder, Callback()).policy_steps >= 480


def test_value_that_no_checkpoint_can_store_is_refused(tmp_path):
    """One line names the value."""

    class Wrong(Callback):
        def on_round(self, run):
            """Set the level or stop, by the policy steps."""
            run.set_env(level={1, 2})

    with pytest.raises(RunFailedError, match=r"set_env\(level={1, 2}\): must be a number"):
        begin(tmp_path / "run", Wrong())


class BySteps(Callback):
    """Raise the level every 120 policy steps."""

    def on_round(self, run):
        """Set the level or stop, by the policy steps."""
        run.set_env(level=1 + run.policy_steps // 120)


@pytest.mark.every
def test_decoupled_curriculum_has_the_bits_of_a_coupled_one(tmp_path):
    """Both placements change the environments in the same rounds, and the record re-executes to the same bits."""
    settings = ["players.num=2", "eval.episodes=0"]
    begin(tmp_path / "coupled", BySteps(), *settings)
    with ray_session(cpus=4):
        begin(tmp_path / "decoupled", BySteps(), *settings, "run.mode=decoupled", "run.max_staleness=0")
    assert read(tmp_path / "decoupled", EPISODES) == read(tmp_path / "coupled", EPISODES)
    assert last(tmp_path / "decoupled") == last(tmp_path / "coupled")
    again = replay_run(str(tmp_path / "decoupled"), report=lambda text: None)
    assert again.difference is None


def test_changes_hold_from_their_round_on():
    """Later values replace earlier ones; merged changes are the same."""
    changes = EnvChanges()
    changes.add(5, {"a": 1, "b": [1]})
    changes.add(3, {"a": 0})
    assert (changes.at(2), changes.at(3), changes.at(7)) == ({}, {"a": 0}, {"a": 1, "b": [1]})
    changes.merge_until(4)
    assert changes.state == [[4, {"a": 0}], [5, {"a": 1, "b": [1]}]]
    changes.forget_from(5)
    assert changes.newest == {"a": 0}


def test_the_curriculum_of_the_page_begins_without_the_argument():
    """The example of docs/callbacks.md sets a first value, raises it, and keeps it after a resume."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r'```python title="my_curriculum.py"\n(.*?)```', page, re.DOTALL)
    scope = {}
    exec(compile(code, "my_curriculum.py", "exec"), scope)
    values = {}
    run = SimpleNamespace(env=values, set_env=values.update)
    callback = scope["Harder"]()
    callback.on_start(run)
    callback.on_evaluation(run, SimpleNamespace(mean_return=-1.0))
    callback.on_start(run)
    assert values == {"g": 4.0} and hasattr(gym.make("Pendulum-v1").unwrapped, "g")
