"""Test that docs/architecture.md agrees with the code."""

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="tools/rooms.py needs Python 3.11")
pytest.importorskip("grimp", reason="needs import-linter")

from tools import rooms

ROOT = Path(__file__).resolve().parents[1]
TEXT = rooms.PAGE.read_text(encoding="utf-8")


def test_the_picture_shows_the_imports():
    """The picture shows the imports."""
    assert rooms.MARKED.search(TEXT).group(0) == rooms.picture()


def test_every_room_has_its_row():
    """Every room has a row in the table."""
    found = {path.stem for path in (ROOT / "sheeprl").iterdir() if not path.name.startswith("_")} - {"version", "py"}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == found == set(" ".join(rooms.FLOORS).split())


@pytest.mark.parametrize("step", re.findall(r"`(sheeprl/[\w/]+\.py:[\w.]+)`", TEXT))
def test_every_step_names_a_function(step):
    """Every step of a walk names an existing function."""
    path, names = step.split(":")
    scope = ast.parse((ROOT / path).read_text()).body
    for name in names.split("."):
        scope = next(node for node in scope if getattr(node, "name", None) == name).body
