"""Defaults that depend on other settings or on the machine."""

import pytest

from sheeprl.config import defaults
from sheeprl.config.loading import validate


@pytest.mark.parametrize(
    ("algo", "threads"),
    [
        ({"name": "ppo"}, 1),  # 64-wide layers, minibatches of 64
        ({"name": "ppo", "hidden_sizes": [1024, 64]}, 3),
        ({"name": "ppo", "batch_size": 2048}, 3),
        ({"name": "sac"}, 3),
        ({"name": "sac", "hidden_sizes": [32, 32]}, 1),
        ({"name": "sac", "hidden_sizes": []}, 3),
    ],
)
def test_threads_follow_the_size_of_the_networks(monkeypatch, algo, threads):
    """Small networks get one thread, others all cores but one."""
    monkeypatch.setattr(defaults, "available_cores", lambda: 4)
    assert defaults.fill_in(validate({"algo": algo, "env": {"id": "none"}})).trainer.threads == threads


def test_threads_that_are_set_stay():
    """A set number of threads is not replaced."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}, "trainer": {"threads": 3}}
    assert defaults.fill_in(validate(tree)).trainer.threads == 3
