"""Test the commands with settings."""

import sys
from pathlib import Path

import pytest
import yaml

from sheeprl.checkpoint.run_dir import locked
from sheeprl.cli.flags import OWN_FLAGS, Flags
from sheeprl.config.loading import load_config
from sheeprl.config.peer_names import PEERS
from sheeprl.config.schema import Config

TREE = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}


def test_train_understands_both_dialects(sheeprl, training):
    """`train` accepts flags and overrides."""
    done = sheeprl("train", "ppo", "--env", "CartPole-v1", "--seed", "3", "algo.gamma=0.9")
    assert (done.code, done.err) == (0, "")
    assert training.tree["run"]["seed"] == 3 and training.tree["algo"]["gamma"] == 0.9
    assert training.tree["env"] == {"id": "CartPole-v1", "num_envs": 4}
    assert done.out == (
        "using shipped configuration ppo (ppo on CartPole-v1); `sheeprl ppo` starts from the algorithm's defaults\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["run", "ppo", "--seed", "3", "algo.gamma=0.9", "--anneal"],
        ["run", "--anneal", "ppo", "run.seed=3", "--gamma=0.9"],
        ["train", "--seed", "3", "--gamma", "0.9", "ppo", "algo.anneal=true"],
        ["ppo", "--env", "CartPole-v1", "run.seed=3", "--gamma", "0.9", "--anneal"],
    ],
)
def test_every_command_that_trains_understands_both_dialects(sheeprl, training, words):
    """Every command that trains accepts flags and overrides."""
    assert sheeprl(*words).code == 0
    assert training.tree["run"]["seed"] == 3 and training.tree["env"]["id"] == "CartPole-v1"
    assert (training.tree["algo"]["gamma"], training.tree["algo"]["anneal"]) == (0.9, True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ppo_pendulum"], "using shipped configuration ppo_pendulum (ppo on Pendulum-v1)"),
        (["sac", "--env", "HalfCheetah-v5"], "using shipped configuration sac_halfcheetah (sac on HalfCheetah-v5);"),
        (["mine.yaml"], "using configuration mine.yaml (ppo on CartPole-v1)"),
    ],
)
def test_train_prints_the_meaning_of_the_name(sheeprl, training, tmp_path, monkeypatch, words, line):
    """`train` prints the meaning of the name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TREE))
    done = sheeprl("train", *words)
    assert done.code == 0 and done.out.startswith(line) and done.out.count("\n") == 1


def test_only_the_first_rank_prints_it(sheeprl, training, monkeypatch):
    """Only the first rank prints the meaning of the name."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert sheeprl("train", "ppo").out == ""


def test_train_starts_an_algorithm_from_a_configuration(sheeprl, training):
    """`train` starts an algorithm from a configuration."""
    assert sheeprl("train", "ppo", "--config", "ppo_pendulum", "--seed", "1").code == 0
    assert training.tree["env"]["id"] == "Pendulum-v1" and training.tree["run"]["seed"] == 1
    done = sheeprl("train", "ppo_pendulum", "--config", "ppo")
    assert done.errors == ["--config ppo: ppo_pendulum isn't an algorithm; use sheeprl train ppo"]


def test_the_algorithm_of_an_override_has_its_flags(sheeprl, training):
    """An override of the algorithm selects its flags."""
    assert sheeprl("run", "ppo", "algo.name=sac", "--critic_lr", "1e-3", "env.id=Pendulum-v1").code == 2
    assert training.tree["algo"]["critic_lr"] == 1e-3
    done = sheeprl("run", "ppo", "algo.name=pppo", "--critic_lr", "1e-3")
    (mistake,) = done.errors
    assert mistake.startswith("algo.name=pppo: unknown algorithm") and mistake.endswith(
        "did you mean ppo? (list: sheeprl algos)"
    )


