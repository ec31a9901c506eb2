"""Test that variables of other launchers and ranks don't make a process a rank."""

import os

import pytest

from sheeprl.utils import rank_variables
from sheeprl.utils.errors import ConfigError

LEFT = {
    "LOCAL_RANK": "1",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "1",
    "NODE_RANK": "1",
    "LT_DEVICES": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    rank_variables.STARTED_BY: "0",
}


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    """Environment without the variables, and a function that sets some."""
    for name in list(os.environ):
        if name in rank_variables.NAMES or name.startswith(rank_variables.PREFIXES):
            monkeypatch.delenv(name)

    def change(values):
        """Set variables."""
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


def test_variables_that_were_left_are_hidden_and_come_back(variables):
    """Foreign variables are hidden during a run and restored after it."""
    variables(LEFT)
    before = dict(os.environ)
    with rank_variables.only_own():
        assert not LEFT.keys() & os.environ.keys()
        assert rank_variables.local_rank() == 0 and rank_variables.world_size_of_fabric() is None
        os.environ["LOCAL_RANK"] = "0"  # as Lightning does
    assert dict(os.environ) == before


def test_variables_of_lightning_concern_no_later_run():
    """Variables that Lightning sets are removed after the run."""
    with rank_variables.only_own():
        os.environ.update(LEFT)
    assert not LEFT.keys() & os.environ.keys()


def test_a_rank_of_the_run_keeps_its_variables(variables):
    """A rank of the run uses its variables."""
    variables(LEFT | {rank_variables.STARTED_BY: str(os.getppid())})
    with rank_variables.only_own():
        assert rank_variables.local_rank() == 1 and os.environ["MASTER_PORT"] == "1"


def test_a_rank_of_fabric_run_keeps_its_variables(variables):
    """A rank of `fabric run` uses its variables."""
    variables(LEFT | {"LT_CLI_USED": "1", "TORCHELASTIC_RUN_ID": "none"})
    with rank_variables.only_own():
        assert rank_variables.local_rank() == 1 and rank_variables.world_size_of_fabric() == 4


def test_several_processes_of_torchrun_are_refused(variables):
    """Several processes of torchrun are refused."""
    variables({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    with pytest.raises(ConfigError, match=r"use trainer\.devices=2 without torchrun"), rank_variables.only_own():
        pass


def test_one_process_of_torchrun_trains(variables):
    """One process of torchrun trains."""
    variables({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    with rank_variables.only_own():
        assert rank_variables.local_rank() == 0
