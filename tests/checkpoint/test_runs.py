"""Test how runs are found by name, the newest first."""

import json
import os

import pytest

from sheeprl.checkpoint.run_dir import locked
from sheeprl.checkpoint.runs import find_runs, matching_runs, resolve_run
from sheeprl.utils.errors import ConfigError


def make_run(folder, started):
    """Make the folder of a run with one checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("algo: {name: ppo}\n")
    (folder / "metrics.jsonl").touch()
    checkpoint = folder / "checkpoints" / "step_8"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.yaml").write_text("algo: {name: ppo}\n")
    os.utime(folder / "config.yaml", (started, started))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Make four runs."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "logs/ppo/CartPole-v1/2026-11-29_10-00-00_0", 100)
    make_run(tmp_path / "logs/ppo/CartPole-v1/2026-11-29_11-00-00_0", 300)
    make_run(tmp_path / "logs/sac/Pendulum-v1/2026-11-29_11-00-00_1", 200)
    make_run(tmp_path / "runs/grip", 50)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/config.yaml").touch()  # not a run


def test_runs_are_listed_once_with_the_newest_first(runs):
    """Runs are listed once, the newest first."""
    assert [run.name for run in find_runs()] == [
        "ppo/CartPole-v1/2026-11-29_11-00-00_0",
        "sac/Pendulum-v1/2026-11-29_11-00-00_1",
        "ppo/CartPole-v1/2026-11-29_10-00-00_0",
        "runs/grip",
    ]


@pytest.mark.parametrize(
    ("metrics", "status"),
    [
        ('{"step": 8}\n{"event": "end", "status": "done"}\n', "finished"),
        ('{"event": "end", "status": "interrupted"}\n', "stopped"),
        ('{"event": "end", "status": "failed", "cause": "x"}\n', "failed"),
        ('{"event": "end", "status": "done"}\n{"event": "resume", "step": 8}\n{"step": 16}\n', "failed"),
        ('{"step": 8}\n{"st', "failed"),
        ("", "failed"),
    ],
)
def test_the_status_is_that_of_the_end_event_and_of_the_lock(tmp_path, metrics, status):
    """The status is that of the end event and of the lock."""
    make_run(tmp_path / "run", 100)
    (tmp_path / "run" / "metrics.jsonl").write_text(metrics)
    (run,) = find_runs(str(tmp_path))
    assert run.status == status
    with locked(run.folder):
        assert run.status == "running"
    assert run.status == status
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert run.status == "failed"


def test_a_resume_leaves_the_time_of_the_start(runs, tmp_path):
    """A list shows the first start of a run; its order is that of the newest starts."""
    folder = tmp_path / "logs/ppo/CartPole-v1/2026-11-29_10-00-00_0"
    (folder / "run.json").write_text(json.dumps({"starts": [{"time": 100.0}, {"time": 400.0}]}))
    os.utime(folder / "config.yaml", (400, 400))
    newest = find_runs()[0]
    assert (newest.folder, newest.first_started, newest.started) == (folder, 100.0, 400.0)
    assert newest.started_at.startswith("1970-01-01") or newest.started_at.startswith("1969-12-31")
    assert find_runs()[1].first_started == 300.0


def test_runs_below_a_folder(runs, tmp_path):
    """Runs below a folder."""
    assert [run.path for run in find_runs("runs")] == ["runs/grip"]
    assert [run.path for run in find_runs(str(tmp_path / "runs/grip"))] == ["runs/grip"]
    assert len(find_runs("logs")) == 3 and find_runs("configs") == []
    with pytest.raises(ConfigError, match="nowhere: no such folder or run"):
        find_runs("nowhere")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("@last", "logs/ppo/CartPole-v1/2026-11-29_11-00-00_0"),
        ("@last/checkpoints/step_8", "logs/ppo/CartPole-v1/2026-11-29_11-00-00_0/checkpoints/step_8"),
        ("2026-11-29_10", "logs/ppo/CartPole-v1/2026-11-29_10-00-00_0"),
        ("sac/", "logs/sac/Pendulum-v1/2026-11-29_11-00-00_1"),
        ("sac/Pend", "logs/sac/Pendulum-v1/2026-11-29_11-00-00_1"),
        ("gri", "runs/grip"),
        ("runs/g", "runs/grip"),
        ("runs/grip", "runs/grip"),
        ("logs", "logs"),
        ("", ""),
        ("s3://bucket/2026", "s3://bucket/2026"),
    ],
)
def test_last_and_unique_prefixes_name_runs(runs, name, path):
    """`@last` and unique prefixes name runs."""
    assert resolve_run(name) == path


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("@lst", "@last"),
        ("@latest/checkpoints/step_8", "@last"),
        ("latest", "@last"),
        ("grib", None),
        ("nowhere", None),
        ("runs/grib", "runs/grip"),
        ("2026-11-29_10-00-01_0", "2026-11-29_10-00-00_0"),
    ],
)
def test_a_mistyped_run_is_refused_with_the_likely_one(runs, name, likely):
    """The error for a mistyped name has the run that it probably means."""
    with pytest.raises(ConfigError) as caught:
        resolve_run(name)
    advice = f"did you mean {likely}? (list: sheeprl ls)" if likely else "use one of sheeprl ls"
    assert caught.value.mistakes == [f"{name}: no such folder or run; {advice}"]


def test_an_ambiguous_prefix_is_refused_with_the_runs(runs):
    """The error for an ambiguous prefix lists the runs."""
    with pytest.raises(ConfigError) as caught:
        resolve_run("2026-11-29_11")
    assert caught.value.mistakes == [
        "2026-11-29_11: 2 runs have this name or begin with it (ppo/CartPole-v1/2026-11-29_11-00-00_0, "
        "sac/Pendulum-v1/2026-11-29_11-00-00_1); use a longer name or @last"
    ]


def test_a_whole_name_means_no_longer_name(tmp_path, monkeypatch):
    """A whole name of an algorithm, a folder or a run means no run that has a longer name."""
    monkeypatch.chdir(tmp_path)
    for place, algo, name in (
        ("logs/ppo/Env-v1/one", "ppo", "grip"),
        ("logs/ppo/Env-v10/two", "ppo", "grip2"),
        ("logs/mine/three", "ppo", ""),
        ("logs/ppo_recurrent/Env-v1/four", "ppo_recurrent", ""),
    ):
        make_run(tmp_path / place, 100)
        about = {"algo": algo, "name": name}
        (tmp_path / place / "run.json").write_text(json.dumps(about))

    def named(start):
        """Return the last letters of the runs that a text means."""
        return {run.folder.name for run in matching_runs(start)}

    assert named("ppo") == {"one", "two", "three"}
    assert named("ppo_recurrent") == {"four"}
    assert named("ppo_") == {"four"} and named("ppo/Env") == {"one", "two"}
    assert named("ppo/Env-v1") == {"one"}
    assert named("grip") == {"one"} and named("gri") == {"one", "two"}
    assert named("sac") == set()


def test_last_without_a_run_names_the_searched_folder(tmp_path, monkeypatch):
    """The error for `@last` without a run names the searched folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"@last: no run in .*; run the command in the folder that contains logs"):
        resolve_run("@last")


def test_a_path_below_another_folder_of_the_run_is_relative(runs, monkeypatch, tmp_path):
    """A relative path names a run in the current folder."""
    monkeypatch.chdir(tmp_path / "runs")
    assert resolve_run("grip") == "grip" and find_runs()[0].name == "grip"
