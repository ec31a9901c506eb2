"""Run the command line in this process, with stand-ins for what it calls."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from sheeprl.cli import main
from sheeprl.config.loading import validate


@dataclass
class Done:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def errors(self):
        """Return the error messages."""
        return [line.removeprefix("error: ") for line in self.err.splitlines()]


@pytest.fixture
def sheeprl(capsys, monkeypatch):
    """Runs the command line in this process, on a terminal wide enough not to break the help's lines."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.delenv("SHEEPRL_TRACEBACK", raising=False)

    def run(*words):
        """Call the command line and return its exit code and output."""
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(ended.value.code or 0, captured.out, captured.err)

    return run


@dataclass
class Training:
    """Fake training: store the tree, check it and return the given result."""

    trees: list = field(default_factory=list)
    error: BaseException | None = None
    interrupted_by: int | None = None

    def __call__(self, tree):
        """Record a tree, then raise the chosen error or return a result."""
        self.trees.append(tree)
        if self.error is not None:
            raise self.error
        validate(tree)
        return SimpleNamespace(
            run_dir=Path("logs/x"), policy_steps=1, gradient_steps=1, interrupted_by=self.interrupted_by
        )

    @property
    def tree(self):
        """Return the only tree."""
        (tree,) = self.trees
        return tree


@pytest.fixture
def training(monkeypatch):
    """Replace the training by a stand-in."""
    stand_in = Training()
    # `sheeprl.launch` is also the name of a function of the package, hence not by path.
    monkeypatch.setattr(importlib.import_module("sheeprl.launch"), "train_tree", stand_in)
    return stand_in
