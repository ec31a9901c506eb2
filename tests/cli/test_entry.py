"""Test the command line: flags, messages and exit codes."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import EntryPoint

import pytest
import yaml

from sheeprl import RunFailedError, __version__
from sheeprl.actors.evaluation import Evaluation
from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.sac.args import SACArgs
from sheeprl.cli.flags import flags_of
from sheeprl.config.loading import validate
from sheeprl.config.schema import config_class, leaves
from sheeprl.utils.settings import Section


def python(*words, **environment):
    """Run Python in another process."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=os.environ | environment, check=False, timeout=120
    )


# --------------------------------------------------------------------------------------- help and lists


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_every_command_and_algorithm(sheeprl, words):
    """The help names every command and algorithm."""
    done = sheeprl(*words)
    assert done.code == 0
    for name in ("run", "resume", "eval", "algos", "ppo", "sac", PPOArgs.summary, "--version", "--sheeprl_help"):
        assert name in done.out


@pytest.mark.parametrize("words", [["--help"], ["ppo", "--help"], ["algos"], ["--version"], ["run", "nowhere.yaml"]])
def test_help_and_input_mistakes_import_nothing_heavy(words):
    """Help and input mistakes import no large package."""
    code = (
        "import sys\n"
        "from sheeprl.cli import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "finally:\n"
        "    heavy = {'torch', 'ray', 'lightning', 'gymnasium', 'tensordict', 'tensorboard'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy))\n"
    )
    assert "HEAVY []" in python("-c", code).stdout.splitlines()


@pytest.mark.parametrize("words", [["algos"], ["--sheeprl_help"]])
def test_algos_is_a_table(sheeprl, words):
    """`algos` prints a table."""
    done = sheeprl(*words)
    head, *rows = done.out.splitlines()
    assert done.code == 0
    assert head.split() == ["name", "observations", "actions", "policy", "summary"]
    table = {row.split()[0]: row for row in rows}
    assert "discrete, multi-discrete, multi-binary, continuous" in table["ppo"] and " on-policy " in table["ppo"]
    assert " continuous " in table["sac"] and " off-policy " in table["sac"] and SACArgs.summary in table["sac"]
    assert len({row.index(args.summary) for row, args in ((table["ppo"], PPOArgs), (table["sac"], SACArgs))}) == 1


def test_version(sheeprl):
    """`--version` prints the version."""
    done = sheeprl("--version")
    assert (done.code, done.out.split()) == (0, ["sheeprl", __version__])


def test_the_module_runs_as_the_command_does():
    """`python -m sheeprl` is the same as the command."""
    done = python("-m", "sheeprl", "--version")
    assert (done.returncode, done.stdout.split()) == (0, ["sheeprl", __version__])


def test_an_algorithm_that_cannot_be_loaded_hides_no_other(sheeprl, monkeypatch):
    """An algorithm that can't be loaded hides no other."""
    broken = EntryPoint("broken", "no_such_package.args:Args", registry.GROUP)
    found = {**registry.registered(), "broken": broken}
    monkeypatch.setattr(registry, "registered", lambda: found)
    for words in (["--help"], ["algos"]):
        done = sheeprl(*words)
        assert done.code == 0 and PPOArgs.summary in done.out
        assert "can't be loaded: UnknownAlgorithmError" in done.out and "no_such_package" in done.out
    done = sheeprl("broken", "--env_id", "CartPole-v1")
    assert done.code == 1 and "no_such_package" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("args", [PPOArgs, SACArgs])
def test_the_help_of_an_algorithm_shows_every_setting(sheeprl, args, flag):
    """The help of an algorithm shows every setting."""
    done = sheeprl(args.algorithm.split(".")[2], flag, "all")
    assert done.code == 0
    text = " ".join(done.out.split())
    for setting in flags_of(args):
        assert f"--{setting.name} " in done.out
        assert setting.field.description.split(";")[0][:20] in text, setting.key


