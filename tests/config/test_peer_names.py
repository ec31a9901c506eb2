"""Test the names of settings in other libraries."""

import pytest

from sheeprl.algos import registry
from sheeprl.config.loading import inspect
from sheeprl.config.peer_names import LIBRARIES, PEERS
from sheeprl.config.schema import Config, config_class, leaves
from tools import migration

MODELS = {name: config_class(registry.args_class(name)) for name in registry.registered()}
KEYS = {key for model in MODELS.values() for key, _ in leaves(model)}


def owners(key):
    """Return the algorithms that have a setting: `a, b and c`."""
    *others, last = [name for name, model in MODELS.items() if key in dict(leaves(model))]
    return f"{', '.join(others)} and {last}" if others else last


def test_every_target_is_a_setting():
    """Every name leads to existing settings or has a note."""
    for name, peer in PEERS.items():
        for use in peer.uses:
            assert {setting.partition("=")[0] for setting in use.settings} <= KEYS, name
            assert use.settings or use.note, name


def test_the_table_covers_every_library():
    """The table has at least 200 names, and 20 of every library."""
    assert len(PEERS) >= 200
    for library in LIBRARIES:
        assert sum(library in peer.libraries for peer in PEERS.values()) >= 20


def test_the_page_is_generated_from_the_table():
    """The migration page is generated from the table."""
    assert migration.PAGE.read_text(encoding="utf-8") == migration.page(), "run python -m tools.migration"


@pytest.mark.parametrize("algorithm", MODELS)
def test_every_name_gets_a_hint(algorithm):
    """Every name of another library gets a hint."""
    tree = {"algo": {"name": algorithm}, "env": {"id": "CartPole-v1"}}
    unknown = [name for name in PEERS if name not in ("env.id",) and name.partition(".")[0] not in Config.model_fields]
    _, mistakes = inspect({**tree, **dict.fromkeys(unknown, 1)})
    lines = dict(mistake.split(": unknown setting", 1) for mistake in mistakes)
    known = {key for key, _ in leaves(MODELS[algorithm])}
    for name in unknown:
        hint = lines[name]
        here = [[key for key in use.settings if key.partition("=")[0] in known] for use in PEERS[name].uses]
        meant = next((keys for keys in here if keys), None)
        if f"algo.{name}" in known:
            assert f"did you mean algo.{name}" in hint
        elif meant:
            assert all(key in hint for key in meant), (name, hint)
        elif PEERS[name].uses[0].settings:
            owners = set(hint.rpartition(" of ")[2].split())
            assert owners & {*MODELS, "algorithms"}, (name, hint)
        else:
            assert hint == f"; {PEERS[name].uses[0].note}"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("algo.lr", "; use algo.learning_rate"),
        ("env.name", "; use env.id"),
        ("buffer.buffer_size", "; use buffer.size (rows)"),
        ("trainer.num_gpus", "; use trainer.devices (one rank each; with trainer.accelerator=cuda)"),
        ("fabric.devices", "; use trainer.devices (one rank each; with trainer.accelerator=cuda)"),
        ("algo.optimizer.lr", "; use algo.learning_rate"),
        ("algo.actor.optimizer.lr", f"; corresponds to algo.actor_lr of {owners('algo.actor_lr')}"),
        ("algo.utd", f"; corresponds to algo.replay_ratio of {owners('algo.replay_ratio')}"),
        ("log.freq", "; use log.every (policy steps over all environments)"),
    ],
)
def test_a_name_in_a_group_gets_a_hint(key, hint):
    """A name inside a section gets a hint."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}
    below = tree
    *groups, leaf = key.split(".")
    for group in groups:
        below = below.setdefault(group, {})
    below[leaf] = 1
    assert inspect(tree)[1] == [f"{key}: unknown setting{hint}"]


def test_an_environment_without_its_group_gets_the_setting():
    """An environment without its section gets a hint to `env.id`."""
    tree = {"algo": {"name": "ppo"}, "env": "CartPole-v1"}
    assert inspect(tree)[1][0] == "env=CartPole-v1: must be a section of settings; use env.id=CartPole-v1"


def test_an_algorithm_without_its_section_gets_the_setting():
    """An algorithm without its section gets the setting."""
    tree = {"algo": "sac", "env": {"id": "CartPole-v1"}}
    assert inspect(tree)[1][0] == "algo=sac: must be a section of settings with a name; use algo.name=sac"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("wandb_project_name", ["log.to", "WANDB_PROJECT"]),
        ("track", ["log.to", "wandb"]),
        ("mlflow_tracking_uri", ["log.to", "MLFLOW_TRACKING_URI"]),
        ("exp_name", ["run.name"]),
        ("best_model_save_path", ["checkpoint.keep_best", "checkpoint.best_by"]),
        ("upload_model", ["sheeprl push"]),
        ("anneal_lr", ["algo.final_learning_rate=0"]),
        ("reward_threshold", ["run.until"]),
        ("n_trials", ["sheeprl tune"]),
        ("seeds", ["sheeprl sweep"]),
    ],
)
def test_a_name_leads_to_the_setting_or_command_of_the_same_purpose(key, words):
    """Trackers, names of runs, best checkpoints, the hub, searches and sweeps have a hint of their own."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}, key: 1}
    (mistake,) = inspect(tree)[1]
    assert all(word in mistake for word in words)


def test_the_page_names_the_commands_for_a_trained_policy():
    """The migration page leads to the commands and functions that use a trained policy."""
    page = migration.page()
    rows = dict(line.strip("| ").rsplit(" | ", 1) for line in page.splitlines() if line.startswith("| `"))
    assert rows["`python enjoy.py`"] == "`sheeprl enjoy RUN`"
    assert any("PPO.load" in there and "sheeprl.load_policy" in here for there, here in rows.items())
