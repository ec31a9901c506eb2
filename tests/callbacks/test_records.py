"""Test the files of episodes and evaluations, and the callbacks of a run."""

import json
import shutil
import signal

import pytest

from sheeprl import Callback, ConfigError, RunFailedError, load_config, train
from sheeprl.callbacks.records import EPISODES, EVALUATIONS, rewind_records
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.checkpoint.run_info import read_run_info
from sheeprl.metrics.counters import Counters, Episode, RunStats

SMALL = [
    *("run.mode=coupled", "trainer.compile=false", "log.level=error", "trainer.threads=1", "algo.hidden_sizes=[8]"),
    *("run.total_steps=1200", "algo.rollout_steps=32", "algo.batch_size=64", "algo.epochs=1", "eval.every=300"),
    *("eval.episodes=2", "checkpoint.every=500", "checkpoint.keep_last=9"),
]


class Recorder(Callback):
    """Store the calls, and interrupt or fail the run at a step."""

    def __init__(self, stop_at=None, fail_at=None):
        """Store when to interrupt and to fail."""
        self.calls, self.stop_at, self.fail_at = [], stop_at, fail_at

    def __getattribute__(self, name):
        """Return a method that records its call."""
        if name.startswith("on_") and name != "on_round":
            return lambda run, *values: self.calls.append((name, run.policy_steps, *values))
        return super().__getattribute__(name)

    def on_round(self, run):
        """Record the call; interrupt or fail the run in the chosen one."""
        self.calls.append(("on_round", run.policy_steps))
        if self.stop_at is not None and run.policy_steps >= self.stop_at:
            signal.raise_signal(signal.SIGINT)
        if self.fail_at is not None and run.policy_steps >= self.fail_at:
            raise ValueError("no more")


def read(folder, name):
    """Return the lines of a file without their times."""
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run and its callback."""
    folder, recorder = tmp_path_factory.mktemp("whole") / "run", Recorder()
    train(load_config("ppo", [*SMALL, f"run.dir={folder}"]), callbacks=[recorder])
    return folder, recorder


def test_every_episode_and_evaluation_is_on_file(whole):
    """The files have the episodes and evaluations that the callbacks got, and `run.json` has the start."""
    folder, recorder = whole
    names = [name for name, *_ in recorder.calls]
    assert (names[0], names[-1]) == ("on_start", "on_end")
    episodes = [call[2] for call in recorder.calls if call[0] == "on_episode"]
    assert read(folder, EPISODES) == [{"step": e.step, "return": e.total, "length": e.length} for e in episodes]
    evaluations = [call[2] for call in recorder.calls if call[0] == "on_evaluation"]
    assert [line["returns"] for line in read(folder, EVALUATIONS)] == [result.returns for result in evaluations]
    assert len(evaluations) >= 4
    assert [call[2].name for call in recorder.calls if call[0] == "on_checkpoint"][-1].startswith("step_")
    info = read_run_info(folder)
    assert (info["algo"], info["env"], len(info["starts"])) == ("ppo", "CartPole-v1", 1)
    assert info["starts"][0]["versions"]["torch"]


def check_resumed(folder, whole):
    """Resume a run to its end and compare its files with those of the uninterrupted run."""
    train(load_config(str(folder / "config.yaml"), [f"run.dir={folder}", "run.resume=true"]))
    for name in (EPISODES, EVALUATIONS):
        assert read(folder, name) == read(whole, name)
    assert len(read_run_info(folder)["starts"]) == 2


def test_stopped_and_resumed_run_has_the_same_episodes_and_evaluations(whole, tmp_path):
    """Nothing is lost and nothing is double after a stop."""
    folder = tmp_path / "run"
    train(load_config("ppo", [*SMALL, f"run.dir={folder}"]), callbacks=[Recorder(stop_at=700)])
    check_resumed(folder, whole[0])


def test_run_resumed_from_an_old_checkpoint_has_the_same_episodes_and_evaluations(whole, tmp_path):
    """A resumed run repeats the lines after the checkpoint of a killed run, and doubles none."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    for path in checkpoints(folder)[1:]:
        shutil.rmtree(path)
    check_resumed(folder, whole[0])
    assert read(folder, "episodes_undone.jsonl")


def test_callback_that_raises_fails_the_run(tmp_path):
    """One line names the callback."""
    with pytest.raises(RunFailedError, match=r"Recorder\.on_round\(\) raised ValueError: no more"):
        train(load_config("ppo", [*SMALL, f"run.dir={tmp_path / 'run'}"]), callbacks=[Recorder(fail_at=100)])


def test_callback_that_raises_an_os_error_fails_the_run_after_a_checkpoint(tmp_path):
    """The lost connection of a user's callback isn't an error of the run's own files."""

    class Poster(Callback):
        """Fail to reach a server in the third round."""

        def on_round(self, run):
            """Fail once."""
            if run.policy_steps >= 300:
                raise ConnectionError("no server")

    folder = tmp_path / "run"
    with pytest.raises(RunFailedError, match=r"Poster\.on_round\(\) raised ConnectionError: no server"):
        train(load_config("ppo", [*SMALL, f"run.dir={folder}"]), callbacks=[Poster()])
    assert checkpoints(folder) and (folder / "error.log").is_file()