def test_help_shows_types_and_defaults_in_panels(sheeprl):
    """Help shows types and defaults in panels, that of the algorithm first."""
    lines = sheeprl("ppo", "-h", "all").out.splitlines()

    def line_of(flag):
        """Return the line of a flag."""
        (line,) = [line for line in lines if line.startswith(f"│ {flag} ")]
        return line

    assert " float " in line_of("--learning_rate") and "[default: 0.0003]" in line_of("--learning_rate")
    assert " true|false " in line_of("--anneal") and "[default: false]" in line_of("--anneal")
    assert " true|false|auto " in line_of("--compile")
    assert " [int, ...] " in line_of("--hidden_sizes") and "[default: [64, 64]]" in line_of("--hidden_sizes")
    assert " sync|async|native " in line_of("--vectorization")
    assert " int " in line_of("--fragment_rows") and "[default" not in line_of("--fragment_rows")  # its text says how
    assert " [default: none]" in line_of("--max_episode_steps") and "[default: auto]" in sheeprl("ppo", "-h", "all").out
    assert " text " in line_of("--env") and "[required]" in line_of("--env")
    titles = [line.split("─ ")[1].split(" ─")[0] for line in lines if line.startswith("╭")]
    assert titles == [
        "Options",
        "algo",
        "env",
        "run",
        "players",
        "buffer",
        "trainer",
        "checkpoint",
        "eval",
        "log",
        "ray",
    ]


# ---------------------------------------------------------------------------------------------- run


def test_run_trains_the_file_with_the_overrides_on_top(sheeprl, training):
    """`run` trains the configuration with the overrides."""
    done = sheeprl("run", "ppo", "run.seed=7", "algo.learning_rate=1e-3", "env.num_envs=2")
    assert done.code == 0 and done.err == ""
    assert training.tree["run"] == {**training.tree["run"], "seed": 7}
    assert training.tree["algo"]["learning_rate"] == 1e-3
    assert training.tree["env"] == {"id": "CartPole-v1", "num_envs": 2}


def test_run_reads_a_file_by_path(sheeprl, training, tmp_path):
    """`run` reads a file by its path."""
    path = tmp_path / "mine.yaml"
    path.write_text("algo: {name: sac}\nenv: {id: Pendulum-v1}\n")
    assert sheeprl("run", path).code == 0
    assert training.tree == {"algo": {"name": "sac"}, "env": {"id": "Pendulum-v1"}}


def test_every_mistake_has_its_line_on_stderr(sheeprl, training):
    """Every mistake is a line on stderr."""
    done = sheeprl("run", "ppo", "run.seed=-1", "env.num_env=3", "log.level=loud")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "error: env.num_env: unknown setting; did you mean env.num_envs?",
        "error: run.seed=-1: must be at least 0",
        "error: log.level=loud: must be debug, info, warning or error",
    ]


def test_mistakes_of_schema_and_environment_are_reported_together(sheeprl, tmp_path, monkeypatch):
    """Mistakes of the schema and of the environment are reported together."""
    monkeypatch.chdir(tmp_path)
    done = sheeprl("run", "ppo", "env.id=NoSuchEnv-v0", "run.sede=1", "run.mode=coupled")
    assert done.code == 2
    assert "run.sede: unknown setting; did you mean run.seed?" in done.errors
    assert any("NoSuchEnv" in mistake for mistake in done.errors)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_a_mistake_of_the_input(sheeprl, training):
    """A missing file is an input mistake."""
    done = sheeprl("run", "nowhere.yaml")
    assert done.code == 2 and done.err.startswith("error: nowhere.yaml: isn't a file") and training.trees == []


def test_all_overrides_of_the_wrong_form_are_reported(sheeprl, training):
    """Every override of the wrong form is reported."""
    done = sheeprl("run", "ppo", "run.seed", "env.kwargs={a: ")
    assert done.code == 2 and len(done.errors) == 2 and training.trees == []
    assert done.errors[0] == "'run.seed': isn't a setting; use key=value, as in run.seed=1"
    assert done.errors[1].startswith("the value of env.kwargs: not valid YAML")


