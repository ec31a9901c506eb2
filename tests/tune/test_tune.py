"""Test the search for settings: its space, its trials, and the settings that it writes."""

import json
from pathlib import Path

import pytest

from sheeprl import ConfigError, load_config
from sheeprl.tune import trial as trials
from sheeprl.tune.search import (
    Search,
    Trial,
    check_search,
    first_settings,
    fits,
    ranked,
    with_evaluations,
    write_results,
)
from sheeprl.tune.space import Choices, Range, declared_space, parse_range

TREE = {
    "algo": {"name": "ppo", "rollout_steps": 16, "batch_size": 64, "epochs": 1, "hidden_sizes": [8]},
    "env": {"id": "CartPole-v1"},
    "run": {"total_steps": 200, "seed": 3},
    "eval": {"episodes": 2, "every": 100},
    "trainer": {"compile": False},
}
SETTINGS = [
    f"{section}.{key}={json.dumps(value)}"
    for section, part in TREE.items()
    for key, value in part.items()
    if (section, key) != ("algo", "name")
]
"""Settings of TREE for the command line, where the algorithm stands before them."""


def search(folder, **changes):
    """Return a search in a folder."""
    space = {"algo.learning_rate": Range(1e-4, 1e-2, log=True), "algo.gamma": Choices(("0.9", "0.99"))}
    return Search(TREE, **{"space": space, "folder": folder, "trials": 3, **changes})


def sheeprl(*words):
    """Run a command and return its exit code."""
    from sheeprl.cli import main

    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def test_ranges_on_the_command_line():
    """A range is a function of its bounds; several values are choices; a single value is no range."""
    assert parse_range("a", "log(1e-5, 1e-2)") == Range(1e-5, 1e-2, log=True)
    assert parse_range("a", "uniform(-1,1)") == Range(-1.0, 1.0)
    assert parse_range("a", "int(2,8)") == Range(2.0, 8.0, whole=True)
    assert parse_range("a", "[64,64],[256,256]") == Choices(("[64,64]", "[256,256]"))
    assert parse_range("a", "0..2") == Choices(("0", "1", "2"))
    assert parse_range("a", "[64,64]") is None


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("log(0,1)", "the bounds of a logarithm must be positive"),
        ("uniform(2,1)", "the first bound must be less"),
        ("int(0.5,2)", "must be whole numbers"),
        ("log(1,x)", "must be numbers"),
    ],
)
def test_wrong_ranges_are_one_line(text, mistake):
    """The line names the setting and its text."""
    with pytest.raises(ConfigError, match=rf"algo\.clip={text[:3]}.*{mistake}"):
        parse_range("algo.clip", text)


def test_arguments_declare_their_ranges():
    """An algorithm's ranges include its defaults; those without an effect are left out."""
    space = declared_space({"algo": {"name": "sac"}, "env": {"id": "Pendulum-v1"}, "run": {"total_steps": 1000}})
    assert space["algo.tau"] == Range(1e-3, 0.1, log=True)
    assert "0.99" in space["algo.gamma"].texts and "algo.alpha_lr" in space
    fixed = {"name": "sac", "learn_alpha": False}
    space = declared_space({"algo": fixed, "env": {"id": "Pendulum-v1"}, "run": {"total_steps": 1000}})
    assert "algo.alpha_lr" not in space and "algo.actor_lr" in space


@pytest.mark.parametrize("name", ["a2c", "dqn", "dreamer_v3", "impala", "pqn", "r2d2", "td3"])
def test_every_algorithm_has_a_range(name):
    """A search of an algorithm needs no range on the command line."""
    env = "Pendulum-v1" if name in ("td3",) else "CartPole-v1"
    assert declared_space({"algo": {"name": name}, "env": {"id": env}, "run": {"total_steps": 100_000}})


def test_first_trial_has_the_given_settings(tmp_path):
    """Values out of the space are replaced by the nearest ones."""
    given = search(tmp_path)
    assert first_settings(given) == {"algo.learning_rate": 3e-4, "algo.gamma": "0.99"}
    bounded = search(
        tmp_path, space={"algo.entropy_coef": Range(1e-3, 0.1, log=True), "algo.epochs": Range(2, 5, whole=True)}
    )
    assert first_settings(bounded) == {"algo.entropy_coef": 1e-3, "algo.epochs": 2}


