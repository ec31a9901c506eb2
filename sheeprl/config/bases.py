"""Settings read from files: the file and line of each, and the files that a file is based on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sheeprl.config.suggestions import shown
from sheeprl.config.yaml_io import Dumper, parse_yaml_lines
from sheeprl.utils.errors import ConfigError

BASE = "base"
"""Key of a file with the files that it is based on."""

FindBase = Callable[[str, Path], Path]
"""Return the file of a name below `base` in a file; raise a ConfigError if there is none."""


class FileTree(dict[str, Any]):
    """Settings of a file and of its bases.

    Args:
        tree: the settings.
        places: `FILE:LINE` of each dotted key.
        bases: the names below `base`.
        misfits: a line for each file whose settings are for another algorithm than that of the tree.
    """

    def __init__(
        self,
        tree: Mapping[str, Any],
        places: Mapping[str, str],
        bases: Sequence[str] = (),
        misfits: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Store the arguments."""
        super().__init__(tree)
        self.places, self.bases, self.misfits = dict(places), tuple(bases), dict(misfits)
        self.replaced: set[str] = set()

    def replace(self, key: str) -> None:
        """Note that a setting has a value from elsewhere, such as the command line."""
        self.replaced.add(key)

    def place_of(self, key: str) -> str | None:
        """Return the file and line of a setting, or of the section that contains it; None if it isn't from a file.

        A section that has a setting from elsewhere, which a mistake may be about, has no place.
        """
        if any(replaced.startswith(f"{key}.") for replaced in self.replaced):
            return None
        while key:
            if key in self.replaced:
                return None
            if place := self.places.get(key):
                return place
            key = key.rpartition(".")[0]
        return None


Dumper.add_representer(FileTree, Dumper.represent_dict)


def locate(mistakes: Sequence[str], tree: Mapping[str, Any]) -> list[str]:
    """Return mistakes with the file and line of the settings that they begin with.

    If one is in a base for another algorithm, this cause comes first.

    Args:
        mistakes: lines such as `run.seed=-1: must be at least 0`.
        tree: the settings; mistakes of other trees than a FileTree stay the same.
    """
    if not isinstance(tree, FileTree):
        return list(mistakes)
    located, causes = [], dict[str, None]()
    for mistake in mistakes:
        key = re.match(r"([A-Za-z_]\w*(?:\.[\w/-]+)*)(?:=|: )", mistake)
        place = tree.place_of(key[1]) if key else None
        located.append(f"{place}: {mistake}" if place else mistake)
        if place and (cause := tree.misfits.get(place.rpartition(":")[0])):
            causes[cause] = None
    return [*causes, *located]


def read_file(path: Path, find: FindBase, above: tuple[Path, ...] = ()) -> FileTree:
    """Return the settings of a file on top of those of its bases; later bases replace settings of earlier ones.

    Sections and mappings are merged; lists and single values are replaced.

    Args:
        path: the file.
        find: finds a base.
        above: the files that are based on this one.

    Raises:
        ConfigError: a file can't be read, isn't YAML or isn't a mapping, or a base is unknown or part of a cycle.
    """
    tree, lines = _parse(path)
    names = _base_names(tree.pop(BASE, None), f"{path}:{lines.get(BASE)}")
    merged, places = dict[str, Any](), dict[str, str]()
    belows = dict[str, FileTree]()
    chain = (*above, path.resolve())
    for name in names:
        try:
            base = find(name, path)
        except ConfigError as error:
            raise ConfigError(
                [f"{path}:{lines[BASE]}: base={name}: {mistake}" for mistake in error.mistakes]
            ) from error
        if base.resolve() in chain:
            circle = " → ".join(file.name for file in (*chain[chain.index(base.resolve()) :], base))
            raise ConfigError([f"{path}:{lines[BASE]}: base={name}: is a cycle ({circle}); remove one of these bases"])
        below = read_file(base, find, chain)
        merged, places = _merge(merged, below), {**places, **below.places}
        belows[name] = below
    own = {key: f"{path}:{line}" for key, line in lines.items() if key != BASE}
    whole = _merge(merged, tree)
    misfits = _misfits(f"{path}:{lines.get(BASE)}", belows, _algorithm_of(whole))
    return FileTree(whole, {**places, **own}, names, misfits)


def _misfits(place: str, belows: Mapping[str, FileTree], algorithm: str | None) -> dict[str, str]:
    """Return a line for each file of the bases whose settings are for another algorithm.

    Args:
        place: `FILE:LINE` of `base`.
        belows: the bases by name.
        algorithm: the algorithm of the tree.
    """
    found = dict[str, str]()
    for name, below in belows.items():
        other = _algorithm_of(below)
        found |= below.misfits
        if algorithm and other and other != algorithm:
            line = (
                f"{place}: base={name}: is for {other}, but algo.name={algorithm}, so some of its settings don't fit; "
                f"use a base for {algorithm}"
            )
            found |= {at.rpartition(":")[0]: line for at in below.places.values()}
    return found


def _algorithm_of(tree: Mapping[str, Any]) -> str | None:
    """Return `algo.name` of a tree, None if it isn't set or isn't text."""
    algo = tree.get("algo")
    name = algo.get("name") if isinstance(algo, Mapping) else None
    return name if isinstance(name, str) else None


def _parse(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the content of a file and the line of each dotted key."""
    try:
        tree, lines = parse_yaml_lines(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: can't be read: {error}"]) from error
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError([f"{path}: contains {found}, not sections of settings such as `env:` and `algo:`"])
    return tree, lines


def _base_names(value: Any, place: str) -> tuple[str, ...]:
    """Return the names below `base`.

    Raises:
        ConfigError: the value is neither a name nor a list of names.
    """
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError([f"{place}: base={shown(value)}: must be a name or a list of names such as [ppo, mujoco]"])
    return tuple(names)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with another one on top; a section without settings changes nothing."""
    filled = {name: value for name, value in above.items() if value is not None or name not in below}
    return {**below, **{name: _on_top(below.get(name), value) for name, value in filled.items()}}


def _on_top(below: Any, above: Any) -> Any:
    """Return a value on top of another one: mappings are merged, all others replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{name: _on_top(below.get(name), value) for name, value in above.items()}}