@pytest.mark.parametrize("words", [["run"], ["train"], ["config"], ["resume"], ["eval"], ["replay"], ["algos", "y"]])
def test_wrong_usage_is_a_mistake_of_the_input(sheeprl, training, words):
    """Wrong usage is an input mistake."""
    done = sheeprl(*words)
    assert done.code == 2 and "Usage: " in done.err and done.out == ""
    assert (len(done.errors) == 1 and "is missing; " in done.err) or "unexpected; " in done.err


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["run", "ppo", "--sed", "1"], "--sed: unknown flag; did you mean --seed? (list: sheeprl run ppo -h all)"),
        (["eval", "x", "--episodes", "0"], "--episodes=0: must be at least 1"),
        (["eval", "x", "--episodes", "few"], "--episodes=few: must be a whole number"),
        (["eval", "x", "--episodes"], "--episodes: needs a value"),
        (["compare", "--threshold", "abc"], "--threshold=abc: must be a number"),
        (
            ["push", "x", "hf:me/x", "--card"],
            "--card: unknown flag; a model card is always written; leave it out (list: sheeprl push -h)",
        ),
        (
            ["plot", "--facet", "env.id"],
            "--facet: unknown flag; an environment has its own column; leave it out (list: sheeprl plot -h)",
        ),
        (["serve", "x", "--follow-best"], "--follow-best: unknown flag; use --follow (list: sheeprl serve -h)"),
        (["kill", "x"], "no command 'kill'; use sheeprl stop RUN"),
        (["eval", "x", "--epis", "3"], "--epis: unknown flag; did you mean --episodes? (list: sheeprl eval -h)"),
        (
            ["eval", "x", "--deterministic"],
            "--deterministic: unknown flag; an evaluation is deterministic; eval.explore=true makes it explore "
            "(list: sheeprl eval -h)",
        ),
        (
            ["eval", "x", "--n_eval_episodes", "3"],
            "--n-eval-episodes: unknown flag; use --episodes (list: sheeprl eval -h)",
        ),
        (["eval", "x", "--explore"], "--explore: unknown flag; use eval.explore=VALUE (list: sheeprl eval -h)"),
        (["replay", "x", "--until-step", "0"], "--until-step=0: must be at least 1"),
        (["--sheeprl_hlep"], "--sheeprl_hlep: unknown flag; did you mean --sheeprl_help? (list: sheeprl -h)"),
    ],
)
def test_a_wrong_option_is_one_line_with_what_to_do(sheeprl, training, words, mistake):
    """The message for a wrong option is one line with a remedy."""
    done = sheeprl(*words)
    assert (done.code, done.out, done.errors) == (2, "", [mistake])