def test_rewind_moves_what_is_repeated_to_undone_files(tmp_path):
    """Episodes are counted; an evaluation that began before the checkpoint stays."""
    (tmp_path / EPISODES).write_text('{"step": 1}\n{"step": 2}\n{"st')
    (tmp_path / EVALUATIONS).write_text('{"step": 10}\n{"step": 20}\n')
    stats = {"episodes_written": 1, "counters": {"policy_steps": 15}, "evaluating": [10, 12]}
    rewind_records(tmp_path, stats)
    assert stats["evaluating"] == [12]  # is due again
    assert read(tmp_path, EPISODES) == [{"step": 1}]
    assert read(tmp_path, "episodes_undone.jsonl") == [{"step": 2}]
    assert read(tmp_path, EVALUATIONS) == [{"step": 10}]
    assert read(tmp_path, "evaluations_undone.jsonl") == [{"step": 20}]


def test_lost_fragment_takes_its_episodes_along():
    """A fragment that replaces a lost one doesn't add its episodes to those of the lost one."""
    from sheeprl.actors.messages import FragmentInfo

    def info(*returns):
        """Return the description of a fragment with some ended episodes."""
        return FragmentInfo(0, 4, 4, returns, tuple(int(total) for total in returns), 0.1)

    stats, first = RunStats(Counters(), 0.0), info(1.0, 2.0)
    stats.record_fragment(first)
    stats.record_fragment(info(3.0), instead_of=first)
    assert stats.take_new_episodes() == [Episode(4, 3.0, 3)]
    stats.record_fragment(first)
    stats.retract_fragment(first)
    assert stats.take_new_episodes() == []


def test_until_stops_at_a_value_and_without_progress(tmp_path):
    """`run.until` ends the run; its end event has the reason."""
    settings = [*SMALL, f"run.dir={tmp_path / 'a'}", "run.until={eval/return: 5}", "run.total_steps=100000"]
    result = train(load_config("ppo", settings))
    assert result.policy_steps < 1000
    end = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (end["status"], end["stopped_by"].partition(" is ")[0]) == ("done", "run.until: eval/return")
    assert read(tmp_path / "a", EVALUATIONS)[-1]["step"] == result.policy_steps  # the final policy is evaluated


def test_a_run_that_a_condition_has_ended_goes_on_only_if_it_is_resumed(tmp_path):
    """The command that began the run leaves it as it is; an explicit resume trains further."""
    words = [*SMALL, f"run.dir={tmp_path / 'run'}", "run.until={eval/return: 5}"]
    first = train(load_config("ppo", [*words, "run.resume=auto"]))
    assert first.policy_steps < 1000
    history = read(first.run_dir, "metrics.jsonl")
    assert train(load_config("ppo", [*words, "run.resume=auto"])).policy_steps == first.policy_steps
    assert read(first.run_dir, "metrics.jsonl") == history
    longer = [*words[:-1], "run.until={eval/return: 501}", "run.resume=true"]
    assert train(load_config("ppo", longer)).policy_steps >= 1200


def test_until_names_a_metric_that_was_never_logged(tmp_path, capfd):
    """A name without a slash is a mistake; another unknown one is named at the end of the run."""
    with pytest.raises(ConfigError, match="return is no metric; use eval/return, episode/return, patience or one of"):
        load_config("ppo", [*SMALL, "run.until={return: 3}"])
    settings = [*SMALL, f"run.dir={tmp_path / 'a'}", "run.until={Loss/nothing: 5}", "log.level=warning"]
    train(load_config("ppo", settings))
    assert "run.until: the run has logged no metric Loss/nothing" in capfd.readouterr().err


def test_until_warns_of_conditions_on_evaluations_that_are_not_played(tmp_path, capfd):
    """`eval/return` and `patience` need evaluations."""
    settings = [*SMALL, f"run.dir={tmp_path / 'a'}", "run.until={eval/return: 5, patience: 2}", "eval.episodes=0"]
    train(load_config("ppo", [*settings, "run.total_steps=100", "log.level=warning"]))
    said = "".join(capfd.readouterr())
    assert "run.until.eval/return=5: has no effect with eval.episodes=0; set eval.episodes" in said
    assert "run.until.patience=2: has no effect" in said


def test_patience_counts_evaluations_without_a_better_one():
    """The run stops after `patience` evaluations that are not better."""
    from sheeprl.actors.evaluation import Evaluation
    from sheeprl.callbacks.base import RunView
    from sheeprl.callbacks.until import Until

    stopped = []
    stats = RunStats(Counters(), 0.0)
    run = RunView(None, None, stats, lambda: 0.0, lambda *text: None, lambda: stopped.append(1))
    until = Until({"patience": 2})
    for mean in (1.0, 3.0, 3.0):
        until.on_evaluation(run, Evaluation(mean, 0.0, [mean], [1]))
    assert not stopped
    again = RunStats.from_state_dict(stats.state_dict(0.0), 0.0)  # a resume continues the count
    run.stats = again
    until.on_evaluation(run, Evaluation(2.0, 0.0, [2.0], [1]))
    assert stopped