def test_arguments_of_a_configuration_for_another_algorithm_are_named_as_such(sheeprl, training):
    """Unknown arguments that come from the configuration lead to the command of the algorithm."""
    done = sheeprl("train", "ppo", "algo.name=dqn", "algo.clip=0.1")
    assert done.code == 2
    assert (
        "algo.rollout_steps=128: comes from the configuration, which is for ppo, and dqn has no such setting; use "
        "sheeprl dqn"
    ) in done.errors
    assert any(line.startswith("algo.clip: unknown setting") for line in done.errors)


def test_an_algorithm_s_command_trains_this_algorithm(sheeprl, training):
    """The command of an algorithm trains no other one."""
    done = sheeprl("ppo", "--env", "CartPole-v1", "algo.name=sac")
    assert done.code == 2 and "algo.name=sac: this command trains ppo; use sheeprl train" in done.errors


def test_mistakes_of_words_and_of_settings_are_reported_together(sheeprl, training):
    """Mistakes of words and of settings are reported together."""
    done = sheeprl("run", "ppo", "--sed", "1", "run.total_steps=-1", "env.nmu_envs=3", "--num_envs")
    assert (done.code, training.trees) == (2, [])
    assert done.errors == [
        "--sed: unknown flag; did you mean --seed? (list: sheeprl run ppo -h all)",
        "--num_envs: needs a value, as in --num_envs 8",
        "env.nmu_envs: unknown setting; did you mean env.num_envs?",
        "run.total_steps=-1: must be at least 1",
    ]


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (
            ["train"],
            "NAME: is missing; Usage: sheeprl train NAME [--setting VALUE | key=value]..., as in sheeprl train",
        ),
        (["train", "--env", "CartPole-v1"], "NAME: is missing; "),
        (["train", "pppo"], "pppo: isn't a file, a shipped configuration or an algorithm; did you mean ppo? ("),
        (
            ["train", "rppo"],
            "rppo: isn't a file, a shipped configuration or an algorithm; use sheeprl train ppo_recurrent",
        ),
        (["run", "rainbow"], "rainbow: isn't a file or a shipped configuration; use sheeprl train rainbow_atari"),
        (["run", "my_ppo:MyPPO"], "my_ppo:MyPPO: is an algorithm, not a configuration; use sheeprl train my_ppo:MyPPO"),
        (["run", "pppo"], "pppo: isn't a file or a shipped configuration; did you mean ppo? (list: sheeprl configs)"),
        (["run", "no/x.yaml"], "no/x.yaml: isn't a file or a shipped configuration; list them with sheeprl configs"),
        (
            ["ppo", "--config", "x"],
            "--config x: isn't a file or a shipped configuration; list them with sheeprl configs",
        ),
    ],
)
def test_a_missing_or_unknown_name_is_one_line(sheeprl, training, words, mistake):
    """The message for a missing or unknown name is one line."""
    done = sheeprl(*words)
    assert (done.code, done.out, training.trees) == (2, "", [])
    assert len(done.errors) == 1 and done.errors[0].startswith(mistake)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_every_name_of_another_library_gets_its_hint_as_a_flag(sheeprl, training, algorithm):
    """Every name of another library gets a hint to a flag."""
    from sheeprl.algos import registry

    flags = Flags(registry.args_class(algorithm))
    names = [name for name in PEERS if flags.find(name)[0] is None and name not in OWN_FLAGS]
    done = sheeprl(algorithm, "--env", "CartPole-v1", *(f"--{name}=1" for name in names))
    assert done.code == 2 and training.trees == []
    lines = dict(mistake.split(": ", 1) for mistake in done.errors)
    for name in names:
        here = [[flags.name_of(key) for key in use.settings if key in flags.by_key] for use in PEERS[name].uses]
        for flag in next((found for found in here if found), []):
            assert flag in lines[f"--{name}"], name
        assert "; " in lines[f"--{name}"], name


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--clip-coef", "use --clip"),
        ("--num-gpus", "use --devices (one rank each; with trainer.accelerator=cuda)"),
        ("--n_critics", "corresponds to algo.critics of droq, sac"),
        ("--env.name", "use --env"),
        ("--total_timesteps", "use --total_steps"),
    ],
)
def test_a_flag_of_another_library_gets_a_flag(sheeprl, training, flag, hint):
    """The message for a flag of another library names the flag to use."""
    done = sheeprl("ppo", "--env", "CartPole-v1", flag, "2")
    (mistake,) = done.errors
    assert mistake.startswith(f"{flag}: unknown flag; {hint}") and mistake.endswith(" (list: sheeprl ppo -h all)")


