"""Draw the rooms of the package from its imports.

`python -m tools.rooms` rewrites the picture in docs/architecture.md.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
FLOORS = [layer.replace(" | ", " ") for layer in LAYERS]  # from the top; rooms of a floor are separated by a space
MARKED = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def room_of(module: str) -> str:
    """Return the first part of a module's name below the package."""
    return module.split(".")[1]


def arrows() -> dict[str, set[str]]:
    """Return, by room, the rooms that its modules import from."""
    graph = grimp.build_graph("sheeprl")
    rooms = set(" ".join(FLOORS).split())
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules - {"sheeprl"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"sheeprl"}:
            if room_of(module) in rooms and room_of(imported) in rooms - {room_of(module)}:
                found[room_of(module)].add(room_of(imported))
    return found


def picture() -> str:
    """Return the rooms as a Mermaid diagram, one row a floor, without arrows that a longer path implies."""
    found = arrows()
    lines = ["```mermaid", "flowchart TD"]
    for floor in FLOORS:
        rooms = floor.split()
        lines.append(f"    subgraph floor_{rooms[0]}[ ]\n        " + "\n        ".join(rooms) + "\n    end")
    for room in " ".join(FLOORS).split():
        for other in sorted(found[room]):
            implied = any(_reaches(found, between, other) for between in found[room] - {other})
            if not implied:
                lines.append(f"    {room} --> {other}")
    return "\n".join([*lines, "```"])


def _reaches(found: dict[str, set[str]], start: str, goal: str) -> bool:
    """Return whether imports lead from one room to another."""
    return any(room == goal or _reaches(found, room, goal) for room in found[start])


if __name__ == "__main__":
    PAGE.write_text(MARKED.sub(lambda _: picture(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
