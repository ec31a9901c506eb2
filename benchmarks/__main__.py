"""Entry point of all benchmarks: `python -m benchmarks NAME [args]`, and `python -m benchmarks --list`.

A benchmark is a module of this package with a function `main(args)`. Its name is that of the module, its summary the
first line of the module's docstring. Only the named one is imported, because benchmarks need different libraries.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def summary_of(source: str) -> str | None:
    """Return the first line of a module's docstring, or None if the module isn't a benchmark."""
    tree = ast.parse(source)
    if not any(isinstance(node, ast.FunctionDef) and node.name == "main" and node.args.args for node in tree.body):
        return None
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def benchmarks(folder: Path = FOLDER) -> dict[str, str]:
    """Return the summary of every benchmark, by name."""
    modules = (path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_"))
    summaries = {path.stem: summary_of(path.read_text(encoding="utf-8")) for path in modules}
    return {name: summary for name, summary in summaries.items() if summary is not None}


def usage(names: dict[str, str]) -> str:
    """Return the usage text with the list of benchmarks."""
    width = max(map(len, names))
    lines = (f"  {name:<{width}}  {summary}" for name, summary in names.items())
    return "\n".join(["usage: python -m benchmarks NAME [args]; NAME --help shows its arguments", "", *lines])


def main(words: Sequence[str]) -> int | None:
    """Run the named benchmark; return its exit code."""
    names = benchmarks()
    if not words or words[0] in ("-l", "--list", "-h", "--help"):
        print(usage(names))
        return 0
    name, *args = words
    if name not in names:
        nearest = difflib.get_close_matches(name, names, 1) or list(names)
        print(f"error: {name}: no such benchmark; did you mean {', '.join(nearest)}?", file=sys.stderr)
        return 2
    code: int | None = importlib.import_module(f"benchmarks.{name}").main(args)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
