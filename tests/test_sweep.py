"""Test sweeps: the plan, and its runs on Ray."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sheeprl import sweep as sweeping
from sheeprl.checkpoint.run_dir import checkpoints, is_locked_still
from sheeprl.checkpoint.runs import FoundRun, last_event
from sheeprl.cli import main
from sheeprl.results.reading import RunResults
from sheeprl.utils.errors import ConfigError
from tests.helpers.clusters import wait_for

SMALL = ["run.total_steps=256", "algo.rollout_steps=16", "algo.batch_size=32", "algo.epochs=1", "eval.episodes=0"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0..3", ["0", "1", "2", "3"]),
        ("-1..0", ["-1", "0"]),
        ("0.9,0.99", ["0.9", "0.99"]),
        ("[64,64],[8]", ["[64,64]", "[8]"]),
        ("{a: 1, b: 2}", ["{a: 1, b: 2}"]),
        ("CartPole-v1", ["CartPole-v1"]),
        ("0.5", ["0.5"]),
    ],
)
def test_values(text, values):
    """Commas split outside of brackets; two dots make a range of whole numbers."""
    assert sweeping.values_of(text) == values


def test_plan_has_a_folder_for_each_combination(tmp_path):
    """The settings are varied; each run is coupled and has one thread."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}
    runs = sweeping.plan(tree, {"run.seed": ["0", "1"], "algo.hidden_sizes": ["[8]", "[8,8]"]}, tmp_path)
    assert [run.label for run in runs][:2] == [
        "run.seed=0,algo.hidden_sizes=[8]",
        "run.seed=0,algo.hidden_sizes=[8,8]",
    ]
    assert len({run.folder for run in runs}) == 4
    assert runs[3].tree["run"] == {"seed": 1, "dir": str(runs[3].folder), "mode": "coupled"}
    assert runs[3].tree["trainer"]["threads"] == 1
    assert tree == {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}
    with pytest.raises(ConfigError, match=r"run\.seed=x: must be a whole number"):
        sweeping.plan(tree, {"run.seed": ["0", "x"]}, tmp_path)


def test_the_newest_run_can_not_begin_the_runs_of_a_sweep(tmp_path):
    """`@last` would name a run of the sweep itself."""
    tree = {"algo": {"name": "ppo", "init_from": "@last"}, "env": {"id": "CartPole-v1"}}
    with pytest.raises(ConfigError, match=r"algo\.init_from=@last: the newest run changes"):
        sweeping.plan(tree, {"run.seed": ["0", "1"]}, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ppo", "run.seed=1"], "no setting has several values; use key=A,B or key=0..9"),
        (["ppo", "run.seed=2..1"], "2..1: is an empty range; use 1..2"),
        (["ppo", "run.seed=1,2", "--cpus", "no"], "--cpus no: must be a positive number"),
        (["ppo", "algo.gama=1,2"], "algo.gama: unknown setting; did you mean algo.gamma?"),
        (["ppo", "run.seed=1,2", "--jobs", "many"], "--jobs many: must be a positive number"),
        (["ppo", "run.seed=1,2", "--jobs", "1.5"], "--jobs 1.5: must be a whole number"),
        (["ppo", "run.seed=1,2", "run.mode=decoupled"], "run.mode=decoupled: a run of a sweep has one process"),
        (["run.seed=1,2"], "NAME: is missing"),
    ],
)
def test_wrong_words(words, message, capsys):
    """Each mistake is one line and exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", *words])
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_run_is_trained_resumed_and_left_alone(tmp_path, monkeypatch):
    """The function of a Ray task trains in its process, resumes, and returns the cause of a failure."""
    from sheeprl.config.loading import apply_overrides

    tree = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}
    apply_overrides(tree, [*SMALL, "trainer.compile=false"])
    (planned,) = sweeping.plan(tree, {"run.seed": ["3"]}, tmp_path)
    command = ["sheeprl", "sweep", "ppo", "run.seed=3,4"]
    monkeypatch.setattr(sys, "argv", sys.argv)
    planned.folder.mkdir()
    (planned.folder / "config.yaml").write_text("")  # of a run that ended before its first checkpoint
    status, text = sweeping.train_one(dict(planned.tree), str(planned.folder), command)
    assert (status, text.partition(" return ")[0]) == ("done", "training")
    assert planned.is_finished
    starts = json.loads((planned.folder / "run.json").read_text())["starts"]
    assert [start["command"] for start in starts] == [command]
    longer = {**planned.tree, "run": {**planned.tree["run"], "total_steps": 512}}
    assert not replace(planned, tree=longer).is_finished  # the same sweep with more policy steps
    assert sweeping.train_one(longer, str(planned.folder), command)[0] == "done"
    assert int(checkpoints(planned.folder)[-1].name[5:]) >= 512
    wrong = {**planned.tree, "env": {"id": "Nothing-v0"}}
    status, text = sweeping.train_one(wrong, str(tmp_path / "b"), command)
    assert status == "failed"
    assert "Nothing" in text
    assert sweeping.sweep([planned], say=lambda text: None)[0].text == "is finished"  # without Ray


def test_a_sweep_with_other_settings_needs_another_folder(tmp_path, capsys, monkeypatch):
    """A folder has one sweep; only its values and its policy steps may change."""
    monkeypatch.setattr(sweeping, "sweep", lambda runs, *rest: [])
    words = ["sweep", "ppo", "run.seed=0..2", "--out", str(tmp_path / "s")]

    def call(*more):
        """Return the exit code and the error."""
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        return ended.value.code, capsys.readouterr().err

    assert call() == (0, "")
    assert call("run.seed=0..5", "run.total_steps=99") == (0, "")
    code, text = call("env.id=Acrobot-v1", "algo.gamma=0.9")
    assert code == 2 and text.count("name another folder with --out") == 2
    assert f"{tmp_path / 's'}: has runs with env.id=CartPole-v1, not env.id=Acrobot-v1; use the same" in text


def test_an_unexpected_exception_is_told_from_a_dead_process(monkeypatch):
    """The line of a failed run has the exception; only Ray's other errors mean that the process died."""
    import ray

    def fail(reference):
        """Raise what Ray raises."""
        raise reference

    monkeypatch.setattr(ray, "get", fail)
    planned = sweeping.Planned("run.seed=0", {}, Path())
    error = ray.exceptions.RayTaskError("train_one", "trace", TypeError("wrong units"))
    assert sweeping._outcome(planned, error).text == "TypeError: wrong units"
    assert sweeping._outcome(planned, ray.exceptions.WorkerCrashedError()).text.startswith("its process died: ")


