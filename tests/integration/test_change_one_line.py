"""Test that the code of docs/change_one_line.md trains."""

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sheeprl.algos import registry
from sheeprl.algos.build import algorithm_class
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.config.loading import load_config
from sheeprl.utils.errors import ConfigError
from tests.helpers.runs import lines, run, saved

PAGE = Path(__file__).resolve().parents[2] / "docs" / "change_one_line.md"
SHORT = ["run.mode=coupled", "run.total_steps=600", "log.every=100", "trainer.compile=false"]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Make the page's files importable."""
    for title, code in re.findall(r'```python title="(.*?)"\n(.*?)```', PAGE.read_text(), re.DOTALL):
        (tmp_path / title).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_subclass_named_by_path_inherits_arguments_and_changes_the_loss(tmp_path, modules):
    """A subclass named by its path inherits arguments and changes the loss."""
    run(tmp_path / "ppo", "ppo", *SHORT)
    run(tmp_path / "mine", "ppo", *SHORT, "algo.name=my_ppo:MyPPO")
    values = {
        name: [line["Loss/value_loss"] for line in lines(tmp_path / name) if "Loss/value_loss" in line]
        for name in ("ppo", "mine")
    }
    assert values["mine"] and values["mine"][0] < values["ppo"][0]  # |x| - 1/2 or x**2 / 2 below x**2
    assert saved(tmp_path / "mine").keys() == saved(tmp_path / "ppo").keys()


def test_a_subclass_may_add_an_argument(tmp_path, modules):
    """A subclass may add an argument."""
    config = load_config("ppo", ["algo.name=my_args:ScaledPPO", "algo.reward_scale=0.5"])
    assert config.algo.reward_scale == 0.5 and isinstance(config.algo, PPOArgs)
    assert run(tmp_path / "run", "ppo", *SHORT, "algo.name=my_args:ScaledPPO", "algo.reward_scale=0.5").gradient_steps


def test_a_subclass_is_registered_by_an_entry_point(modules, monkeypatch):
    """An entry point registers a subclass."""
    point = EntryPoint("mine", "my_ppo:MyPPO", registry.GROUP)
    found = {**registry.registered(), "mine": point}
    monkeypatch.setattr(registry, "registered", lambda: found)
    config = load_config("ppo", ["algo.name=mine"])
    assert algorithm_class(config.algo).__name__ == "MyPPO" and isinstance(config.algo, PPOArgs)


def test_arguments_whose_algorithm_is_inherited_are_refused(modules):
    """A class of arguments that would build another algorithm is refused."""
    with pytest.raises(ConfigError, match=r"inherits algorithm=.sheeprl\.algos\.ppo\.ppo:PPO."):
        load_config("ppo", ["algo.name=my_args:MyArgs", "algo.reward_scale=0.1"])