def test_values_that_do_not_fit_together_are_drawn_again(tmp_path):
    """Minibatches larger than a rollout are no trial, and don't come again as one."""
    pytest.importorskip("pandas")
    optuna = pytest.importorskip("optuna")
    from sheeprl.tune.suggestions import FittingSuggestions

    space = {"algo.batch_size": Choices(("16", "4096")), "algo.rollout_steps": Range(8, 16, whole=True)}
    wide = search(tmp_path, space=space)
    assert fits(wide, {"algo.batch_size": "16", "algo.rollout_steps": 8})
    assert not fits(wide, {"algo.batch_size": "4096", "algo.rollout_steps": 8})
    distributions = {"algo.batch_size": optuna.distributions.CategoricalDistribution(("16", "4096"))}
    draws = FittingSuggestions(
        lambda values: fits(wide, values), space=distributions, metric="score", mode="max", seed=0
    )
    assert [draws.suggest(f"trial {number}") for number in range(20)] == [{"algo.batch_size": "16"}] * 20


def test_mistakes_of_a_search_are_listed(tmp_path):
    """Mistakes are listed together, before Ray starts."""
    wrong = search(tmp_path, space={"algo.clip": Range(-1.0, 1.0), "algo.gama": Choices(("0.9", "1"))})
    with pytest.raises(ConfigError) as error:
        check_search(wrong)
    text = "\n".join(error.value.mistakes)
    assert "algo.clip=-1.0" in text and "algo.gama" in text
    with pytest.raises(ConfigError, match="--trials N or --budget TIME, such as 2h"):
        check_search(search(tmp_path, trials=None))
    with pytest.raises(ConfigError, match="nothing is searched"):
        check_search(search(tmp_path, space={}))
    check_search(search(tmp_path))


def test_trial_trains_its_seeds_and_continues(tmp_path):
    """The score is the mean over the seeds so far; a second call trains no finished seed again."""
    given, reports = search(tmp_path, seeds=2), []
    settings = {"algo.learning_rate": 1e-3, "algo.gamma": "0.9"}
    trials.run_trial(given, settings, tmp_path / "trial", lambda score, steps: reports.append((score, steps)))
    scores = [trials.score_of(tmp_path / "trial" / f"seed_{number}", "eval/return") for number in (0, 1)]
    assert reports[-1] == (sum(scores) / 2, 400)
    assert [steps for _, steps in reports] == sorted(steps for _, steps in reports) and len(reports) >= 4
    one, two = (load_config(str(tmp_path / "trial" / f"seed_{number}" / "config.yaml")) for number in (0, 1))
    assert (one.run.seed, two.run.seed, one.algo.gamma) == (3, 4, 0.9)
    again = []
    trials.run_trial(given, settings, tmp_path / "trial", lambda score, steps: again.append((score, steps)))
    assert again == [(scores[0], 200), reports[-1]]


def test_best_settings_are_a_configuration(tmp_path):
    """The best complete trial is written as YAML that runs."""
    given = search(tmp_path)
    done = Trial({"algo.learning_rate": 2e-3, "algo.gamma": "0.9"}, 20.0, 200, "done")
    pruned = Trial({"algo.learning_rate": 9e-3, "algo.gamma": "0.9"}, 50.0, 70, "pruned")
    failed = Trial({"algo.learning_rate": 1e-3, "algo.gamma": "0.9"}, None, 0, "failed", "no")
    order = ranked([failed, pruned, done])
    assert order == [done, pruned, failed]
    path = write_results(given, order, "sheeprl tune ppo")
    config = load_config(str(path))
    assert (config.algo.learning_rate, config.algo.gamma, config.run.seed) == (2e-3, 0.9, 3)
    assert path.read_text().startswith("# ppo on CartPole-v1: eval/return 20.00 over 1 seed, the best of 3 trials\n")
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 3
    assert write_results(given, [pruned], "") is None


def test_runs_of_a_search_evaluate(tmp_path):
    """Without `eval.every`, a run has eight evaluations."""
    tree = {**TREE, "eval": {"episodes": 2}}
    assert with_evaluations(tree, "eval/return")["eval"]["every"] == 25
    assert "every" not in with_evaluations(tree, "episode/return")["eval"]