# ------------------------------------------------------------------------------------------- dry run


ENV = "CartPole-v1"


def test_a_dry_run_checks_and_stops(sheeprl, training, tmp_path, monkeypatch):
    """A dry run checks the settings and stops."""
    monkeypatch.chdir(tmp_path)
    shipped, defaults = "60,000", "100,000"
    for words, steps in ((["run", "ppo"], shipped), (["train", "ppo"], shipped), (["ppo", "--env", ENV], defaults)):
        done = sheeprl(*words, "--dry-run", "run.mode=coupled")
        assert (done.code, done.err, training.trees) == (0, "", [])
        assert done.out.splitlines()[-1] == (
            f"valid: ppo on {ENV}, run.mode=coupled, {steps} policy steps; nothing was started"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_finds_the_mistakes_of_the_environment_and_the_folder(sheeprl, training, tmp_path):
    """A dry run finds mistakes of the environment and the folder."""
    done = sheeprl("run", "ppo", "--dry-run", "env.id=NoSuchEnv-v0", "algo.batch_size=100000")
    assert done.code == 2 and len(done.errors) == 2 and "NoSuchEnv" in done.errors[0]
    (tmp_path / "config.yaml").touch()
    done = sheeprl("run", "ppo", "--dry-run", f"run.dir={tmp_path}")
    assert done.code == 2
    assert (
        "already contains a run; it ended before its first checkpoint: repeat its command with run.resume=auto"
        in (done.errors[0])
    )


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_a_dry_run_finds_missing_devices_and_folders_that_can_not_be_written(sheeprl, tmp_path, monkeypatch, mode):
    """A dry run finds missing devices and folders that can't be written."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "file").touch()
    words = ["run", "sac", "--dry-run", f"run.mode={mode}"]
    done = sheeprl(*words, "trainer.accelerator=cuda", "trainer.devices=2")
    assert done.code == 2 and len(done.errors) == 1
    assert done.errors[0].startswith(
        "trainer.devices=2: this machine has 1 CUDA GPU; use trainer.devices=1 or trainer.accelerator=cpu"
    )
    done = sheeprl(*words, f"run.dir={tmp_path}/file/run", "buffer.memmap=true", f"buffer.dir={tmp_path}/file/rows")
    assert done.code == 2 and len(done.errors) == 2
    assert done.errors[0].startswith(f"run.dir={tmp_path}/file/run: can't be written: ")
    assert done.errors[1].startswith(f"buffer.dir={tmp_path}/file/rows: can't be written: ")
    done = sheeprl(*words, f"run.dir={tmp_path}/a/b")
    assert done.code == 0 and not (tmp_path / "a").exists()


def test_a_dry_run_warns_of_more_ranks_than_cores(sheeprl, monkeypatch):
    """A dry run warns of more ranks than cores."""
    monkeypatch.setattr("sheeprl.metrics.summary.available_cores", lambda: 2)
    done = sheeprl("run", "ppo", "--dry-run", "run.mode=coupled", "trainer.devices=4", "trainer.threads=1")
    assert "warning: 4 threads of the trainer share 2 cores: lower trainer.devices" in done.out


# -------------------------------------------------------------------------------------------- config


def test_config_prints_all_settings(sheeprl, tmp_path):
    """`config` prints all settings of a configuration."""
    done = sheeprl("config", "ppo", "--seed", "3", "algo.gamma=0.9")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("# shipped configuration ppo (ppo on CartPole-v1)")
    printed = yaml.safe_load(done.out)
    assert list(printed) == list(Config.model_fields)
    assert printed["run"]["seed"] == 3 and printed["algo"]["gamma"] == 0.9
    assert printed["players"]["num"] == 1 and printed["checkpoint"]["every"] == 6000  # defaults are filled in
    path = tmp_path / "mine.yaml"
    path.write_text(done.out)
    assert load_config(path, ["algo.rollout_steps=64"]).algo.gamma == 0.9


def test_config_prints_the_difference_from_the_defaults(sheeprl):
    """`config --diff` prints the difference from the defaults."""
    done = sheeprl("config", "ppo", "--diff", "algo.gamma=0.9", "--hidden_sizes", "[64, 64]", "--no-anneal")
    assert done.out.splitlines()[1:] == [
        "algo.name=ppo",
        "algo.gamma=0.9  # default 0.99",
        "env.id=CartPole-v1",
        "run.total_steps=60000  # default 100000",
    ]


def test_configurations_are_compared(sheeprl, tmp_path):
    """A NAME after `--diff` takes the place of the defaults; settings that it doesn't have are shown."""
    path = tmp_path / "mine.yaml"
    path.write_text("base: ppo\nalgo: {gamma: 0.9}\n")
    for words in (["--diff", "ppo"], ["--diff=ppo"]):
        lines = sheeprl("config", str(path), *words).out.splitlines()[1:]
        assert len(lines) == 1 and lines[0].startswith("algo.gamma=0.9  # ppo ")
    assert "algo.gamma=0.9" in sheeprl("config", str(path), "--diff").out
    assert len(sheeprl("config", "--diff", "ppo").out.splitlines()) > 1
    other = sheeprl("config", "a2c", "--diff", "ppo").out
    assert "algo.name=a2c  # ppo ppo" in other


def test_config_reports_every_mistake(sheeprl):
    """`config` reports every mistake."""
    done = sheeprl("config", "ppo", "algo.lr=3", "run.seed=-1")
    assert (done.code, done.out) == (2, "")
    assert done.errors == [
        "algo.lr: unknown setting; use algo.learning_rate",
        "run.seed=-1: must be at least 0",
    ]
    assert sheeprl("config", "sac:SAC").code == 2


# ---------------------------------------------------------------------------------------------- runs


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run in the logs of the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs/ppo/CartPole-v1/2026-11-29_10-00-00_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(TREE))
    (folder / "metrics.jsonl").touch()
    return "logs/ppo/CartPole-v1/2026-11-29_10-00-00_0"


