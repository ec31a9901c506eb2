"""docs/architecture.md says what the code says."""

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
    assert rooms.MARKED.search(TEXT).group(0) == rooms.picture()


def test_every_room_has_its_row():
    found = {path.stem for path in (ROOT / "sheeprl").iterdir() if not path.name.startswith("_")} - {"version", "py"}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == found == set(" ".join(rooms.FLOORS).split())


@pytest.mark.parametrize("step", re.findall(r"`(sheeprl/[\w/]+\.py:[\w.]+)`", TEXT))
def test_every_step_names_a_function(step):
    path, names = step.split(":")
    scope = ast.parse((ROOT / path).read_text()).body
    for name in names.split("."):
        scope = next(node for node in scope if getattr(node, "name", None) == name).body
