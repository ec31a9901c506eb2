"""Test commands that read a run at `checkpoint.storage`."""

import io
import itertools
import json
import shutil
import uuid

import numpy as np
import pytest

import sheeprl
from sheeprl import ConfigError
from sheeprl.checkpoint.best import named_checkpoint
from sheeprl.checkpoint.runs import find_runs, is_stored
from sheeprl.cli import main
from sheeprl.policy.enjoy import play
from sheeprl.policy.screens import Terminal
from sheeprl.utils.objects import Objects
from tests.helpers.buckets import new_bucket, s3_server
from tests.helpers.runs import run

SHORT = ["run.mode=coupled", "trainer.compile=false", "run.total_steps=64", "algo.rollout_steps=16", "log.every=16"]
SHORT += [
    "env.max_episode_steps=9",
    "checkpoint.every=16",
    "checkpoint.keep_last=2",
    "players.num=1",
    "env.num_envs=1",
    "algo.batch_size=8",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a short run at a storage, and its parent; the run's own folder is gone."""
    folder = tmp_path_factory.mktemp("stored")
    run(folder / "run", "ppo", *SHORT, "run.tags=[far]", f"checkpoint.storage={folder}/store", env="CartPole-v1")
    shutil.rmtree(folder / "run")
    return folder / "store" / "run"


@pytest.fixture
def stored(trained, tmp_path, monkeypatch):
    """Return a copy of the storage, in a folder that can be damaged; no copy of the run is in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHEEPRL_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(trained, tmp_path / "store" / "run")


@pytest.fixture(params=["path", "file", "s3"])
def name(request, stored, monkeypatch):
    """Yield the name of the run: a path, a URL of a share and a URL of a bucket."""
    if request.param != "s3":
        yield str(stored) if request.param == "path" else f"file://{stored}"
        return
    with s3_server() as server:
        objects = Objects(f"{new_bucket(server, monkeypatch)}/{uuid.uuid4().hex}/run")
        for path in stored.rglob("*.*"):
            objects.write(path.relative_to(stored).as_posix(), path.read_bytes())
        for path in (stored / "objects").iterdir():
            objects.write(f"objects/{path.name}", path.read_bytes())
        yield objects.url


@pytest.fixture
def command(capsys):
    """Return a function that runs a command, and returns its exit code, stdout and stderr."""

    def run_command(*words):
        """Run a command."""
        with pytest.raises(SystemExit) as end:
            main(list(words))
        return end.value.code, *capsys.readouterr()

    return run_command


def test_a_stored_run_is_loaded_evaluated_watched_and_listed(name, command, monkeypatch):
    """Each command that reads a run takes its name at the storage."""
    obs = np.zeros(4, np.float32)
    policy = sheeprl.load_policy(name)
    assert policy(obs) in (0, 1) and policy.spec.policy_steps == 72
    for word, steps in ((name, 72), (f"{name}/checkpoints/step_58", 58)):
        code, out, _ = command("eval", word, "--episodes", "1", "--json")
        assert code == 0 and json.loads(out)["policy_steps"] == steps
    monkeypatch.setattr("sheeprl.policy.enjoy._play", lambda env, policy, steps, *rest: steps)
    assert list(itertools.islice(play(name, Terminal(io.StringIO()), follow=True), 2)) == [72, 72]
    code, out, _ = command("ls", name.rpartition("/")[0], "--tag", "far", "--json")
    listed = json.loads(out)
    assert code == 0 and listed["run"].endswith(name.removeprefix("file://")) and listed["policy_steps"] == 72
    assert (listed["status"], listed["algo"]) == ("stored", "ppo") and listed["started"] > 1e9
    code, out, error = command("compare", name, "--json")
    assert code == 0, error
    assert json.loads(out)["rows"][0]["runs"] == 1


def test_the_best_checkpoint_of_a_stored_run_is_chosen_among_all(stored, monkeypatch):
    """`--best` compares all checkpoints at the storage."""
    folder, _ = named_checkpoint(str(stored), best=True)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step_58", "step_72"}
    monkeypatch.setattr("sheeprl.checkpoint.best._trained", lambda path: -float(path.name[5:]))
    assert named_checkpoint(str(stored), best=True)[1].name == "step_58"


def test_a_copy_is_brought_up_to_date(stored, monkeypatch):
    """A second command copies only what has changed, and drops what the run has removed."""
    first, checkpoint = named_checkpoint(str(stored), best=True)
    (stored / "checkpoints" / "000001-step_58.json").unlink()
    monkeypatch.setattr("sheeprl.checkpoint.storage.RunStorage.fetch", lambda *args: pytest.fail("copied again"))
    assert named_checkpoint(str(stored)) == (first, checkpoint.parent / "step_72")
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["step_72"]


def test_a_damaged_checkpoint_is_skipped(stored, tmp_path):
    """The newest undamaged checkpoint is taken; without one, the damage is named."""
    newest, older = (stored / "checkpoints" / f"000001-step_{step}.json" for step in (72, 58))
    newest.write_bytes(newest.read_bytes()[:-9])
    assert named_checkpoint(str(stored))[1].name == "step_58"
    older.write_bytes(b"")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"run: contains no complete checkpoint; .*step_58\.json"):
        named_checkpoint(str(stored))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file://{}", "file://{}: contains no checkpoint of a run; name it as <checkpoint.storage>/<run>"),
        ("file://{}/none", "file://{}/none: contains no checkpoint of a run"),
        ("{}/run/checkpoints/step_9", "{}/run/checkpoints/step_9: no such checkpoint; there are step_58, step_72"),
        ("s4://bucket/run", "unknown scheme s4; use s3://, gs:// or file://"),
        ("s3://", "names no folder; use a URL like s3://bucket/prefix"),
    ],
)
def test_a_name_without_a_run_is_one_line(stored, command, name, message):
    """A wrong name ends every command with exit code 2 and one line."""
    code, _, error = command("eval", name.format(stored.parent))
    assert code == 2 and message.format(stored.parent) in error and error.count("\n") == 1


def test_only_a_run_removes_its_stored_checkpoints(stored, command):
    """`sheeprl clean` refuses a run at a storage."""
    code, _, error = command("clean", str(stored))
    assert code == 2 and f"{stored}: is at checkpoint.storage" in error


def test_a_folder_of_stored_runs_is_listed(stored):
    """Runs in a folder that is a storage are found, and the folder itself is no run."""
    shutil.copytree(stored, stored.with_name("other"))
    assert not is_stored(str(stored.parent)) and is_stored(str(stored))
    assert [each.url for each in find_runs(str(stored.parent))] == [
        f"file://{stored.with_name('other')}",
        f"file://{stored}",
    ]
