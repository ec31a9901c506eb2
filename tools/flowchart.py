"""Draw a flowchart of Mermaid as SVG, so that the site needs no script and no network for it.

It knows what `tools.rooms` writes: a subgraph per floor, from top to bottom, and arrows between their boxes.
"""

from __future__ import annotations

import re

WIDTH, HEIGHT, GAP, RISE = 104, 30, 22, 62  # of a box, between two boxes, and from floor to floor
ARROW = re.compile(r"^\s*(\w+) --> (\w+)$", re.MULTILINE)
FLOOR = re.compile(r"^\s*subgraph \w+\[ \]\n(.*?)^\s*end$", re.MULTILINE | re.DOTALL)
HEAD = (
    '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
    '<path d="M0,0 L7,3 L0,6 z" fill="currentColor"/></marker></defs>'
)


def draw(chart: str) -> str:
    """Return a flowchart as SVG in the colour of the text around it.

    Args:
        chart: the lines of Mermaid.
    """
    floors = [block.split() for block in FLOOR.findall(chart)]
    widest = max(map(len, floors)) * (WIDTH + GAP) + GAP
    places: dict[str, tuple[float, float]] = {}
    for row, floor in enumerate(floors):
        left = (widest - len(floor) * (WIDTH + GAP) + GAP) / 2
        for column, name in enumerate(floor):
            places[name] = (left + column * (WIDTH + GAP) + WIDTH / 2, GAP + row * RISE)
    high = GAP + len(floors) * RISE
    parts = [f'<svg viewBox="0 0 {widest:g} {high}" role="img" style="max-width: {widest:g}px; width: 100%">']
    parts += ["<title>The rooms of the package and their imports</title>", HEAD]
    for start, end in ARROW.findall(chart):
        (x, y), (to_x, to_y) = places[start], places[end]
        shift = (to_x - x) * 0.15
        line = f'x1="{x + shift:g}" y1="{y + HEIGHT:g}" x2="{to_x - shift:g}" y2="{to_y - 2:g}"'
        parts.append(f'<line {line} stroke="currentColor" opacity="0.6" marker-end="url(#head)"/>')
    for name, (x, y) in places.items():
        box = f'x="{x - WIDTH / 2:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"'
        parts.append(f'<rect {box} fill="var(--color-background-secondary, none)" stroke="currentColor"/>')
        parts.append(f'<text x="{x:g}" y="{y + 20:g}" text-anchor="middle" font-size="14" fill="currentColor">')
        parts.append(f"{name}</text>")
    return "".join([*parts, "</svg>"])
