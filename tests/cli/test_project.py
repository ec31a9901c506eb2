"""Test the package that `sheeprl init` writes."""

import subprocess
import sys

import pytest

from sheeprl.cli.names import shipped


@pytest.mark.parametrize(("algorithm", "title"), [("ppo", "OwnPpo"), ("sac", "OwnSac"), ("sac_ae", "OwnSacAe")])
def test_package_of_a_derived_algorithm(sheeprl, tmp_path, monkeypatch, algorithm, title):
    """The configuration means the derived class with the settings of the shipped configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_{algorithm}"
    done = sheeprl("init", name, "--from", algorithm)
    assert (done.code, done.err) == (0, "")
    files = {path.name for path in (tmp_path / name).iterdir() if path.is_file()}
    assert files == {"__init__.py", "algo.py", "config.yaml", "schema.json", "test_algo.py"}
    base = next(each for each in shipped() if each.algorithm == algorithm)
    shown = sheeprl("config", f"{name}/config.yaml", "--diff").out
    assert f"algo.name={name}.algo:{title}  # {name}/config.yaml:5" in shown
    assert f"env.id={base.env}  # " in shown


def test_test_of_the_package_passes(sheeprl, tmp_path, monkeypatch):
    """The generated test trains the derived class."""
    monkeypatch.chdir(tmp_path)
    assert sheeprl("init", "my_a2c", "--from", "a2c").code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my_a2c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["my-ppo", "--from", "ppo"], "my-ppo: must be a name of a package in the working folder, such as my_sac"),
        (["numpy", "--from", "ppo"], "numpy: is the name of an installed package; use another name"),
        (["here", "--from", "ppo"], "here: exists already; use another name"),
        (["mine", "--from", "ppoo"], "ppoo: unknown algorithm 'ppoo'; did you mean ppo? (list: sheeprl algos)"),
    ],
)
def test_mistakes_write_nothing(sheeprl, tmp_path, monkeypatch, words, mistake):
    """A mistake is one line, and no file is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    done = sheeprl("init", *words)
    assert (done.code, done.errors) == (2, [mistake])
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
