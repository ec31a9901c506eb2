"""Read the settings on a command line: flags such as `--seed 3` and words such as `run.seed=3` alike."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from sheeprl.algos.args import AlgoArgs
from sheeprl.cli.flags import Flag, Flags
from sheeprl.config.loading import set_value
from sheeprl.config.schema import Tree
from sheeprl.config.suggestions import hint
from sheeprl.config.yaml_io import Dumper, parse_value
from sheeprl.utils.errors import ConfigError

KEY = r"[A-Za-z_]\w*(\.\w+)*"

ENV_ID = r"([\w.]+:)?[\w./-]+-v\d+"
"""Id of an environment with its version, such as `ALE/Pong-v5`."""

SHORT = {
    "a": "name the algorithm first, as in sheeprl train ppo",
    "c": "use sheeprl train CONFIG",
    "d": "run.dir",
    "e": "env.id",
    "f": "run.dir",
    "i": "use sheeprl resume RUN",
    "n": "run.total_steps",
    "o": "run.dir",
    "q": "log.level=warning",
    "s": "run.seed",
    "v": "log.level=debug",
}
"""One-letter flags of other programs: the setting, or what to do instead."""


@dataclass(frozen=True)
class Given:
    """A setting on the command line.

    Args:
        key: the dotted key.
        value: the value, parsed as YAML.
        spelled: the word that names the setting, without its value.
    """

    key: str
    value: Any
    spelled: str

    @property
    def assignment(self) -> str:
        """Return the setting as `key=value`."""
        text = yaml.dump(self.value, Dumper=Dumper, default_flow_style=True, width=10**6)
        return f"{self.key}={text.strip().removesuffix('...').strip()}"


@dataclass
class Words:
    """The settings on a command line, and one line per mistake."""

    given: list[Given] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def overrides(self) -> list[str]:
        """Return the settings as `key=value`.

        Raises:
            ConfigError: the command line has mistakes.
        """
        if self.mistakes:
            raise ConfigError(self.mistakes)
        return [setting.assignment for setting in self.given]

    def apply(self, tree: Tree) -> None:
        """Set the settings in a tree, and note the mistakes that this shows."""
        for setting in self.given:
            self._apply(setting, tree)

    def _apply(self, setting: Given, tree: Tree) -> None:
        """Set a setting in a tree, and note the mistake if a section of its key is a value."""
        try:
            set_value(tree, setting.key, setting.value)
        except ConfigError as error:
            self.mistakes += error.mistakes


class _Reader:
    """Reads the words one after the other.

    Args:
        words: the command line, without the command, its NAME and its own options.
        flags: the settings of the run.
        listing: the command that lists the flags.
    """

    def __init__(self, words: Sequence[str], flags: Flags, listing: str) -> None:
        """Store the arguments."""
        self.words, self.flags, self.listing = words, flags, listing
        self.begin = self.position = 0
        self.result = Words()
        self.typed: dict[str, tuple[str, str]] = {}
        """The name and the words, as typed, of each setting so far."""

    def read(self) -> Words:
        """Return all settings and mistakes."""
        while self.position < len(self.words):
            word, self.begin = self.words[self.position], self.position
            self.position += 1
            try:
                self._read(word)
            except ConfigError as error:
                self.result.mistakes += error.mistakes
        return self.result

    def _read(self, word: str) -> None:
        """Read a word, and the value after it."""
        name, equals, text = word.partition("=")
        if word.startswith("-"):
            self._read_flag(name, text if equals else None)
        elif equals and re.fullmatch(KEY, name):
            flag = self.flags.by_key.get(name)
            value = _value(flag, text, name)
            self._set(name, value, name)
        elif equals and re.fullmatch(rf"[+~]+{KEY}", name):
            raise ConfigError([f"{word!r}: isn't a setting; use {word.lstrip('+~')}"])
        elif re.fullmatch(ENV_ID, word):
            if "env.id" not in self.typed:  # one message suffices
                self.result.given.append(Given("env.id", word, word))
            raise ConfigError([f"{word!r}: not a flag; did you mean --env {word}?"])
        elif equals or "." in word:
            raise ConfigError([f"{word!r}: isn't a setting; use key=value, as in run.seed=1"])
        else:
            raise ConfigError([f"{word!r}: not a flag; set settings as in --num_envs 8 (list: {self.listing})"])

    def _read_flag(self, spelled: str, text: str | None) -> None:
        """Read a flag, with its value if that follows an equals sign."""
        flag, negated = self.flags.find(spelled[2:]) if spelled.startswith("--") else (None, False)
        if flag is None:
            if text is None and self._next_is_value():
                self.position += 1
            raise ConfigError([f"{spelled}: {_unknown(spelled, self.flags)} (list: {self.listing})"])
        if negated:
            if text is not None:
                raise ConfigError([f"{spelled}={text}: takes no value; use --{flag.name}={text}"])
            return self._set(flag.key, False, spelled)
        if text is None and self._next_is_value(unless_setting=flag.is_switch):
            text = self.words[self.position]
            self.position += 1
        if text is not None:
            return self._set(flag.key, _value(flag, text, f"--{flag.name}"), spelled)
        if flag.is_switch:
            return self._set(flag.key, True, spelled)
        raise ConfigError([f"{spelled}: needs a value, as in {spelled} {example(flag)}"])

    def _next_is_value(self, unless_setting: bool = True) -> bool:
        """Return whether the next word is the value of a flag: neither a flag nor, if required, a setting."""
        if self.position == len(self.words):
            return False
        word = self.words[self.position]
        return not word.startswith("--") and not (unless_setting and re.match(KEY + "=", word))

    def _set(self, key: str, value: Any, spelled: str) -> None:
        """Note a setting; the last value wins, if the name is the same."""
        typed = shlex.join(self.words[self.begin : self.position])
        before, first = self.typed.setdefault(key, (spelled, typed))
        if before != spelled:
            raise ConfigError([f"{first} and {typed}: set {key} twice; leave one of them out"])
        self.result.given.append(Given(key, value, spelled))


def read_words(words: Sequence[str], flags: Flags, listing: str) -> Words:
    """Return the settings on a command line.

    Args:
        words: the command line, without the command, its NAME and its own options.
        flags: the settings of the run.
        listing: the command that lists the flags.
    """
    return _Reader(words, flags, listing).read()


def _value(flag: Flag | None, text: str, shown: str) -> Any:
    """Return a value parsed as YAML; text settings stay text, because the shell removes quotes."""
    value = parse_value(text, f"the value of {shown}")
    return text if flag and flag.is_text and isinstance(value, (bool, int, float)) else value


def _unknown(spelled: str, flags: Flags) -> str:
    """Return the reason why a flag is unknown, with what to use instead."""
    name = spelled.lstrip("-").replace("-", "_")
    if not spelled.startswith("--") and (short := _unknown_short(name, flags)):
        return short
    if positive := name.startswith("no_") and flags.find(name.removeprefix("no_"))[0]:
        return f"isn't a switch; use {flags.name_of(positive.key)} {example(positive)}"
    namesakes = [flags.name_of(key) for key in flags.by_key if key.rpartition(".")[2] == name]
    if namesakes:
        return f"ambiguous; use one of {', '.join(namesakes)}"
    return f"unknown flag{hint(name, flags.model, flags.name_of)}"


def _unknown_short(letter: str, flags: Flags) -> str:
    """Return the reason why a one-letter flag is unknown, with what to use instead; "" for unfamiliar letters."""
    if (use := SHORT.get(letter)) is None:
        return ""
    return f"unknown flag; {use if ' ' in use else 'use ' + flags.name_of(use)}"


def example(flag: Flag) -> str:
    """Return an example of a flag's value."""
    if flag.key in EXAMPLES:
        return EXAMPLES[flag.key]
    default = flag.field.get_default(call_default_factory=True) if not flag.field.is_required() else None
    return str(default) if isinstance(default, (int, float, str)) else "VALUE"