def test_resume_trains_the_tree_of_the_run_s_folder(sheeprl, training, monkeypatch, tmp_path):
    """`resume` trains the configuration in the run folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "mine").mkdir(parents=True)
    tree = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}
    requests = []
    monkeypatch.setattr("sheeprl.checkpoint.resume.resume_tree", lambda *what: requests.append(what) or tree)
    assert sheeprl("resume", "logs/mine", "run.total_steps=9").code == 0
    assert requests == [("logs/mine", ["run.total_steps=9"])]
    assert training.tree == tree


def test_resume_without_a_run_is_a_mistake_of_the_input(sheeprl, tmp_path):
    """`resume` without a run is an input mistake."""
    done = sheeprl("resume", tmp_path / "none")
    assert done.code == 2 and done.err.startswith("error: ") and str(tmp_path / "none") in done.err


# ---------------------------------------------------------------------------------------- how it ends


def test_a_failed_run_exits_with_1_and_names_the_trace(sheeprl, training):
    """A failed run exits with 1 and names the file of the traceback."""
    training.error = RunFailedError("learner: the loss is nan; the full traceback is in logs/x/error.log")
    done = sheeprl("run", "ppo")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: learner: the loss is nan; the full traceback is in logs/x/error.log\n"


@pytest.mark.parametrize(("number", "code"), [(1, 129), (2, 130), (15, 143)])
def test_an_interrupted_run_leaves_the_signal_s_code(sheeprl, training, number, code):
    """An interrupted run exits with the code of the signal."""
    training.interrupted_by = number
    assert sheeprl("run", "ppo").code == code


def test_an_interruption_before_the_run_leaves_its_code_too(sheeprl, training):
    """An interrupt before the run exits with its code too."""
    training.error = KeyboardInterrupt()
    done = sheeprl("run", "ppo")
    assert (done.code, done.err) == (130, "interrupted\n")


def test_an_unexpected_error_is_one_line(sheeprl, training):
    """An unexpected error is one line."""
    training.error = ZeroDivisionError("division\nby zero")
    done = sheeprl("run", "ppo")
    assert done.code == 1
    assert done.err == "error: ZeroDivisionError: division (--traceback shows the traceback)\n"


@pytest.mark.parametrize(("words", "variable"), [(["log.level=debug"], None), ([], "1"), (["--traceback"], None)])
def test_the_traceback_of_an_unexpected_error_is_shown_on_demand(sheeprl, training, monkeypatch, words, variable):
    """A flag or variable shows the traceback of an unexpected error."""
    if variable:
        monkeypatch.setenv("SHEEPRL_TRACEBACK", variable)
    training.error = ZeroDivisionError("by zero")
    done = sheeprl("run", "ppo", *words)
    assert done.code == 1 and "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1] == "error: ZeroDivisionError: by zero"


def test_exit_code_and_lines_of_the_process_itself(tmp_path):
    """The process exits with 2 and writes the mistakes to stderr."""
    done = python("-m", "sheeprl", "run", "ppo", "run.sede=1", "run.seed=-1", f"run.dir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(done.stderr.splitlines()) == [
        "error: run.sede: unknown setting; did you mean run.seed?",
        "error: run.seed=-1: must be at least 0",
    ]
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("pppo", "; did you mean ppo?"),
        ("resum", "; did you mean resume?"),
        ("x", ""),
        ("rppo", "; use sheeprl train ppo_recurrent"),
        ("ddqn", "; use sheeprl train dqn algo.double=true"),
        ("a.yaml", "; did you mean sheeprl train a.yaml?"),
    ],
)
def test_an_unknown_command_gets_the_nearest(sheeprl, word, hint):
    """The message for an unknown command suggests the nearest one."""
    done = sheeprl(word, "--env_id", "CartPole-v1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: no command {word!r}{hint}") and len(done.errors) == 1
    assert hint or "did you mean" not in done.err


# -------------------------------------------------------------------------------------- the short form


def test_flags_set_their_keys(sheeprl, training):
    """Flags set their keys."""
    done = sheeprl(
        *("ppo", "--env_id", "CartPole-v1", "--num_envs", "8", "--learning_rate", "1e-3", "--anneal", "true"),
        *("--hidden_sizes", "[32, 32]", "--log_every", "100", "--run.total_steps=1e6", "--log_std_init", "-0.5"),
        *("--kwargs", "{sutton_barto_reward: true}"),
    )
    assert done.code == 0 and done.err == ""
    assert training.tree == {
        "algo": {"name": "ppo", "learning_rate": 1e-3, "anneal": True, "hidden_sizes": [32, 32], "log_std_init": -0.5},
        "env": {"id": "CartPole-v1", "num_envs": 8, "kwargs": {"sutton_barto_reward": True}},
        "log": {"every": 100},
        "run": {"total_steps": 1e6},
    }
    config = validate(training.tree)
    assert config.run.total_steps == 1_000_000 and config.algo.hidden_sizes == (32, 32)


@pytest.mark.parametrize(
    "flag", ["--num_envs", "--num-envs", "--env_num_envs", "--env-num-envs", "--env.num_envs", "--env.num-envs"]
)
def test_a_flag_may_be_written_in_every_form(sheeprl, training, flag):
    """A flag may have every documented form."""
    for words in ([flag, "3"], [f"{flag}=3"]):
        training.trees.clear()
        assert sheeprl("ppo", "--id", "CartPole-v1", *words).code == 0
        assert training.tree["env"] == {"id": "CartPole-v1", "num_envs": 3}


@pytest.mark.parametrize("args", [PPOArgs, SACArgs])
def test_every_setting_has_unique_flags(args):
    """Every setting has flags that no other setting has."""
    flags = flags_of(args)
    assert {flag.key for flag in flags} == {key for key, _ in leaves(config_class(args))} - {"algo.name"}
    accepted = [name for flag in flags for name in (flag.name, *flag.aliases)]
    assert [name for name, count in Counter(accepted).items() if count > 1] == []
    assert not {"config", "help", "name"} & set(accepted)
    for flag in flags:
        assert flag.key in flag.names and flag.name in (*flag.names, "env")


def test_leaves_that_several_groups_have_need_the_longer_form(sheeprl, training):
    """A setting that several sections have needs the longer flag."""
    done = sheeprl("ppo", "--env_id", "CartPole-v1", "--every", "10")
    assert done.code == 2 and training.trees == []
    (mistake,) = done.errors
    assert "ambiguous; use one of" in mistake
    assert "--checkpoint_every, --eval_every, --log_every" in mistake
    assert sheeprl("ppo", "--env_id", "CartPole-v1", "--eval_every", "10", "--log.every", "5").code == 0
    assert training.tree["eval"] == {"every": 10} and training.tree["log"] == {"every": 5}


def test_names_that_clash_leave_the_dotted_form(monkeypatch):
    """Settings whose flags clash have the dotted form only."""

    class Encoder(Section):
        size: int = 1
        num_envs: int = 1

    class Args(AlgoArgs):
        eval_episodes: int = 1
        config: int = 1
        encoder: Encoder = Encoder()

    names = {flag.key: flag.names for flag in flags_of(Args)}
    assert names["algo.eval_episodes"] == ("algo_eval_episodes", "algo.eval_episodes")
    assert names["eval.episodes"] == ("episodes", "eval.episodes")
    assert names["algo.config"] == ("algo_config", "algo.config")
    assert names["algo.encoder.size"] == ("algo_encoder_size", "algo.encoder.size")
    assert names["env.num_envs"] == ("env_num_envs", "env.num_envs")


def test_a_missing_environment_is_reported_with_its_flag(sheeprl, training):
    """The message for a missing environment names its flag."""
    done = sheeprl("ppo")
    assert (done.code, done.errors) == (2, ["env.id: is missing; set --env"])


def test_all_wrong_values_are_reported_together(sheeprl, training):
    """The error lists every wrong value."""
    done = sheeprl("ppo", "--num_envs", "0", "--anneal", "maybe", "--mode", "decopled")
    assert done.code == 2
    assert set(done.errors) == {
        "env.id: is missing; set --env",
        "env.num_envs=0: must be at least 1",
        "algo.anneal=maybe: must be true or false",
        "run.mode=decopled: must be decoupled or coupled; did you mean decoupled?",
    }


def test_all_unknown_flags_and_stray_words_are_reported(sheeprl, training):
    """The error lists every unknown flag and stray word."""
    done = sheeprl(
        "ppo", "--nmu-envs", "8", "--zzz=3", "--env_id", "CartPole-v1", "stray", "run.seed=1", "--kwargs", "{a: "
    )
    assert done.code == 2 and training.trees == []
    assert [mistake.split(" (")[0] for mistake in done.errors[:3]] == [
        "--nmu-envs: unknown flag; did you mean --num_envs?",
        "--zzz: unknown flag",
        "'stray': not a flag; set settings as in --num_envs 8",
    ]
    assert done.errors[3].startswith("the value of --kwargs: not valid YAML")
    assert len(done.errors) == 4


def test_the_algorithm_s_name_is_no_flag(sheeprl, training):
    """The name of the algorithm has no flag."""
    for flag in ("--name", "--algo_name", "--algo.name"):
        assert sheeprl("ppo", "--env_id", "CartPole-v1", flag, "sac").code == 2
    assert training.trees == []


def test_a_flag_without_its_value_is_refused(sheeprl, training):
    """A flag without its value is refused."""
    done = sheeprl("ppo", "--env_id", "CartPole-v1", "--num_envs")
    assert done.code == 2 and "--num_envs" in done.err and training.trees == []


def test_one_setting_under_two_names_is_refused(sheeprl, training):
    """One setting under two names is refused."""
    done = sheeprl("ppo", "--env_id", "CartPole-v1", "--num_envs", "8", "--env.num_envs", "4")
    twice = "--num_envs 8 and --env.num_envs 4: set env.num_envs twice; leave one of them out"
    assert (done.code, done.errors) == (2, [twice])


def test_flags_replace_values_of_a_base_config(sheeprl, training, tmp_path):
    """Flags replace values of a base configuration."""
    base = tmp_path / "base.yaml"
    base.write_text(
        yaml.safe_dump({"algo": {"name": "ppo", "gamma": 0.9}, "env": {"id": "CartPole-v1", "num_envs": 2}})
    )
    assert sheeprl("ppo", "--config", base, "--num_envs", "8", "--clip", "0.1").code == 0
    assert training.tree == {
        "algo": {"name": "ppo", "gamma": 0.9, "clip": 0.1},
        "env": {"id": "CartPole-v1", "num_envs": 8},
    }


def test_a_base_config_of_another_algorithm_is_refused(sheeprl, training):
    """A base configuration of another algorithm is refused."""
    done = sheeprl("ppo", "--config", "sac")
    assert (done.code, done.errors) == (2, ["--config sac: has algo.name=sac; use sheeprl train sac"])


@pytest.mark.parametrize(
    ("typed", "value"), [("2024-01-01", "2024-01-01"), ("007", "007"), ("yes", "yes"), ("null", None)]
)
def test_text_settings_accept_numbers_and_booleans_as_text(sheeprl, training, typed, value):
    """Text settings take numbers and booleans as text."""
    assert sheeprl("ppo", "--env_id", "CartPole-v1", "--run_dir", typed).code == 0
    assert training.tree["run"]["dir"] == value


# ----------------------------------------------------------------------------------------------- eval


@pytest.fixture
def evaluations(monkeypatch, tmp_path):
    """Record the calls of the evaluation of the run logs/mine, which prints a line."""
    calls = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "mine").mkdir(parents=True)

    def evaluate(*question):
        """Record the arguments, print and return an evaluation."""
        calls.append(question)
        print("hello from an environment")
        return Evaluation(2.5, 0.5, [2.0, 3.0], [20, 30], policy_steps=1000)

    monkeypatch.setattr("sheeprl.evaluate.evaluate_checkpoint", evaluate)
    return calls


def test_eval_prints_mean_and_deviation(sheeprl, evaluations):
    """`eval` prints mean and deviation."""
    done = sheeprl("eval", "logs/mine")
    assert done.code == 0 and evaluations == [("logs/mine", 10, None, False, None, [], None)]
    assert done.out == "return 2.50 ± 0.50 over 2 episodes, after 1,000 policy steps\n"


def test_eval_names_the_run_that_was_found(sheeprl, evaluations, monkeypatch):
    """The folder of a run that wasn't given as a path is shown."""
    monkeypatch.setattr("sheeprl.checkpoint.runs.resolve_run", lambda name: "logs/found" if name == "@last" else name)
    assert "folder: logs/found\n" in sheeprl("eval", "@last").err
    assert "folder" not in sheeprl("eval", "logs/mine").err


