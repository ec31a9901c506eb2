"""Defaults that depend on other settings or on the machine."""

import pytest

from sheeprl.config import defaults
from sheeprl.config.loading import load_config, validate


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


def test_trainers_get_the_defaults_of_their_machine():
    """Threads and compiling follow from the trainers' machine, unless the user has set them."""
    words = ["algo.hidden_sizes=[2048,2048]", "algo.batch_size=4096", "run.total_steps=1000000"]
    given = load_config("sac", words)
    resolved, large = defaults.fill_in(given), defaults.Machine(cores=33, has_compiler=True)
    fitted = defaults.fit_to(resolved, large, defaults.open_settings(given)).trainer
    assert (fitted.threads, fitted.compile) == (32, True)
    bare = defaults.fit_to(resolved, defaults.Machine(8, False), defaults.open_settings(given)).trainer
    assert (bare.threads, bare.compile) == (7, False)
    own = load_config("sac", [*words, "trainer.threads=3", "trainer.compile=false"])
    fitted = defaults.fit_to(defaults.fill_in(own), large, defaults.open_settings(own)).trainer
    assert (fitted.threads, fitted.compile) == (3, False)
