"""The command init: write the package of an algorithm that is derived from another one."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sheeprl.algos import registry
from sheeprl.cli.files import known_algorithm, schema_text
from sheeprl.cli.names import example_env, shipped
from sheeprl.utils.errors import ConfigError

ALGORITHM = '''"""{title}: {base} with changes of your own."""

from {module} import {base}


class {title}({base}):
    """{base} with changes of your own."""

    # A method that is defined here replaces that of {base}; super().NAME(...) calls the replaced one:
    #
{methods}
'''

TEST = '''"""Test that {title} trains."""

from pathlib import Path

from sheeprl import load_config, train


def test_a_short_run_takes_gradient_steps(tmp_path):
    """A short run ends, and has taken gradient steps."""
    file = Path(__file__).with_name("config.yaml")
    short = [{settings}]
    result = train(load_config(str(file), [*short, f"run.dir={{tmp_path / 'run'}}"]))
    assert result.policy_steps >= {steps}
    assert result.gradient_steps > 0
'''
SHORT = ("run.mode=coupled", "run.total_steps={steps}", "trainer.compile=false", "eval.episodes=1")
STEPS = 600


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the package, such as my_sac")],
    base: Annotated[str, typer.Option("--from", metavar="ALGO", help="algorithm to derive from", show_default=False)],
) -> None:
    """Write a package with an algorithm derived from another one, its configuration and a test."""
    from sheeprl.algos.build import algorithm_class

    folder = _new_package(name)
    title, path = _title(name), f"{name}.algo:{_title(name)}"
    args = registry.args_class(known_algorithm(base))
    derived = algorithm_class(args.model_construct(name=base))
    settings = [*SHORT, "algo.learning_starts=100"] if "learning_starts" in args.model_fields else SHORT
    texts = {
        "__init__.py": f'"""{title}, derived from {derived.__name__}."""\n',
        "algo.py": ALGORITHM.format(
            title=title, base=derived.__name__, module=derived.__module__, methods="\n".join(_methods(derived))
        ),
        "config.yaml": _config(base, title, path, example_env(args)),
        "test_algo.py": TEST.format(
            title=title, steps=STEPS, settings=", ".join(f'"{each.format(steps=STEPS)}"' for each in settings)
        ),
    }
    try:
        folder.mkdir()
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / "schema.json").write_text(schema_text([path]), encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{name}: can't be written: {error.strerror}"]) from error
    typer.echo(f"{name}/: {', '.join([*texts, 'schema.json'])}")
    typer.echo(f"change {name}/algo.py, then: sheeprl train {name}/config.yaml")
    needed = "" if find_spec("pytest") else " (after pip install pytest)"
    typer.echo(f"test: python -m pytest {name}{needed}")


def _new_package(name: str) -> Path:
    """Return the path of a new package in the working folder.

    Raises:
        ConfigError: the name can't be that of a package, or is that of an existing one.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ConfigError([f"{name}: must be a name of a package in the working folder, such as my_sac"])
    if Path(name).exists():
        raise ConfigError([f"{name}: exists already; use another name"])
    if find_spec(name) is not None:
        raise ConfigError([f"{name}: is the name of an installed package; use another name"])
    return Path.cwd() / name


def _title(name: str) -> str:
    """Return the name of a class, such as MySac for my_sac."""
    return "".join(part.capitalize() for part in name.split("_"))


def _config(base: str, title: str, path: str, example: str) -> str:
    """Return a configuration of the new algorithm, based on a shipped one of the algorithm that it derives from.

    Args:
        base: algorithm that it derives from.
        title: name of its class.
        path: path of its class.
        example: environment without a shipped configuration.
    """
    found = [each for each in shipped() if each.algorithm == base]
    chosen = next((each for each in found if each.name == base), next(iter(found), None))
    env = chosen.env if chosen else example
    lines = [f"# {title} on {env}", "# yaml-language-server: $schema=schema.json"]
    lines += [f"base: {chosen.name}"] if chosen else ["env:", f"  id: {env}"]
    return "\n".join([*lines, "algo:", f"  name: {path}", ""])


def _methods(derived: type) -> Iterator[str]:
    """Yield a line of a comment for each method that a subclass can replace, with the first line of its docstring."""
    from sheeprl.algos.base import Algorithm

    classes = [each for each in derived.__mro__ if issubclass(each, Algorithm)]
    names = dict.fromkeys(name for each in classes for name in vars(each) if not name.startswith("_"))
    for name in names:
        method = getattr(derived, name)
        if inspect.isfunction(method):
            summary = (inspect.getdoc(method) or "").partition("\n")[0]
            yield f"    # {name}({', '.join(inspect.signature(method).parameters)})"
            yield f"    #     {summary}"
