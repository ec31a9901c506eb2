"""Checkpoints of whole runs: contents, removal of old ones, damage, full disks and resuming."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from sheeprl import load_config, train
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.resume import newest_start, resume_tree
from sheeprl.checkpoint.run_dir import checkpoints, locked
from sheeprl.checkpoint.storage import RunStorage
from sheeprl.checkpoint.writer import CheckpointWriter
from sheeprl.launch import train_tree
from sheeprl.utils.errors import ConfigError, RunFailedError
from tests.helpers.buckets import new_bucket, s3_server
from tests.helpers.damage import cuts, deleted, flips, small_disk  # noqa: F401
from tests.helpers.runs import QUIET, SMALL_SAC, lines, run, saved

COUPLED = "run.mode=coupled"
SHORT = [COUPLED, "run.total_steps=200", "checkpoint.every=60"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with three checkpoints, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    run(folder, "sac", *SHORT)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """Return a copy of the finished run, which a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def config_of(folder):
    """Return the configuration of a run folder."""
    from sheeprl.checkpoint.run_dir import read_config
    from sheeprl.config.loading import validate

    return validate(read_config(folder))


def test_a_checkpoint_has_all_files_and_a_description(finished):
    """The newest checkpoint has all files, and its manifest describes it."""
    newest = checkpoints(finished)[-1]
    described = manifest.verify(newest)
    assert {"agent.pt", "state.json", "config.yaml", "player_0.pt", "buffer/shard_0/buffer.json"} <= set(
        described.files
    )
    end = lines(finished)[-1]
    assert described.about["algorithm"] == "sac"
    assert described.about["policy_steps"] == end["policy_steps"]
    assert described.about["gradient_steps"] == end["gradient_steps"]
    assert {"sheeprl", "torch", "python"} <= set(described.versions)


def test_a_damaged_checkpoint_is_skipped_by_name(copied):
    """If any file of the newest checkpoint is damaged, the previous one is used and the file is named."""
    *_, before, newest = checkpoints(copied)
    config = config_of(copied)
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        damages = [cuts(path), flips(path, 3)] if path.stat().st_size else []
        for damage in damages:
            for _ in damage:
                messages = []
                assert newest_start(copied, config, messages.append).checkpoint == before, path
                assert str(path) in messages[0] and len(messages) == 1
        if path.name != "manifest.json":
            with deleted(path):
                assert newest_start(copied, config, messages.append).checkpoint == before, path
    assert newest_start(copied, config, messages.append).checkpoint == newest


def test_resume_falls_back_to_the_previous_checkpoint(copied, capsys):
    """A run with a damaged newest checkpoint resumes from the previous one."""
    *_, before, newest = checkpoints(copied)
    path = newest / "agent.pt"
    path.write_bytes(path.read_bytes()[:-1])
    result = run(copied, "sac", *SHORT, "run.resume=true", "run.total_steps=300")
    assert f"warning: {newest.name} is skipped: {path}" in capsys.readouterr().out
    assert {"event": "resume", "step": int(before.name[5:])} in lines(copied)
    assert result.gradient_steps == result.policy_steps - 50


def test_a_folder_without_a_manifest_is_no_checkpoint(copied):
    """A folder without a manifest isn't listed as a checkpoint."""
    *_, before, newest = checkpoints(copied)
    (newest / "manifest.json").unlink()
    assert checkpoints(copied)[-1] == before


def test_resume_fails_if_all_checkpoints_are_damaged(copied):
    """If all checkpoints are damaged, resuming raises an error that names the file."""
    for path in checkpoints(copied):
        (path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"state\.json"):
        run(copied, "sac", *SHORT, "run.resume=true")


def test_resume_moves_undone_metrics_to_another_file(copied):
    """Metrics after the resumed checkpoint move to another file, so no step is logged twice."""
    newest = checkpoints(copied)[-1]
    (newest / "agent.pt").unlink()
    before = lines(copied)
    run(copied, "sac", *SHORT, "run.resume=true")
    steps = [line["step"] for line in lines(copied) if "Time/sps" in line]
    assert steps == sorted(set(steps))
    undone = [json.loads(line) for line in (copied / "metrics_undone.jsonl").read_text().splitlines()]
    assert undone and all(line in before for line in undone)
    assert [line["event"] for line in lines(copied) if "event" in line] == ["end", "resume", "end"]


