"""Test the help: the most important settings first, the others by topic."""

import re

import pytest

from sheeprl import __version__
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.sac.args import SACArgs
from sheeprl.cli.flags import Flags
from sheeprl.config.schema import Config


def options_of(text):
    """Return the options in a help text."""
    rows = [line.removeprefix("│ ").split()[0] for line in text.splitlines() if line.startswith("│ --")]
    return [row.split(",")[0] for row in rows]


@pytest.mark.parametrize("args", [PPOArgs, SACArgs])
def test_help_shows_the_fifteen_settings_that_matter_and_an_example(sheeprl, args):
    """The help of an algorithm shows fifteen settings and an example."""
    name = args.algorithm.split(".")[2]
    done = sheeprl(name, "-h")
    own = {"--help", "--config", "--dry-run"}
    shown = [option for option in options_of(done.out) if option not in own]
    assert done.code == 0 and len(shown) == len(Flags(args).first()) == 15
    assert {"--env", "--total_steps", "--seed", "--num_envs", "--gamma", "--hidden_sizes"} <= set(shown)
    assert f"Example: sheeprl {name} --env " in done.out and f"sheeprl {name} -h all" in done.out


@pytest.mark.parametrize("args", [PPOArgs, SACArgs])
def test_an_algorithm_names_the_arguments_that_help_shows_first(args):
    """An algorithm names the arguments that help shows first."""
    assert [flag.key for flag in Flags(args).first()][-7:] == [f"algo.{name}" for name in args.help_first]
    assert set(args.help_first) <= set(args.model_fields)