@pytest.mark.parametrize("name", ["@last", "2026", "ppo/Cart"])
def test_resume_takes_the_newest_run_and_prefixes(sheeprl, training, monkeypatch, run_dir, name):
    """`resume` accepts `@last` and unique prefixes."""
    requests = []
    monkeypatch.setattr("sheeprl.checkpoint.resume.resume_tree", lambda *what: requests.append(what) or TREE)
    assert sheeprl("resume", name, "--total_steps", "9", "--clip", "0.1", "run.seed=1").code == 0
    assert requests == [(run_dir, ["run.total_steps=9", "algo.clip=0.1", "run.seed=1"])]


def test_a_resume_can_be_checked_without_starting(sheeprl, monkeypatch, run_dir):
    """`resume --dry-run` checks the settings and stops."""
    tree = {**TREE, "run": {"resume": True, "dir": run_dir, "total_steps": 200000, "mode": "coupled"}}
    monkeypatch.setattr("sheeprl.checkpoint.resume.resume_tree", lambda *what: tree)
    done = sheeprl("resume", run_dir, "--dry-run")
    assert (done.code, done.errors) == (0, [])
    assert done.out.strip().endswith("200,000 policy steps; nothing was started")


def test_further_ranks_resume_the_run_that_was_the_newest_one(sheeprl, training, monkeypatch, run_dir):
    """Further ranks resume the run that the first rank found."""
    monkeypatch.setattr("sheeprl.checkpoint.resume.resume_tree", lambda *what: TREE)
    monkeypatch.setattr("sys.argv", ["sheeprl", "resume", "@last", "--seed", "3"])
    sheeprl("resume", "@last", "--seed", "3")
    assert sys.argv == ["sheeprl", "resume", run_dir, "--seed", "3"]