EXAMPLES = {"env.id": "CartPole-v1", "env.num_envs": "8", "players.num": "2", "run.dir": "runs/mine"}
"""Values for the example of a flag whose default says too little."""


# ------------------------------------------------------------------------------------- before the settings


def take_switch(words: list[str], name: str) -> bool:
    """Remove an option of the command itself, such as `--dry-run`, and return whether it was there.

    Raises:
        ConfigError: the option has a value.
    """
    found = [word for word in words if _is_option(word, name)]
    if with_value := [word for word in found if "=" in word]:
        raise ConfigError([f"{with_value[0]}: takes no value; use --{name}"])
    words[:] = [word for word in words if word not in found]
    return bool(found)


def take_value(words: list[str], name: str) -> str | None:
    """Remove an option of the command itself and its value, and return the value; None if the option isn't there.

    Raises:
        ConfigError: the option has no value.
    """
    value = None
    while (position := next((place for place, word in enumerate(words) if _is_option(word, name)), None)) is not None:
        _, equals, value = words.pop(position).partition("=")
        if not equals:
            if position == len(words) or _is_flag(words[position]):
                raise ConfigError([f"--{name}: needs a value"])
            value = words.pop(position)
    return value


def _is_flag(word: str) -> bool:
    """Return whether a word is a flag, not a value such as -1."""
    return word.startswith("-") and not re.fullmatch(r"-(\.?\d.*|inf|nan)", word)


def _is_option(word: str, name: str) -> bool:
    """Return whether a word is an option of the command itself."""
    return word.startswith("--") and word[2:].partition("=")[0].replace("_", "-") == name


def take_name(words: list[str], is_name: Callable[[str], bool]) -> str | None:
    """Remove the NAME of a command and return it, None if there is none.

    The algorithm, and with it the flags, follow from the NAME. A word after a flag is therefore the flag's value,
    unless the flag is a switch of every run; if no other word is left, a known name is the NAME nevertheless.
    """
    general = Flags(AlgoArgs)
    unsure = []
    for position, before in _bare(words):
        flag, negated = general.find(before[2:]) if before.startswith("--") else (None, False)
        is_switch = negated or (flag is not None and flag.is_switch)
        if is_switch and words[position] in ("true", "false"):
            continue
        if not before.startswith("--") or "=" in before or is_switch:
            return words.pop(position)
        unsure.append(position)
    for position in unsure:
        if is_name(words[position]):
            return words.pop(position)
    return None


def _bare(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the position of each word that is neither a flag nor a setting, and the word before it."""
    for position, word in enumerate(words):
        if not word.startswith("-") and not re.match(KEY + "=", word):
            yield position, words[position - 1] if position else ""
