"""The origin of a figure, which its file contains: its command, its settings, and its runs with their commits."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sheeprl.results.reading import Results, RunResults
from sheeprl.utils.errors import ConfigError
from sheeprl.version import __version__

KIND = "sheeprl figure"


@dataclass(frozen=True)
class Origin:
    """Origin of a figure: its command, its settings and its runs.

    Args:
        command: words of the command.
        settings: arguments of the drawing, by name.
        runs: for each run its `path`, `commit` and `command`; the last two are None for runs of other programs.
        version: version of this program.
    """

    command: list[str]
    settings: dict[str, Any]
    runs: list[dict[str, Any]]
    version: str = __version__

    def to_text(self) -> str:
        """Return the text for the file, in ASCII."""
        return json.dumps({"kind": KIND, **asdict(self)})


def origin_of(runs: Sequence[Results], command: Sequence[str], settings: dict[str, Any]) -> Origin:
    """Return the origin of a figure that is drawn now."""
    return Origin(["sheeprl", *command], settings, [_about(each) for each in runs])


def _about(results: Results) -> dict[str, Any]:
    """Return the path, the commit and the command of a run."""
    if not isinstance(results, RunResults):
        return {"path": results.name, "commit": None, "command": None}
    start = (results.run.info.get("starts") or [{}])[0]
    git = start.get("git") or {}
    return {"path": results.run.path, "commit": git.get("commit"), "command": start.get("command")}


def read_origin(path: Path) -> Origin:
    """Return the origin of a figure.

    Raises:
        ConfigError: the file can't be read, or `sheeprl plot` didn't draw it.
    """
    readers = {".pdf": _from_pdf, ".svg": _from_svg, ".png": _from_png}
    if path.suffix not in readers:
        raise ConfigError([f"{path}: must end with {', '.join(readers)}"])
    try:
        about = json.loads(readers[path.suffix](path))
        if about.pop("kind") != KIND:
            raise ValueError
        return Origin(**about)
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror or error}"]) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError([f"{path}: isn't a figure of sheeprl plot"]) from error


def _from_pdf(path: Path) -> str:
    """Return the subject of a PDF file, "" without one."""
    found = re.search(rb"/Subject \(((?:\\.|[^\\)])*)\)", path.read_bytes(), re.DOTALL)
    return re.sub(rb"\\(.)", rb"\1", found[1]).decode("ascii") if found else ""


def _from_svg(path: Path) -> str:
    """Return the description of an SVG file, "" without one."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(encoding="utf-8"), re.DOTALL)
    return html.unescape(found[1]) if found else ""


def _from_png(path: Path) -> str:
    """Return the description of a PNG file, "" without one."""
    from PIL import Image

    with Image.open(path) as image:
        return str(image.info.get("Description", ""))
