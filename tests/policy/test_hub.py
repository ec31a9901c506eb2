"""Test pushes to and pulls from the Hugging Face hub, with a stub on loopback."""

import json

import numpy as np
import pytest
import torch
import yaml

from sheeprl import ConfigError, load_config, load_policy, train
from sheeprl.checkpoint.hub import Repository
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.evaluate import evaluate_checkpoint
from tests.helpers.hub_stub import hub_stub

SMALL = [
    *("run.mode=coupled", "trainer.compile=false", "log.level=error", "trainer.threads=1", "algo.hidden_sizes=[8]"),
    *("algo.rollout_steps=16", "algo.batch_size=64", "algo.epochs=1", "eval.episodes=2", "env.id=CartPole-v1"),
    *("run.total_steps=200", "algo.normalize_obs=true"),
]
OBS = np.array([0.1, 0.0, -0.05, 0.2], np.float32)


def sheeprl(*words):
    """Run a command and return its exit code."""
    from sheeprl.cli import main

    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a short run."""
    folder = tmp_path_factory.mktemp("published") / "run"
    train(load_config("ppo", [*SMALL, f"run.dir={folder}"]))
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a stub that commands use as the hub."""
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("safetensors")
    from huggingface_hub import constants

    with hub_stub() as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.chdir(tmp_path)
        yield stub


def test_published_policy_is_the_same_everywhere(hub, run, tmp_path, capsys):
    """A pushed policy acts and scores like its checkpoint, by its name and in a pulled folder."""
    assert sheeprl("push", run, "hf:me/pole") == 0
    assert "is published at" in capsys.readouterr().out
    direct = load_policy(run)
    published = load_policy("hf:me/pole")
    assert (published(OBS), published.spec) == (direct(OBS), direct.spec)
    assert sheeprl("pull", "hf:me/pole", "--out", tmp_path / "pulled") == 0
    score = evaluate_checkpoint(str(run), 2).returns
    assert evaluate_checkpoint(str(tmp_path / "pulled"), 2).returns == score
    capsys.readouterr()
    assert sheeprl("eval", "hf:me/pole", "--episodes", 2, "--json") == 0


def test_repository_has_no_pickled_object_and_nothing_of_the_machine(hub, run):
    """The files are text and safetensors; the card has the result; settings of this machine are left out."""
    sheeprl("push", run, "hf:me/pole")
    files = hub.files["me/pole"]
    step = checkpoints(run)[-1].name
    assert set(files) == {
        *("README.md", "config.yaml", "spaces.json", "evaluations.jsonl"),
        *(f"checkpoints/{step}/{name}" for name in ("agent.safetensors", "config.yaml", "manifest.json", "state.json")),
    }
    assert not any(str(run).encode() in content for content in files.values())
    card = files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["tags"][-2:] == ["ppo", "CartPole-v1"]
    mean = json.loads(files["evaluations.jsonl"].splitlines()[-1])["mean"]
    (metric,) = metadata["model-index"][0]["results"][0]["metrics"]
    assert metric["value"].startswith(f"{mean:.2f} +/- ")
    assert 'load_policy("hf:me/pole")' in card


def test_weights_are_those_of_the_agent(hub, run):
    """Every tensor of the agent is published, also normalizers."""
    from safetensors.torch import load

    sheeprl("push", run, "hf:me/pole")
    (published,) = [load(part) for name, part in hub.files["me/pole"].items() if name.endswith(".safetensors")]
    agent = torch.load(checkpoints(run)[-1] / "agent.pt", weights_only=True)["agent"]
    assert published.keys() == agent.keys()
    assert all(torch.equal(published[name], agent[name]) for name in agent)


def test_second_push_replaces_the_checkpoint(hub, run, tmp_path):
    """A repository has one checkpoint."""
    hub.files["me/pole"] = {"checkpoints/step_1/state.json": b"{}", "notes.txt": b"mine"}
    sheeprl("push", run, "hf:me/pole")
    folders = {name.split("/")[1] for name in hub.files["me/pole"] if name.startswith("checkpoints/")}
    assert folders == {checkpoints(run)[-1].name} and "notes.txt" in hub.files["me/pole"]


def test_pickled_files_are_not_downloaded(hub, run, tmp_path):
    """A repository that also has pickled files is read without them."""
    sheeprl("push", run, "hf:me/pole")
    step = checkpoints(run)[-1].name
    hub.files["me/pole"] |= {"pytorch_model.bin": b"x", f"checkpoints/{step}/agent.pt": b"x"}
    assert sheeprl("pull", "hf:me/pole") == 0
    folder = tmp_path / "logs" / "hub" / "me" / "pole"
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (("pull", "hf:me/none"), "hf:me/none: no such repository, or it is private"),
        (("pull", "hf:me/pole@v9"), "hf:me/pole@v9: the repository has no such revision"),
        (("pull", "hf:pole"), "hf:pole: isn't a repository of the hub; write hf:USER/REPO"),
        (("pull", "hf:me/other"), "hf:me/other: holds no policy of SheepRL"),
        (("eval", "hf:me/none"), "hf:me/none: no such repository, or it is private"),
    ],
)
def test_mistakes_are_one_line(hub, words, mistake, capsys, tmp_path):
    """Each mistake names the repository and leaves no folder."""
    hub.files |= {"me/pole": {}, "me/other": {"config.yaml": b"a: 1"}}
    assert sheeprl(*words) == 2
    assert mistake in capsys.readouterr().err
    assert not (tmp_path / "logs" / "hub" / "me" / "none").exists()


def test_refused_push_names_the_token(hub, run, capsys):
    """A hub that refuses the access is one line."""
    hub.needs_token = True
    assert sheeprl("push", run, "hf:me/pole") == 2
    assert "hf:me/pole: the hub refuses the access; set HF_TOKEN" in capsys.readouterr().err


def test_hub_out_of_reach_is_one_line(hub, run, capsys, monkeypatch):
    """A closed port is one line."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert sheeprl("push", run, "hf:me/pole") == 2
    assert "hf:me/pole: the hub can't be reached" in capsys.readouterr().err


def test_published_policy_cannot_be_resumed(hub, run, tmp_path, capsys):
    """A resume needs the optimizers."""
    sheeprl("push", run, "hf:me/pole", "--out", tmp_path / "package")
    assert not hub.files
    assert sheeprl("resume", tmp_path / "package") == 2
    assert "has only the policy, without optimizers" in capsys.readouterr().err


def test_names_of_repositories():
    """A name has a user, a repository and perhaps a revision."""
    assert Repository.parse("hf:me/a-b.c@v1") == Repository("me/a-b.c", "v1")
    with pytest.raises(ConfigError, match="isn't a repository"):
        Repository.parse("hf:me/../etc")
