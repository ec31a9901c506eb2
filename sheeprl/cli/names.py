"""Find the configuration or algorithm that a NAME on the command line means, and list the configurations."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.cli.words import ENV_ID
from sheeprl.config import peer_algorithms
from sheeprl.config.loading import find_config, get_value, read_tree, shipped_folder
from sheeprl.config.schema import Tree
from sheeprl.config.suggestions import nearest_names, shown
from sheeprl.utils.errors import ConfigError

OF_ANY_ENV = ("id", "num_envs")  # settings of `env` that say nothing about the environment


@dataclass
class Base:
    """Settings that a command line starts from.

    Args:
        tree: the settings.
        kind: `configuration`, `shipped configuration` or `algorithm`.
        name: its name.
        envs: the environments on the command line, which replace that of the settings.
        note: a further fact.
        description: all of this in one line.
    """

    tree: Tree
    kind: str
    name: str
    envs: tuple[str, ...] = ()
    note: str = ""
    description: str = field(init=False)

    def __post_init__(self) -> None:
        """Describe the settings before the command line changes them."""
        if self.kind == "algorithm":
            self.description = f"algorithm {self.name} with its defaults"
            return
        algorithm, own = get_value(self.tree, "algo.name"), get_value(self.tree, "env.id")
        env = ", ".join(self.envs) or own
        content = f"{algorithm or 'no algo.name'}{f' on {env}' if env else ', no env.id'}"
        if own and self.envs not in ((), (own,)):
            content += f", with the settings for {own}"
            env_settings = get_value(self.tree, "env") or {}
            kept = [f"env.{key}={shown(value)}" for key, value in env_settings.items() if key not in OF_ANY_ENV]
            content += f", also {', '.join(kept)}" if kept else ""
        self.description = f"{self.kind} {self.name} ({content}){self.note}"


@dataclass(frozen=True)
class Shipped:
    """A configuration that comes with SheepRL."""

    name: str
    tree: Tree
    summary: str

    @property
    def algorithm(self) -> str:
        """Return the name of its algorithm."""
        return str(get_value(self.tree, "algo.name"))

    @property
    def env(self) -> str:
        """Return the id of its environment."""
        return str(get_value(self.tree, "env.id"))


def shipped_files() -> dict[str, Path]:
    """Return the files of the shipped configurations, by name."""
    return {file.stem: file for file in sorted(shipped_folder().glob("*.yaml"))}


def shipped() -> list[Shipped]:
    """Return the shipped configurations, each with the comment in its first line."""
    found = []
    for name, file in shipped_files().items():
        comment = file.read_text(encoding="utf-8").partition("\n")[0]
        summary = re.sub(r":? *`[^`]*`$", "", comment.lstrip("# ")) if comment.startswith("#") else ""
        found.append(Shipped(name, read_tree(str(file)), summary))
    return found


def example_env(args: type[AlgoArgs]) -> str:
    """Return an environment on which an algorithm can act."""
    return "CartPole-v1" if "discrete" in args.actions else "Pendulum-v1"


def is_algorithm(name: str) -> bool:
    """Return whether a name is a registered algorithm, or the path of one."""
    return name in registry.registered() or bool(re.fullmatch(r"[\w.]+:\w+", name))


def peer_use(name: str) -> str | None:
    """Return the words after `sheeprl train` for the name of an algorithm in another library, None for other names."""
    return peer_algorithms.find(name, [*shipped_files(), *registry.registered()])


def is_name(word: str) -> bool:
    """Return whether a word names a configuration or an algorithm."""
    return Path(word).is_file() or word in shipped_files() or is_algorithm(word)


def find_base(name: str, env: str | None = None) -> Base:
    """Return the settings of a file, else of a shipped configuration, else of an algorithm.

    If the shipped configuration has the name of its algorithm, and another one is for the environment, take that one.

    Args:
        name: the NAME on the command line.
        env: the environment on the command line.

    Raises:
        ConfigError: nothing has this name, or the file can't be read.
    """
    if Path(name).is_file():
        tree = read_tree(name)
        return Base(tree, "configuration", name, (env,) if env else ())
    if name in shipped_files():
        return _shipped_base(name, env)
    if is_algorithm(name):
        return Base({"algo": {"name": name}}, "algorithm", name)
    raise ConfigError([_unknown(name)])


def _shipped_base(name: str, env: str | None) -> Base:
    """Return the settings of a shipped configuration, or of one for the environment."""
    every = {configuration.name: configuration for configuration in shipped()}
    chosen = every[name]
    if name == chosen.algorithm and env not in (None, chosen.env):
        fitting = [other for other in every.values() if (other.algorithm, other.env) == (name, env)]
        chosen = fitting[0] if fitting else chosen
    note = f"; `sheeprl {name}` starts from the algorithm's defaults" if is_algorithm(name) else ""
    return Base(chosen.tree, "shipped configuration", chosen.name, (env,) if env else (), note)


def _unknown(name: str) -> str:
    """Return the mistake of a NAME that names nothing."""
    algorithms = list(registry.registered())
    if re.fullmatch(ENV_ID, name):
        return f"{name}: is an environment, not a configuration or an algorithm; use sheeprl train ppo --env {name}"
    if not Path(name).is_dir() and (use := peer_use(name)):
        return f"{name}: isn't a file, a shipped configuration or an algorithm; use sheeprl train {use}"
    try:
        find_config(name)
    except ConfigError as error:
        stem = Path(name).stem
        cause = error.mistakes[0].partition(" or a shipped configuration")[0]
        hint = nearest_names(stem, dict.fromkeys([*algorithms, *shipped_files()]), "sheeprl algos and sheeprl configs")
        return f"{cause}, a shipped configuration or an algorithm{hint}"
    raise AssertionError(f"{name} is a configuration")