def test_eval_json_is_one_object_and_nothing_else(sheeprl, evaluations):
    """`eval --json` prints one object and nothing else."""
    words = ["--episodes", "2", "--seed", "3", "--video", "--step_limit", "500", "env.kwargs.a=1"]
    done = sheeprl("eval", "logs/mine", "--json", *words)
    assert done.code == 0 and evaluations == [("logs/mine", 2, 3, True, 500, ["env.kwargs.a=1"], None)]
    assert json.loads(done.out) == {
        "mean_return": 2.5,
        "std_return": 0.5,
        "returns": [2.0, 3.0],
        "lengths": [20, 30],
        "policy_steps": 1000,
        "cut": 0,
    }
    assert "hello" in done.err


def test_eval_names_the_setting_of_a_flag(sheeprl, evaluations):
    """Eval names the setting of a flag."""
    done = sheeprl("eval", "logs/mine", "--max_episode_steps", "5")
    assert done.errors == ["--max-episode-steps: unknown flag; use env.max_episode_steps=VALUE (list: sheeprl eval -h)"]


TALKATIVE = """
import atexit, ctypes, os, subprocess, sys
import sheeprl.evaluate
from sheeprl.actors.evaluation import Evaluation
from sheeprl.cli import main

def evaluate(*question):
    print("by Python")
    sys.__stdout__.write("past sys.stdout")
    os.write(1, b"by the system")
    ctypes.CDLL(None).printf(b"by C, flushed at exit")
    subprocess.run(["echo", "by a child"])
    atexit.register(lambda: os.write(1, b"at exit"))
    return Evaluation(2.5, 0.5, [2.0, 3.0], [20, 30])

sheeprl.evaluate.evaluate_checkpoint = evaluate
main(sys.argv[1:])
"""


