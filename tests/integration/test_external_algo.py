"""Test an algorithm in a separate package, found by name and by path, and its page docs/new_algorithm.md."""

import os
import re
import runpy
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sheeprl import cli
from sheeprl.algos import registry
from sheeprl.config.loading import load_config

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests" / "external_algo"
PAGE = ROOT / "docs" / "new_algorithm.md"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VALUE = re.search(r'^reinforce = "(.*)"$', (PACKAGE / "pyproject.toml").read_text(), re.MULTILINE).group(1)


def install(folder: Path, package: str, name: str, value: str) -> None:
    """Write the metadata of an installed package with an entry point."""
    info = folder / f"{package}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {value}\n")


@pytest.fixture
def installed(tmp_path):
    """Return a folder with the installed example, to be put on the path."""
    install(tmp_path / "site", "reinforce_example", "reinforce", VALUE)
    (tmp_path / "site" / "reinforce_example").symlink_to(PACKAGE / "reinforce_example")
    return tmp_path / "site"


@pytest.fixture
def visible(installed, monkeypatch):
    """Put the installed example on the path."""
    monkeypatch.syspath_prepend(str(installed))
    registry.registered.cache_clear()
    yield installed
    monkeypatch.undo()
    registry.registered.cache_clear()


def python(path: Path, folder: Path, *words: str) -> str:
    """Return the output of Python, run in a folder with another one on its path."""
    environment = {**os.environ, "PYTHONPATH": str(path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(kind: str) -> list[tuple[str, str]]:
    """Return the info string and the text of each code block of a language."""
    return [(mark.strip(), text) for language, mark, text in FENCE.findall(PAGE.read_text()) if language == kind]


# --------------------------------------------------------------------------------------- registering


def test_entry_point_makes_it_a_name(visible):
    """An entry point makes the algorithm available by name."""
    assert registry.registered()["reinforce"].value == VALUE
    config = load_config(PACKAGE / "reinforce.yaml")
    assert type(config.algo).__name__ == "ReinforceArgs"
    assert config.algo.data().epochs == 1


def test_help_and_list_show_it(visible, capsys):
    """Help and list show the algorithm."""
    with pytest.raises(SystemExit) as listed:
        cli.main(["algos"])
    assert not listed.value.code
    assert re.search(r"reinforce +vector +discrete +on-policy +REINFORCE", capsys.readouterr().out)
    with pytest.raises(SystemExit) as helped:
        cli.main(["reinforce", "--help"])
    assert not helped.value.code
    assert "--value_coef" in capsys.readouterr().out


def test_without_installation_it_is_named_by_path(tmp_path, monkeypatch):
    """Without installation the algorithm is named by its path."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    config = load_config(PACKAGE / "reinforce.yaml", ["algo.name=reinforce_example.algorithm:Reinforce"])
    assert type(config.algo).__name__ == "ReinforceArgs"


def test_two_packages_may_not_claim_one_name(visible, capsys):
    """Two packages with one name are an error."""
    install(visible, "another_package", "reinforce", "another_package.args:Args")
    registry.registered.cache_clear()
    with pytest.raises(
        registry.DuplicateAlgorithmError,
        match=r"two .*'reinforce'.*another_package\.args:Args.*reinforce_example\.args",
    ):
        registry.registered()
    with pytest.raises(SystemExit) as refused:
        cli.main(["algos"])
    assert refused.value.code == 2
    assert "'reinforce'" in capsys.readouterr().err


def test_one_package_found_twice_is_no_conflict(visible, monkeypatch):
    """A package that is found twice is no conflict."""
    point = EntryPoint("reinforce", VALUE, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point, point])
    registry.registered.cache_clear()
    assert registry.registered() == {"reinforce": point}


# -------------------------------------------------------------------------------------------- the page


def test_page_shows_the_files_of_the_package():
    """The page contains the package's files."""
    shown = {}
    for kind in ("toml", "yaml", "python"):
        for mark, text in blocks(kind):
            if title := re.fullmatch(r'title="(.*)"', mark):
                shown[title.group(1)] = text
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml", ".yaml")]
    assert shown == {str(path.relative_to(PACKAGE)): path.read_text() for path in files}


def test_excerpts_of_the_page_equal_their_files():
    """The page's excerpts equal their files."""
    excerpts = [
        (found.group(1), text) for mark, text in blocks("python") if (found := re.fullmatch(r'excerpt="(.*)"', mark))
    ]
    assert excerpts
    for name, text in excerpts:
        lines = textwrap.indent(text, "    ")
        assert lines in (ROOT / name).read_text(), f"{name} doesn't say\n{text}"


@pytest.mark.slow
def test_commands_of_the_page_run(visible, monkeypatch):
    """The page's commands run; training commands take a few steps only."""
    folder = visible.parent
    (folder / "reinforce.yaml").write_text((PACKAGE / "reinforce.yaml").read_text())
    monkeypatch.chdir(folder)
    few = {"run": ["run.total_steps=600", "eval.episodes=1"], "reinforce": ["--total_steps", "600"]}
    commands = [line.split() for _, text in blocks("bash") for line in text.splitlines() if line.startswith("sheeprl ")]
    for _, command, *words in commands:
        words = [command, *words, *few.get(command, [])]
        if any(word.startswith("algo.name=") for word in words):
            python(PACKAGE, folder, "-m", "sheeprl", *words)
        else:
            with pytest.raises(SystemExit) as ended:
                cli.main(words)
            assert not ended.value.code
    folders = {path.relative_to(folder / "logs").parts[0] for path in (folder / "logs").rglob("metrics.jsonl")}
    assert folders == {"reinforce", "reinforce_example.algorithm_Reinforce"}


def test_a_separate_process_lists_it(installed):
    """A separate process lists the algorithm."""
    assert "REINFORCE with a learned baseline" in python(installed, installed.parent, "-m", "sheeprl", "algos")


def test_untitled_code_of_the_page_runs(visible, capsys):
    """Untitled code of the page runs."""
    script = visible.parent / "page.py"
    script.write_text("\n".join(text for mark, text in blocks("python") if not mark))
    runpy.run_path(str(script))
    printed = capsys.readouterr().out
    assert "obs float32 (65, 4, 4)" in printed
    assert "Loss/policy_loss" in printed
