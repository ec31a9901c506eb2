"""Error messages for ids of environments that don't exist, and for modules that aren't installed."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

import gymnasium

from sheeprl.envs.families import family_of
from sheeprl.utils.installation import EXTRAS, install_command

NOT_PACKAGES = {"tests", "test", "docs", "doc", "examples", "scripts", "benchmarks"}  # folders beside a package
INSTALL_SHIMMY = 'pip install "shimmy[gym-v26]" (gym-v21 for versions before 0.26)'
SIMILAR = 0.75  # least similarity of a suggested id, from 0 to 1


def malformed_id(env_id: str) -> str:
    """Return why an id has another form than `id` or `module:id`; "" if it has one of these."""
    module, colon, name = env_id.partition(":")
    if not env_id or (colon and not (module and name)) or ":" in name:
        return "isn't an id; write a gymnasium id or module:id, as in CartPole-v1 or my_envs:Mine-v0"
    if colon and not all(part.isidentifier() for part in module.split(".")):
        stem = re.split(r"[/\\]", module.removesuffix(".py"))[-1] or "my_envs"
        return f"{module} isn't the name of a module; write {stem}:{name}; {_how_to_find('its folder')}"
    return ""


def unknown_id(env_id: str) -> str:
    """Return the message for an id that isn't registered, with the nearest one that is."""
    module, _, name = env_id.rpartition(":")
    if module:
        own = [other for other in gymnasium.registry if module in _modules_of(other)]
        if not own and name in _registry_of_gym():
            return f"the module {module} registers it with gym, not with gymnasium; {conversion(env_id)}"
        if not own:
            return f"the module {module} registers no environments; call gymnasium.register in it"
        if near := nearest_id(name, own):
            return f"no such environment; did you mean {module}:{near}?"
        shown = ", ".join(own[:5]) + (", …" if len(own) > 5 else "")
        return f"no such environment; the module {module} registers {shown}"
    if near := nearest_id(name, gymnasium.registry):
        modules = set() if family_of(near).package else _modules_of(near)
        package = min(modules - {"gymnasium"}, key=len, default="") if "gymnasium" not in modules else ""
        return f"no such environment; did you mean {package}{':' if package else ''}{near}?"
    for package, ids in _ids_of_packages(name):
        if name in ids:
            return f"the package {package} registers it; use env.id={package}:{name}"
        if near := nearest_id(name, ids):
            return f"no such environment; did you mean {package}:{near}?"
    return f"no such environment; if a module of yours or a package registers it, write module:{name}"


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` with the most similar name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), 1, SIMILAR)
    return f"; did you mean {match[0]}?" if match else ""


def newer_version(env_id: str) -> str:
    """Return the newest registered version of an environment if it is another one, else ""."""
    stem = _stem(env_id)
    newest = max((other for other in gymnasium.registry if _stem(other) == stem), key=_version, default=env_id)
    return newest if _version(newest) > _version(env_id) else ""


def nearest_id(name: str, known: Iterable[str]) -> str:
    """Return the most similar id, in its newest version; "" if none is similar. The namespace may be missing."""
    by_version = sorted(known, key=_version)
    newest = {_stem(other).rpartition("/")[2].lower(): other for other in by_version}
    newest |= {_stem(other).lower(): other for other in by_version}  # an id without namespace precedes others
    wanted = _stem(name).lower()
    bare = wanted.rpartition("/")[2]
    match = [bare] if bare in newest else difflib.get_close_matches(wanted, newest, 1, SIMILAR)
    return newest[match[0]] if match else ""


def missing_module(error: BaseException, module: str = "") -> str:
    """Return the message for an import that failed, with the name of the missing module from the error itself.

    Args:
        error: an ImportError, or an error that an ImportError caused.
        module: the module that the user named.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = [link.name for link in chain if isinstance(link, ModuleNotFoundError) and link.name]
    if not names:
        names = re.findall(r"No module named '([\w.]+)'", " ".join(str(link) for link in chain))
    if not names:
        innermost = next((link for link in reversed(chain) if isinstance(link, ImportError)), error)
        return " ".join(str(innermost).split()).rstrip(".") or type(innermost).__name__
    missing = names[0]
    package = missing.partition(".")[0]
    if package == "gym":
        env_id = f"{module or 'my_envs'}:ID"
        return f"gym, the predecessor of gymnasium, is not installed; {conversion(env_id)}"
    if package == "shimmy":
        return f"shimmy is not installed; {INSTALL_SHIMMY}"
    if missing == module or module.startswith(f"{missing}."):
        return f"no module named {missing}; install its package, {_how_to_find('the folder of the module')}"
    needed_by = f", which {module} needs," if module else ""
    if extra := next((extra for extra, module in EXTRAS.items() if module == package), None):
        return f"{package}{needed_by} is not installed; {install_command(extra)}"
    return f"{missing}{needed_by} is not installed; install the package that contains this module"


def conversion(env_id: str) -> str:
    """Return what to do with an environment of gym, the predecessor of gymnasium."""
    return (
        "change its module to `import gymnasium as gym`, whose reset returns (observation, info) and step "
        "(observation, reward, terminated, truncated, info); or convert it: "
        f'{INSTALL_SHIMMY}, then use env.id=shimmy:GymV26Environment-v0 "env.kwargs={{env_id: {env_id}}}"'
    )


def _registry_of_gym() -> Mapping[str, Any]:
    """Return the environments by id that gym, the predecessor of gymnasium, knows; none if it isn't imported."""
    registration = sys.modules.get("gym.envs.registration")
    registry = getattr(registration, "registry", {})
    found: Mapping[str, Any] = getattr(registry, "env_specs", registry)  # before 0.26, an object with the mapping
    return found


def _how_to_find(folder: str) -> str:
    """Return how to make the modules of a folder importable."""
    return f"run sheeprl in {folder}, or add this folder to PYTHONPATH"


def _stem(env_id: str) -> str:
    """Return an id without its version."""
    return re.sub(r"-v\d+$", "", env_id)


def _version(env_id: str) -> int:
    """Return the version of an id, -1 if it has none."""
    match = re.search(r"-v(\d+)$", env_id)
    return int(match.group(1)) if match else -1


def _modules_of(env_id: str) -> set[str]:
    """Return the module that contains a registered environment, and the packages that contain the module."""
    entry = gymnasium.registry[env_id].entry_point
    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


def _ids_of_packages(name: str) -> Iterator[tuple[str, list[str]]]:
    """Import installed packages that need gymnasium, one after the other; yield each with the ids that it registers.

    A package that has the name of the id's namespace comes first.
    """
    namespace = name.partition("/")[0] if "/" in name else ""
    for package in dict.fromkeys([namespace, *_packages_with_environments()]):
        before = set(gymnasium.registry)
        with contextlib.suppress(Exception, SystemExit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(package)
            own = [other for other in gymnasium.registry if other not in before or package in _modules_of(other)]
            yield package, own


def _packages_with_environments() -> list[str]:
    """Return the importable packages of all distributions that require gymnasium."""
    packages: list[str] = []
    for distribution in metadata.distributions():
        requirements = distribution.requires or []
        if any(re.match(r"gymnasium\b(?!-)", line) and "extra ==" not in line for line in requirements):
            top_level = (distribution.read_text("top_level.txt") or "").split()
            packages += top_level or {file.parts[0].partition(".")[0] for file in distribution.files or []}
    others = {"sheeprl", *NOT_PACKAGES}
    return [name for name in packages if name.isidentifier() and not name.startswith("_") and name not in others]
