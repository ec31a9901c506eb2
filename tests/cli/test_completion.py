"""Test the completion of commands, names, runs, flags and settings."""

import os

import pytest

from sheeprl.cli.completion import complete_name


@pytest.fixture
def complete(sheeprl, monkeypatch, tmp_path):
    """Return a function that completes a line."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        """Return the completions of a line."""
        words = line.split(" ")
        monkeypatch.setenv("_SHEEPRL_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        return sheeprl().out.split()

    return run


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sheeprl tr", {"train"}),
        ("sheeprl sa", {"sac", "sac_ae"}),
        ("sheeprl train ppo_min", {"ppo_minatar_breakout", "ppo_minigrid_doorkey"}),
        ("sheeprl run sac_h", {"sac_halfcheetah", "sac_hopper"}),
        ("sheeprl ppo --lear", {"--learning_rate"}),
        ("sheeprl train sac --crit", {"--critic_lr", "--critics"}),
        ("sheeprl train ppo_pendulum --cl", {"--clip", "--clip_value"}),
        ("sheeprl train ppo --no-an", {"--no-anneal"}),
        ("sheeprl train ppo --mode ", {"decoupled", "coupled"}),
        ("sheeprl train ppo run.mode=c", {"run.mode=coupled"}),
        ("sheeprl config sac algo.gam", {"algo.gamma="}),
        ("sheeprl eval @", {"@last", "@best"}),
        ("sheeprl check-env CartP", {"CartPole-v0", "CartPole-v1"}),
        ("sheeprl check-env Pendulum-v1 env.v", {"env.vectorization="}),
        ("sheeprl check-env Pendulum-v1 --vect", {"--vectorization"}),
        ("sheeprl check-env Pendulum-v1 --s", {"--seconds"}),
        ("sheeprl check-env Pendulum-v1 run", set()),
        ("sheeprl train nowhere --see", {"--seed"}),
    ],
)
def test_the_shell_completes(complete, line, found):
    """The shell completes commands, flags, settings and names."""
    assert set(complete(line)) == found


def test_runs_are_completed(complete, tmp_path):
    """The shell completes runs."""
    folder = tmp_path / "logs/ppo/CartPole-v1/2026-11-29_10-00-00_0"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl"):
        (folder / name).touch()
    name = "ppo/CartPole-v1/2026-11-29_10-00-00_0"
    for command in ("resume", "eval", "replay"):
        assert set(complete(f"sheeprl {command} ")) == {"@last", "@best", name, os.path.join("logs", name)}


def test_files_are_completed(tmp_path, monkeypatch):
    """The shell completes configuration files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.txt").touch()
    assert complete_name("mi") == ["mine.yaml"]
    assert complete_name(str(tmp_path / "m")) == [str(tmp_path / "mine.yaml")]