def test_the_score_of_a_run_is_that_of_compare(tmp_path):
    """The return is that of the last evaluation, else of training episodes, and its text names which one."""
    assert sweeping.score_text(tmp_path) == "no episode ended"
    (tmp_path / "episodes.jsonl").write_text('{"step": 10, "time": 1, "return": 21.74, "length": 10}\n')
    assert sweeping.score_text(tmp_path) == "training return 21.74"
    (tmp_path / "evaluations.jsonl").write_text('{"step": 10, "time": 1, "mean": 121.6}\n')
    assert sweeping.score_text(tmp_path) == "evaluation return 121.60"
    assert RunResults(FoundRun(tmp_path, 0.0)).score == 121.6


def test_a_run_waits_for_the_worker_of_a_killed_sweep(tmp_path, monkeypatch):
    """A run whose folder another process uses is waited for; it fails if the process doesn't end."""
    answers = [True, True, False]
    monkeypatch.setattr("sheeprl.checkpoint.run_dir.is_locked", lambda folder: answers.pop(0))
    monkeypatch.setattr("sheeprl.checkpoint.run_dir.time.sleep", lambda seconds: None)
    assert not is_locked_still(tmp_path) and answers == []
    monkeypatch.setattr("sheeprl.checkpoint.run_dir.is_locked", lambda folder: True)
    assert is_locked_still(tmp_path, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_sweep_loses_and_repeats_nothing(tmp_path):
    """After SIGKILL of the driver, the same command keeps finished runs, resumes the begun one and trains the rest."""
    settings = ["run.total_steps=15000", "algo.rollout_steps=16", "eval.episodes=0", "trainer.compile=false"]
    words = ["sweep", "ppo", "run.seed=0..2", *settings, "checkpoint.every=500", "--jobs", "1", "--out", str(tmp_path)]
    folders = [tmp_path / f"run.seed={seed}" for seed in range(3)]
    command = [sys.executable, "-m", "sheeprl", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            wait_for(lambda: last_event(folders[0]).get("status") == "done", "the first run", process=driver)
            wait_for(lambda: folders[1].is_dir() and checkpoints(folders[1]), "a checkpoint", process=driver)
        finally:
            driver.kill()
    assert last_event(folders[1]).get("status") != "done" and not folders[2].exists()
    metrics = (folders[0] / "metrics.jsonl").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert "1 of 3 runs are finished already" in again.stdout and "3 of 3 runs are finished;" in again.stdout
    assert (folders[0] / "metrics.jsonl").read_bytes() == metrics
    events = [json.loads(line) for line in (folders[1] / "metrics.jsonl").read_bytes().splitlines()]
    (resumed,) = [event["step"] for event in events if event.get("event") == "resume"]
    assert 500 <= resumed < 15000 and events[-1]["status"] == "done"
    assert all(int(checkpoints(folder)[-1].name[5:]) >= 15000 for folder in folders)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sweep_runs_on_ray_and_continues(tmp_path, monkeypatch, capsys):
    """Two runs share a core; the same command trains only what is missing."""
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "ppo", "run.seed=0..1", *SMALL, "trainer.compile=false", "--cpus", "0.5", "--out", "here"]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    out = capsys.readouterr().out
    assert "2 of 2 runs are finished; sheeprl compare here --by run.seed" in out
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert "2 of 2 runs are finished already" in capsys.readouterr().out