@pytest.mark.parametrize("words", [["--json"], []])
def test_the_output_of_a_simulator_goes_to_stderr(words):
    """The output of a simulator goes to stderr."""
    done = python("-c", TALKATIVE, "eval", ".", *words)
    if words:
        assert json.loads(done.stdout)["mean_return"] == 2.5
    else:
        assert done.stdout == "return 2.50 ± 0.50 over 2 episodes, after 0 policy steps\n"
    for source in ("by Python", "past sys.stdout", "by the system", "by C", "by a child", "at exit"):
        assert source in done.stderr


@pytest.mark.parametrize(
    "words", [["eval", "--json"], ["resume"], ["watch"], ["stop"], ["replay"], ["compare"], ["plot"]]
)
def test_an_unknown_run_is_the_same_mistake_for_each_command(sheeprl, words):
    """The message for a name that leads to no run names the list of runs."""
    done = sheeprl(words[0], "logs/none", *words[1:])
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: logs/none: no such folder or run; use one of sheeprl ls\n"


def test_ctrl_c_while_python_ends_keeps_the_exit_code():
    """A program that a signal has ended ignores further interrupts."""
    code = (
        "import atexit, signal, sys\n"
        "from sheeprl.cli import entry, main\n"
        "entry.main = lambda args: sys.exit(130)\n"
        "sys.argv.append('train')\n"
        "atexit.register(lambda: print(signal.getsignal(signal.SIGINT).name))\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "SIG_IGN\n")


def test_ctrl_c_while_modules_load_is_one_line():
    """Ctrl-C during the imports prints one line."""
    code = (
        "import builtins, signal, sys\n"
        "from sheeprl.cli import main\n"
        "assert 'pydantic' not in sys.modules, 'it loads before Ctrl-C is handled'\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'pydantic':\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "main(['run', 'ppo'])\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
