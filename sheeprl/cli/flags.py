"""The settings as flags of the command line: names, types, defaults, and the settings that help shows first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from sheeprl.algos.args import AlgoArgs
from sheeprl.config.schema import config_class, leaves

OWN_FLAGS = ("config", "help", "dry_run", "diff", "traceback")
"""Flags of the commands themselves; no setting is named so."""

FIRST = {
    "env.id": "env",
    "run.total_steps": "total_steps",
    "run.seed": "seed",
    "run.dir": "run_dir",
    "run.mode": "mode",
    "env.num_envs": "num_envs",
    "players.num": "players_num",
    "trainer.accelerator": "accelerator",
}
"""Settings that help shows first, besides those of the algorithm, with their names as flags."""

FILL = (
    *("eval.every", "checkpoint.every", "log.every", "trainer.devices"),
    *("env.vectorization", "env.kwargs", "log.level"),
)
"""Settings that help shows first if the algorithm has few arguments, or if it isn't known."""

FIFTEEN = 15


@dataclass(frozen=True)
class Flag:
    """Setting of the tree, as a flag of the commands that train."""

    key: str
    field: FieldInfo
    names: tuple[str, ...]
    """Accepted names without dashes, the shortest first; hyphens may replace underscores."""

    @property
    def section(self) -> str:
        """Return the section of the setting."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """Return the name in help and messages; a very short one has its section (`buffer_size`)."""
        if self.key == "env.id" or FIRST.get(self.key) in self.names:
            return FIRST[self.key]
        leaf = self.names[0]
        short = (len(leaf) <= 4 or leaf == "checkpoint") and self.section != "algo"
        return self.names[1] if short else leaf

    @property
    def aliases(self) -> tuple[str, ...]:
        """Return the other accepted names."""
        every = dict.fromkeys([*self.names, *(name.replace("_", "-") for name in (*self.names, self.name))])
        return tuple(name for name in every if name != self.name)

    @property
    def is_switch(self) -> bool:
        """Return whether the flag needs no value, since the setting can be true or false."""
        annotation = self.field.annotation
        return annotation is bool or (get_origin(annotation) in (Union, UnionType) and bool in get_args(annotation))

    @property
    def is_text(self) -> bool:
        """Return whether the setting is text, which stays text even if it looks like a number."""
        return type_name(self.field.annotation) == "text"

    @property
    def parameter(self) -> str:
        """Return the name of the command's parameter."""
        return self.key.replace(".", "__")

    @property
    def help(self) -> str:
        """Return the description and the default, escaped for rich."""
        from rich.markup import escape

        text = self.field.description or ""
        if self.field.is_required():
            text += " [required]"
        elif "default" not in text:  # otherwise the description explains the default
            text += f" [default: {shown_default(self.field)}]"
        return escape(text.strip())


class Flags:
    """The flags of a run's settings, found by every name.

    Args:
        args: arguments of the run's algorithm.
    """

    def __init__(self, args: type[AlgoArgs]) -> None:
        """Store the arguments."""
        self.args, self.model = args, config_class(args)
        self.every = flags_of(args)
        self.by_key = {flag.key: flag for flag in self.every}
        self._by_name = {_plain(name): flag for flag in self.every for name in (flag.name, *flag.aliases)}

    def find(self, name: str) -> tuple[Flag | None, bool]:
        """Return the flag of a name without dashes, None if there is none; and whether `no-` precedes the name."""
        plain = _plain(name)
        if flag := self._by_name.get(plain):
            return flag, False
        positive = self._by_name.get(plain.removeprefix("no_")) if plain.startswith("no_") else None
        return (positive, True) if positive and positive.is_switch else (None, False)

    def name_of(self, key: str) -> str:
        """Return a key as its flag, with dashes; a key that has no flag as it is."""
        key, equals, value = key.partition("=")
        flag = self.by_key.get(key)
        return f"--{flag.name}{equals}{value}" if flag else f"{key}{equals}{value}"

    def first(self) -> list[Flag]:
        """Return the fifteen flags that help shows first: general ones, then those of the algorithm."""
        own = [flag.key for flag in self.every if flag.section == "algo"]
        important = [f"algo.{name}" for name in self.args.help_first]
        own.sort(key=lambda key: important.index(key) if key in important else len(important))
        return [self.by_key[key] for key in [*FIRST, *own, *FILL][:FIFTEEN]]


def _plain(name: str) -> str:
    """Return a name with underscores for hyphens."""
    return name.replace("-", "_")


def _candidates(key: str) -> tuple[str, str, str]:
    """Return the possible flag names of a key: `leaf`, `group_leaf` and the key."""
    return key.rpartition(".")[2], key.replace(".", "_"), key


def flags_of(args: type[AlgoArgs]) -> list[Flag]:
    """Return a flag for every setting, named by its key, and by `leaf` and `group_leaf` where these are unique."""
    settings = [(key, field) for key, field in leaves(config_class(args)) if key != "algo.name"]
    claims = Counter(name for key, _ in settings for name in dict.fromkeys(_candidates(key)))
    claims.update([*OWN_FLAGS, FIRST["env.id"], "name"] * 2)  # `--name` could mean the algorithm's or the run's
    return [
        Flag(key, field, tuple(name for name in _candidates(key) if "." in name or claims[name] == 1))
        for key, field in settings
    ]


def type_name(annotation: Any) -> str:
    """Return the name of a type for the help text."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0])
    if origin is Literal:
        return "|".join(str(value) for value in inner)
    if origin in (Union, UnionType):
        return "|".join(type_name(part) for part in inner if part is not type(None))
    if origin in (tuple, list):
        return f"[{type_name(inner[0])}, ...]"
    if origin is dict:
        return "{key: value}"
    names = {bool: "true|false", str: "text"}
    return names.get(annotation) or (annotation.__name__ if isinstance(annotation, type) else str(annotation))


def shown_default(field: FieldInfo) -> str:
    """Format the default of a setting for the help text."""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value)
