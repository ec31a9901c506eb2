"""Test the code of docs/environments.md."""

import os
import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

from sheeprl.config.loading import load_config
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.families import FAMILIES
from sheeprl.envs.make import make_env
from sheeprl.envs.wrappers import SHORT_NAMES
from tests.helpers.runs import lines, run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "environments.md").read_text()
SHORT = ["run.mode=coupled", "run.total_steps=600", "log.every=100", "trainer.compile=false"]

OLD_ENV = '''
import numpy as np


class Old:
    """Environment with the interface of gym before 0.26: seeds by a method, one flag for the end."""

    def __init__(self, length):
        self.length, self.offset = length, 0

    def seed(self, seed):
        self.offset = seed % 7

    def reset(self):
        self.at = 0
        return self.observe()

    def step(self, action):
        self.at += 1
        over = self.at == self.length
        return self.observe(), np.float32(action), over, {"TimeLimit.truncated": over, "inner": {"at": self.at}}

    def observe(self):
        return np.array([self.at, self.offset, 0.5, 1.0], np.float32)


def make(length=3):
    return Old(length)
'''


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Make the page's files importable."""
    for title, code in re.findall(r'```python title="(.*?)"\n(.*?)```', PAGE, re.DOTALL):
        (tmp_path / title).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_environment_of_the_page_trains(tmp_path, modules):
    """The code of the page trains, and its success rate is logged."""
    words = re.search(r"^sheeprl train ppo --env (my_envs\S+) (.*)$", PAGE, re.MULTILINE)
    run(tmp_path / "run", "ppo", *SHORT, *words[2].split(), env=words[1])
    logged = [line for line in lines(tmp_path / "run") if "Episode/success" in line]
    assert logged and all(0 <= line["Episode/success"] == line["Episode/success_rate"] <= 1 for line in logged)


def test_an_environment_of_another_interpreter(modules, monkeypatch):
    """The page's bridge plays an environment that runs in another process."""
    (modules / "old_envs.py").write_text(OLD_ENV)
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{os.environ.get('PYTHONPATH', '')}")
    kwargs = {
        "python": sys.executable,
        "target": "old_envs:make",
        "arguments": {"length": 2},
        "server": str(modules / "bridge_server.py"),
    }
    env = make_env(EnvConfig(id="bridge_envs:Bridge-v0", kwargs=kwargs))
    assert env.reset(seed=9)[0].tolist() == [0, 2, 0.5, 1]
    assert env.step(np.int64(1))[:4][1:] == (1.0, False, False)
    obs, reward, terminated, truncated, info = env.step(np.int64(0))
    assert (obs[0], reward, terminated, truncated, info["inner"]) == (2, 0.0, False, True, {"at": 2})
    process = env.unwrapped.process
    env.close()
    assert process.returncode == 0
    gymnasium.registry.pop("Bridge-v0")


def test_the_settings_of_the_page_are_valid():
    """The YAML of the page is valid."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = load_config("ppo", ["env.wrappers=[atari, {path: reward_as_observation, key: last_reward}]"]).env
    assert EnvConfig(**yaml.safe_load(block)["env"]).wrapper_calls == config.wrapper_calls
    assert config.wrapper_calls == (("atari", {}), ("reward_as_observation", {"key": "last_reward"}))


def test_the_page_names_every_wrapper_and_family():
    """The page's tables are complete."""
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) >= set(SHORT_NAMES)
    for family in FAMILIES:
        assert all(f"`{prefix}" in PAGE for prefix in family.prefixes) and f"`{family.extra}`" in PAGE