def test_the_newest_and_the_best_checkpoints_remain(tmp_path):
    """The newest `keep_last` and the best `keep_best` checkpoints remain."""
    config = load_config("ppo", ["checkpoint.keep_last=2", "checkpoint.keep_best=2"])
    for step, mean_return in enumerate([3.0, 9.0, None, 7.0, 1.0, 8.0]):
        folder = tmp_path / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True)
        manifest.write(folder, {"mean_return": mean_return})
    CheckpointWriter(tmp_path, config)._remove_old()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_1", "step_4", "step_5"]


def test_an_old_checkpoint_that_remains_is_no_failure(tmp_path, monkeypatch):
    """An old checkpoint that can't be removed is reported, and no command takes what is left for a checkpoint."""
    problems = []
    for step in (1, 2):
        folder = tmp_path / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True)
        manifest.write(folder, {"mean_return": None})

    def fail(folder):
        """Fail as with a file that another process has open on NFS."""
        raise OSError(16, "Device or resource busy", str(folder))

    monkeypatch.setattr("sheeprl.checkpoint.manifest.shutil.rmtree", fail)
    config = load_config("ppo", ["checkpoint.keep_last=1"])
    CheckpointWriter(tmp_path, config, on_problem=problems.append)._remove_old()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_2"]
    assert len(problems) == 1 and "old checkpoints can't be removed" in problems[0]


def test_a_damaged_checkpoint_is_set_aside(copied):
    """A resume renames the damaged newest checkpoint, so that no later command takes it for the newest one."""
    good, newest = checkpoints(copied)[0], checkpoints(copied)[-1]
    if good == newest:
        newest = good.with_name("step_99999")
        shutil.copytree(good, newest)
    (newest / "agent.pt").write_bytes(b"torn")
    run(copied, "sac", *SHORT, "run.resume=true")
    assert (newest.with_name(f"damaged_{newest.name}") / "agent.pt").read_bytes() == b"torn"
    assert not any((path / "agent.pt").read_bytes() == b"torn" for path in checkpoints(copied))


def test_a_run_folder_has_a_single_user(copied):
    """A second process can't use a locked run folder."""
    with locked(copied), pytest.raises(ConfigError, match="another process is using it; stop it with sheeprl stop "):
        run(copied, "sac", *SHORT, "run.resume=true")
    run(copied, "sac", *SHORT, "run.resume=true")


def test_checkpoints_are_written_by_time_too(tmp_path):
    """`checkpoint.every_minutes` makes checkpoints due between those by steps."""
    run(tmp_path / "run", "sac", COUPLED, "run.total_steps=600", "checkpoint.every=100000", "checkpoint.keep_last=99",
        "checkpoint.every_minutes=0.004")  # fmt: skip
    found = checkpoints(tmp_path / "run")
    assert len(found) > 2
    assert all((path / "player_0.pt").is_file() for path in found)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into any folder")
def test_a_read_only_folder_fails_the_run_and_leaves_the_last_checkpoint(copied):
    """A run whose checkpoint folder isn't writable fails; its last checkpoint stays valid."""
    newest = checkpoints(copied)[-1]
    os.chmod(copied / "checkpoints", 0o500)
    try:
        with pytest.raises((RunFailedError, ConfigError)):
            run(copied, "sac", *SHORT, "run.resume=true", "run.total_steps=300")
    finally:
        os.chmod(copied / "checkpoints", 0o700)
    assert newest_start(copied, config_of(copied), print).checkpoint == newest


def test_a_full_disk_fails_the_run_and_leaves_the_last_checkpoint(small_disk):  # noqa: F811
    """On a full disk the run fails; its last checkpoint stays valid and can be resumed."""
    disk = small_disk(16)
    folder = disk.folder / "run"
    run(folder, "sac", *SHORT)
    newest = checkpoints(folder)[-1]
    ballast = disk.fill(leave=50_000)
    with pytest.raises(RunFailedError, match="no checkpoint could be written"):
        run(folder, "sac", *SHORT, "run.resume=true", "run.total_steps=300")
    assert manifest.verify(newest)
    assert checkpoints(folder)[-1] == newest and not list(folder.glob("checkpoints/.*.part"))
    ballast.unlink()
    result = run(folder, "sac", *SHORT, "run.resume=true", "run.total_steps=300")
    assert result.gradient_steps == result.policy_steps - 50