@pytest.mark.parametrize("args", [PPOArgs, SACArgs])
def test_help_cuts_no_name_on_a_terminal_of_80_columns(sheeprl, monkeypatch, args):
    """Help cuts no name on a terminal of 80 columns."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    out = sheeprl(args.algorithm.split(".")[2], "-h", "all").out
    rows = [line for line in out.splitlines() if line.startswith("│ --")]
    assert max(map(len, out.splitlines())) == 80
    assert {flag.name for flag in Flags(args).every} <= {row.split()[1].removeprefix("--") for row in rows}


@pytest.mark.parametrize("words", [["-h"], ["-h", "all"], ["-h", "env"], ["--num_envs", "2"]])
def test_help_and_messages_use_the_same_name(sheeprl, words):
    """Help and messages use the same name."""
    done = sheeprl("ppo", *words)
    text = done.out + done.err
    assert "--env" in text and "--env_id" not in text and "--id" not in text


@pytest.mark.parametrize("command", ["train", "run", "resume", "config"])
def test_help_without_an_algorithm_shows_fifteen_settings_too(sheeprl, command):
    """The help without an algorithm shows fifteen settings too."""
    own = {"--help", "--dry-run", "--diff"}
    shown = [option for option in options_of(sheeprl(command, "-h").out) if option not in own]
    assert len(shown) == 15 and {"--env", "--seed", "--eval_every"} <= set(shown)


@pytest.mark.parametrize(
    ("words", "option", "absent"),
    [
        (["ppo", "-h", "players"], "--spares", "--learning_rate"),
        (["train", "sac", "-h", "algo"], "--critic_lr", "--seed"),
        (["train", "-h", "players"], "--spares", "--seed"),
        (["train", "ppo_pendulum", "-h"], "--clip", "--spares"),
        (["run", "sac", "--help"], "--critic_lr", "--spares"),
        (["run", "sac", "--seed", "3", "-h", "all"], "--spares", "--clip"),
        (["config", "ppo", "-h"], "--diff", "--dry-run"),
        (["resume", "-h"], "--dry-run", "--diff"),
        (["help", "ppo", "players"], "--spares", "--learning_rate"),
        (["help", "players"], "--spares", "--seed"),
        (["-h", "players"], "--spares", "--seed"),
        (["help", "train", "sac", "all"], "--critic_lr", "--clip"),
        (["help", "eval"], "--episodes", "--seed_"),
        (["eval", "-h"], "--episodes", "--dry-run"),
    ],
)
def test_help_on_a_command_or_a_section(sheeprl, words, option, absent):
    """Help is available for a command and a section."""
    done = sheeprl(*words)
    assert done.code == 0 and done.err == ""
    assert option in options_of(done.out) and absent not in options_of(done.out)


@pytest.mark.parametrize("section", Config.model_fields)
def test_every_section_has_its_help(sheeprl, section):
    """Every section has its help."""
    done = sheeprl("ppo", "-h", section)
    titles = [line.split("─ ")[1].split(" ─")[0] for line in done.out.splitlines() if line.startswith("╭")]
    assert titles == ["Options", section]


def test_an_unknown_section_is_refused_with_those_there_are(sheeprl):
    """The message for an unknown section lists the sections."""
    done = sheeprl("ppo", "-h", "player")
    assert done.code == 2
    assert done.errors[0].startswith("-h player: no such section; did you mean players? (use all, algo, env, ")


@pytest.mark.parametrize("words", [["-h", "exit"], ["help", "exit"], ["train", "-h", "exit"]])
def test_exit_codes_are_a_topic(sheeprl, words):
    """The exit codes are a topic of the help."""
    done = sheeprl(*words)
    assert done.code == 0 and done.out.startswith("Exit codes:") and " 143 " in done.out


def test_the_commands_name_the_configurations_and_show_an_example(sheeprl):
    """The help of a command lists the configurations and shows an example."""
    for command in ("train", "run", "config"):
        text = " ".join(sheeprl(command, "-h").out.split())
        assert re.search(r"a2c, .*ppo_pendulum, .*redq, sac, .*td3", text) and f"Example: sheeprl {command} " in text
    assert "--traceback" in sheeprl("eval", "-h").out
    assert "Example: sheeprl resume @last" in sheeprl("resume", "-h").out


def test_help_shows_no_types_in_angle_brackets(sheeprl):
    """Help shows no types in angle brackets."""
    for words in (["-h"], ["train", "-h"], ["eval", "-h"], ["ppo", "-h", "all"]):
        text = sheeprl(*words).out
        assert not any(kind in text for kind in ("<bool>", "<str>", "<int", "<list"))


@pytest.mark.parametrize("words", [["version"], ["-V"], ["--version"]])
def test_the_version(sheeprl, words):
    """Every form of the version option prints the version."""
    done = sheeprl(*words)
    assert (done.code, done.out) == (0, f"sheeprl {__version__}\n")


@pytest.mark.parametrize("words", [["help"], ["-h"], []])
def test_help_without_a_command(sheeprl, words):
    """The help without a command lists the commands."""
    done = sheeprl(*words)
    assert done.code == 0
    for name in (
        "train",
        "run",
        "resume",
        "config",
        "check-env",
        "configs",
        "eval",
        "replay",
        "ls",
        "status",
        "algos",
        "--install-completion",
    ):
        assert f" {name} " in done.out
    assert "sheeprl train ppo --env CartPole-v1" in done.out and "--traceback" in done.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["envs"], "no command 'envs'; use sheeprl check-env ID"),
        (["list"], "no command 'list'; use sheeprl ls for runs, sheeprl algos or sheeprl configs"),
        (["play", "x"], "no command 'play'; use sheeprl enjoy RUN, or sheeprl eval RUN --video"),
        (["evaluate"], "no command 'evaluate'; use sheeprl eval RUN"),
        (["exp=ppo", "env=gym"], "no command 'exp=ppo'; use sheeprl train ppo"),
        (["run.seed=3"], "no command 'run.seed=3'; use sheeprl train NAME run.seed=3"),
        (["sac_halfcheetah"], "no command 'sac_halfcheetah'; did you mean sheeprl train sac_halfcheetah?"),
        (["my_ppo:MyPPO"], "no command 'my_ppo:MyPPO'; use sheeprl train my_ppo:MyPPO"),
        (["CartPole-v1"], "no command 'CartPole-v1'; use sheeprl train ppo --env CartPole-v1"),
        (["-v"], "-v: unknown flag; use -V or sheeprl version"),
        (["--versoin"], "--versoin: unknown flag; did you mean --version? (list: sheeprl -h)"),
        (
            ["--algo", "ppo"],
            "--algo: unknown flag; flags follow the command, as in sheeprl train ppo --env CartPole-v1 "
            "(list: sheeprl -h)",
        ),
        (["run", "ppo", "CartPole-v1"], "'CartPole-v1': not a flag; did you mean --env CartPole-v1?"),
        (["ppo", "CartPole-v1"], "'CartPole-v1': not a flag; did you mean --env CartPole-v1?"),
        (
            ["train", "CartPole-v1"],
            "CartPole-v1: is an environment, not a configuration or an algorithm; use sheeprl train ppo "
            "--env CartPole-v1",
        ),
        (["help", "trian"], "no command 'trian'; did you mean train? (list: sheeprl --help)"),
    ],
)
def test_words_of_other_programs_lead_to_commands(sheeprl, words, hint):
    """Words of other programs lead to commands."""
    done = sheeprl(*words)
    assert (done.code, done.out, done.errors) == (2, "", [hint])


def test_overview_describes_every_command():
    """The overview lists all commands, and the summaries of the algorithms from their sources."""
    from sheeprl.algos import registry
    from sheeprl.cli import entry, help, overview

    assert set(overview.WITH_SETTINGS) == set(entry.WITH_SETTINGS) and list(overview.PLAIN) == list(help.PLAIN)
    for name in registry.registered():
        assert overview.summary(name) == registry.args_class(name).summary


def test_overview_fits_a_narrow_terminal(capsys, monkeypatch):
    """No line is wider than the terminal."""
    from sheeprl.cli.overview import print_overview

    monkeypatch.setenv("COLUMNS", "60")
    print_overview()
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


def test_help_lists_the_arguments_of_the_algorithm_on_the_command_line(sheeprl):
    """`algo.name` before `-h` selects the arguments that help lists."""
    assert "--tau " in sheeprl("train", "ppo", "algo.name=sheeprl.algos.sac.sac:SAC", "-h", "algo").out
    assert "--tau " not in sheeprl("train", "ppo", "-h", "algo").out