def test_resume_shows_the_settings_of_the_run(sheeprl, run_dir):
    """The help of `resume` shows the settings of the run."""
    assert "--clip" in sheeprl("resume", "@last", "-h").out
    assert "--clip" not in sheeprl("resume", "-h").out


def test_resume_refuses_unknown_flags(sheeprl, training, run_dir):
    """`resume` refuses unknown flags."""
    done = sheeprl("resume", "@last", "--total_timesteps", "9")
    assert done.errors == ["--total_timesteps: unknown flag; use --total_steps (list: sheeprl resume @last -h all)"]


def test_replay_says_that_the_run_is_in_progress(sheeprl, monkeypatch, run_dir):
    """Replay says that the run is in progress."""
    (tmp := Path(run_dir) / "record.jsonl").write_text('["begin", {"config": ""}]\n')
    done = sheeprl("replay", "@last")
    assert done.code == 2 and done.errors == [
        f"{tmp.resolve()}: holds no collected fragment, so there is nothing to compare"
    ]
    with locked(Path(run_dir)):
        done = sheeprl("replay", "@last")
    assert done.code == 2 and done.errors[0].startswith(
        "warning: the run is in progress; only the calls recorded so far"
    )


def test_ls_lists_the_runs(sheeprl, run_dir):
    """`ls` lists the runs."""
    done = sheeprl("ls")
    head, row = done.out.splitlines()
    assert head.split("  ")[0] == "run" and row.split() == [
        *("ppo/CartPole-v1/2026-11-29_10-00-00_0", *row.split()[1:3], "failed", "ppo", "CartPole-v1", "none")
    ]
    for folder in ("logs/ppo", run_dir):
        assert sheeprl("ls", folder).out.splitlines()[1].split()[0] == run_dir
    assert sheeprl("ls", "nowhere").errors == ["nowhere: no such folder or run; use one of sheeprl ls"]


def test_ls_without_runs_shows_how_to_start_one(sheeprl, tmp_path, monkeypatch):
    """`ls` without runs shows how to start one."""
    monkeypatch.chdir(tmp_path)
    done = sheeprl("ls")
    assert (done.code, done.out) == (0, f"no run in {tmp_path}; start one with sheeprl train ppo\n")


def test_configs_lists_the_shipped_configurations(sheeprl):
    """`configs` lists the shipped configurations."""
    head, *rows = sheeprl("configs").out.splitlines()
    assert head.split()[:3] == ["name", "algorithm", "environment"]
    (row,) = [row for row in rows if row.startswith("sac_halfcheetah ")]
    assert row.split()[:4] == ["sac_halfcheetah", "sac", "HalfCheetah-v5", "300,000"]


@pytest.mark.parametrize("words", [["--traceback", "eval", "."], ["eval", ".", "--traceback"]])
def test_every_command_shows_a_traceback_on_demand(sheeprl, monkeypatch, words):
    """Every command shows a traceback on demand."""

    def fail(*question):
        """Raise an error."""
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("sheeprl.evaluate.evaluate_checkpoint", fail)
    done = sheeprl(*words)
    assert done.code == 1 and "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1] == "error: ZeroDivisionError: by zero"
    assert "--traceback" not in sys.argv
    done = sheeprl("eval", ".")
    assert done.err == "error: ZeroDivisionError: by zero (--traceback shows the traceback)\n"


def test_eval_and_replay_take_the_newest_run(sheeprl, monkeypatch, run_dir):
    """`eval` and `replay` accept `@last`."""
    requests = []

    def stop(path, *rest):
        """Record the path and stop."""
        requests.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr("sheeprl.evaluate.evaluate_checkpoint", stop)
    monkeypatch.setattr("sheeprl.debug.replayer.replay_run", stop)
    for command in ("eval", "replay"):
        assert sheeprl(command, "@last").code == 130
    assert requests == [run_dir, run_dir]