def test_a_read_only_disk_is_rejected_and_leaves_the_last_checkpoint(small_disk):  # noqa: F811
    """A run on a read-only disk fails at its start; its last checkpoint can be resumed later."""
    disk = small_disk(16)
    folder = disk.folder / "run"
    run(folder, "sac", *SHORT)
    newest = checkpoints(folder)[-1]
    with disk.read_only():
        with pytest.raises(ConfigError, match=r"run\.dir=.*isn't writable: Read-only file system"):
            run(folder, "sac", *SHORT, "run.resume=true", "run.total_steps=300")
        with pytest.raises(ConfigError, match=r"run\.dir=.*can't be created: .*Read-only file system"):
            run(disk.folder / "another", "sac", *SHORT)
        assert manifest.verify(newest)
    result = run(folder, "sac", *SHORT, "run.resume=true", "run.total_steps=300")
    assert result.gradient_steps == result.policy_steps - 50


def test_a_killed_driver_is_resumed(tmp_path):
    """A run whose process was killed resumes from its newest checkpoint."""
    words = [*SHORT, f"run.dir={tmp_path / 'run'}", *SMALL_SAC, *QUIET, "run.total_steps=1000000"]
    process = subprocess.Popen([sys.executable, "-m", "sheeprl", "run", "sac", *words])
    deadline = time.monotonic() + 120
    while len(checkpoints(tmp_path / "run")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    total = int(checkpoints(tmp_path / "run")[-1].name[5:]) + 100
    result = run(tmp_path / "run", "sac", *SHORT, "run.resume=true", f"run.total_steps={total}")
    assert result.policy_steps >= total
    assert saved(tmp_path / "run")["gradient_steps"] == result.policy_steps - 50


# --- run.resume=auto ---


def test_auto_starts_a_run_and_resumes_it(tmp_path):
    """The same command starts a run and, after it has ended, resumes it."""
    overrides = [*SHORT, "run.resume=auto"]
    first = run(tmp_path / "run", "sac", *overrides)
    longer = run(tmp_path / "run", "sac", *overrides, "run.total_steps=300")
    assert longer.policy_steps > 300 and longer.gradient_steps == longer.policy_steps - 50
    assert [line["step"] for line in lines(tmp_path / "run") if line.get("event") == "resume"] == [first.policy_steps]


def test_auto_starts_again_without_a_checkpoint(copied, monkeypatch):
    """The remains of a run that was killed before its first checkpoint are removed; foreign files are not."""
    shutil.rmtree(copied / "checkpoints")
    (copied / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"contains thesis\.tex, which isn't a run's file"):
        run(copied, "sac", *SHORT, "run.resume=auto")
    (copied / "thesis.tex").unlink()
    (copied / "trackers").mkdir()
    monkeypatch.setattr("sheeprl.launch.is_locked_still", lambda folder: True)  # not after half a minute
    with locked(copied), pytest.raises(RunFailedError, match="another process is using it"):
        run(copied, "sac", *SHORT, "run.resume=auto")
    run(copied, "sac", *SHORT, "run.resume=auto")
    assert len([line for line in lines(copied) if line.get("event") == "end"]) == 1


def test_auto_refuses_what_a_resume_cannot_change(copied):
    """With a checkpoint, a changed seed is refused and named with its value."""
    with pytest.raises(ConfigError, match=r"run\.seed=7: can't change in a resumed run; use 0, or another run\.dir"):
        run(copied, "sac", *SHORT, "run.resume=auto", "run.seed=7")


def test_auto_without_a_folder_finds_its_run_again(tmp_path, monkeypatch):
    """Without `run.dir`, the folder's name has no time, so that the same command resumes."""
    monkeypatch.chdir(tmp_path)
    words = ["run.resume=auto", *QUIET, *SMALL_SAC, *SHORT]
    first = train(load_config("sac", words))
    again = train(load_config("sac", words))
    assert first.run_dir == again.run_dir == tmp_path / "logs" / "sac" / first.run_dir.parent.name / "auto_0"


@pytest.mark.parametrize(("memmap", "size"), [("false", 120), ("true", 120), ("true", 400)])
def test_a_resumed_run_may_change_the_size_of_its_replay(copied, memmap, size):
    """The newest rows that fit are taken over, and the ratio stays exact."""
    words = ["run.total_steps=300", f"buffer.size={size}", f"buffer.memmap={memmap}"]
    result = train_tree(resume_tree(str(copied), words))
    assert result.gradient_steps == result.policy_steps - 50
    last = [line for line in lines(copied) if "Buffer/size" in line][-1]
    assert min(size, result.policy_steps) <= last["Buffer/size"] <= size and "Buffer/lost_rows" not in last


# --- checkpoint.storage ---


def test_a_run_is_resumed_from_the_storage_alone(tmp_path):
    """A run whose folder is gone resumes from `checkpoint.storage`, in a folder of any name."""
    stored = [*SHORT, f"checkpoint.storage={tmp_path}/store"]
    run(tmp_path / "run", "sac", *stored)
    assert not list((tmp_path / "run").rglob("shard_*"))
    shutil.rmtree(tmp_path / "run")
    tree = resume_tree(f"file://{tmp_path}/store/run", [f"run.dir={tmp_path}/other", "run.total_steps=300"])
    result = train_tree(tree)
    assert result.gradient_steps == result.policy_steps - 50 > 250
    written = lines(tmp_path / "other")
    assert written[0]["step"] < 60 and written[-1]["status"] == "done"
    assert not (tmp_path / "store" / "other").exists()
    assert any(line.get("Buffer/size") == result.policy_steps for line in written)


def test_a_storage_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    """A storage that isn't writable is a mistake before training, and leaves no folder."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"checkpoint\.storage={tmp_path}/file: can't be "):
        run(tmp_path / "run", "sac", *SHORT, f"checkpoint.storage={tmp_path}/file")
    assert not (tmp_path / "run").exists()


def test_a_storage_with_another_run_is_refused_at_the_start(tmp_path):
    """A new run doesn't mix its checkpoints with those of another machine's run of the same name."""
    store = f"checkpoint.storage={tmp_path}/store"
    run(tmp_path / "here" / "run", "sac", *SHORT, store)
    before = sorted((tmp_path / "store").rglob("*"))
    with pytest.raises(ConfigError, match=r"/store/run already contains a run; resume it with sheeprl resume file://"):
        run(tmp_path / "there" / "run", "sac", *SHORT, store)
    assert sorted((tmp_path / "store").rglob("*")) == before and not (tmp_path / "there" / "run").exists()


def test_a_bucket_that_does_not_exist_is_refused_at_the_start(tmp_path, monkeypatch):
    """A missing bucket is one line before training."""
    with s3_server() as server:
        new_bucket(server, monkeypatch)
        with pytest.raises(
            ConfigError, match=r"checkpoint\.storage=s3://nowhere/x: can't be used: .*the bucket doesn't exist$"
        ):
            run(tmp_path / "run", "sac", *SHORT, "checkpoint.storage=s3://nowhere/x")
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_driver_has_taken_over_ends(tmp_path, monkeypatch):
    """A run whose lease is lost fails at its next checkpoint."""
    commit = RunStorage.commit

    def take_over(self, *args):
        """Commit, then take the lease as another driver."""
        saved = commit(self, *args)
        RunStorage(self.url).take_lease()
        return saved

    monkeypatch.setattr(RunStorage, "commit", take_over)
    with pytest.raises(RunFailedError, match="another driver has taken over this run"):
        run(tmp_path / "run", "sac", *SHORT, f"checkpoint.storage={tmp_path}/store")
    assert len(RunStorage(f"{tmp_path}/store/run").checkpoints()) == 1


def test_shards_whose_rows_are_elsewhere_fail_the_checkpoint(tmp_path, monkeypatch):
    """Rows that a shard has written to another machine's disk make no checkpoint; the error names the setting."""
    monkeypatch.setattr(CheckpointWriter, "replay_place", lambda self, folder: f"{tmp_path}/elsewhere{folder[-9:]}")
    with pytest.raises(RunFailedError, match=r"the rows of shard 0 aren't in .* set checkpoint\.storage=s3://"):
        run(tmp_path / "run", "sac", *SHORT)