def test_command_lists_the_space(capsys):
    """Settings on the command line aren't searched, named ranges are."""
    assert sheeprl("tune", "ppo", "--gamma", "0.9", "algo.clip=uniform(0.1,0.4)", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "algo.clip=uniform(0.1,0.4)" in lines and any(line.startswith("algo.learning_rate=log") for line in lines)
    assert not any(line.startswith("algo.gamma") for line in lines)
    assert sheeprl("tune", "ppo", "--trials", "1.5") == 2
    assert "--trials 1.5: must be a whole number" in capsys.readouterr().err


def test_missing_packages_are_named_before_the_space(monkeypatch, capsys):
    """A search whose packages are missing prints one line only."""
    monkeypatch.setattr("sheeprl.cli.tune.find_spec", lambda name: None if name == "optuna" else object())
    assert sheeprl("tune", "ppo", "--trials", "2") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: tune needs optuna; use pip install") and printed.err.count("\n") == 1


def test_mistakes_of_a_population_are_listed(tmp_path):
    """Settings of the networks and of the environment can't change between the parts of a run."""
    from sheeprl.tune.population import check_population

    space = {
        "algo.activation": Choices(("tanh", "relu")),
        "env.num_envs": Choices(("1", "2")),
        "algo.clip": Range(0.1, 0.3),
    }
    with pytest.raises(ConfigError) as error:
        check_population(search(tmp_path, space=space, seeds=2), 1, 500)
    words = [mistake.partition(":")[0] for mistake in error.value.mistakes]
    assert words == ["algo.activation", "env.num_envs", "--population 1", "--seeds 2", "--parts 500"]
    check_population(search(tmp_path), 4, 2)


def test_part_begins_with_the_networks_of_the_part_before(tmp_path):
    """A part of the same member, or of another one that passed its networks on, is the origin."""
    from sheeprl.checkpoint.run_dir import checkpoints, read_config
    from sheeprl.tune.population import train_part

    given, settings = search(tmp_path), {"algo.learning_rate": 1e-3, "algo.gamma": "0.9"}
    first = train_part(given, settings, [], tmp_path / "a", 100)
    second = train_part(given, {**settings, "algo.gamma": "0.99"}, [first], tmp_path / "b", 100)
    assert (first.policy_steps, second.policy_steps) == (100, 200)
    config = read_config(Path(second.folder))
    origin = checkpoints(Path(first.folder))[-1]
    assert train_part(given, settings, [], tmp_path / "a", 100) == first  # without a second training
    assert (config["algo"]["init_from"], config["algo"]["gamma"]) == (str(origin), 0.99)


def test_changed_settings_stay_in_their_ranges(tmp_path):
    """Numbers are multiplied and texts are replaced by neighbors, within the space."""
    pytest.importorskip("pandas")  # which Ray Tune needs
    pbt = pytest.importorskip("ray.tune.schedulers.pbt")
    from sheeprl.tune.population import _mutations, within_ranges

    given = search(tmp_path)
    for settings in (
        {"algo.learning_rate": 1e-2, "algo.gamma": "0.9"},
        {"algo.learning_rate": 1e-4, "algo.gamma": "0.99"},
    ):
        changed, _ = pbt._explore(settings, _mutations(given), 0.25, (1.2, 0.8), lambda new: within_ranges(given, new))
        assert 1e-4 <= changed["algo.learning_rate"] <= 1e-2 and changed["algo.gamma"] in ("0.9", "0.99")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_population_passes_networks_on(tmp_path, capsys):
    """Each member trains each part; the lineage of the best one is on file."""
    pytest.importorskip("optuna")
    pytest.importorskip("pandas")
    command = ["tune", "ppo", "--population", "3", "--parts", "2", "--out", tmp_path / "search", *SETTINGS]
    assert sheeprl(*command, "algo.gamma=0.9", "algo.gae_lambda=0.9") == 0
    lineage = [json.loads(line) for line in (tmp_path / "search" / "best.jsonl").read_text().splitlines()]
    assert [part["policy_steps"] for part in lineage] == [100, 200]
    assert "sheeprl eval" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_search_finds_prunes_and_continues(tmp_path, capsys):
    """A search ends with a configuration; the same command with more trials is refused, an equal one adds nothing."""
    pytest.importorskip("optuna")
    pytest.importorskip("pandas")
    command = ["tune", "ppo", "--seeds", "1", "--out", tmp_path / "search", *SETTINGS]
    command += ["algo.learning_rate=log(1e-6,1e-2)"]
    assert sheeprl(*command, "--trials", "3") == 0
    found = [json.loads(line) for line in (tmp_path / "search" / "trials.jsonl").read_text().splitlines()]
    assert len(found) == 3 and found[0]["status"] == "done" and found[0]["policy_steps"] == 200
    assert all((tmp_path / "search" / trial["folder"] / "seed_0").is_dir() for trial in found)
    assert {trial["status"] for trial in found} <= {"done", "pruned"}
    assert load_config(str(tmp_path / "search" / "best.yaml")).run.total_steps == 200
    assert sheeprl(*command, "--trials", "3") == 0
    assert "continuing the search" in capsys.readouterr().out
    assert sheeprl(*command, "--trials", "3", "algo.clip=0.3") == 2
    assert "has runs with no algo.clip, not algo.clip=0.3" in capsys.readouterr().err
    assert sheeprl(*command, "--trials", "4") == 2
    assert "has runs with trials=3, not trials=4" in capsys.readouterr().err
