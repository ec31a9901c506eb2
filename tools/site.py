"""Write the generated pages of the documentation's site: `docs/conf.py` calls `write_pages` before Sphinx reads them.

They come from the README of each algorithm, the schema of the settings, the metrics of `docs/running.md` and the help
of the commands. Git ignores them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

from pydantic.fields import FieldInfo

from sheeprl.algos import registry
from sheeprl.cli import overview
from sheeprl.cli.flags import type_name
from sheeprl.config.schema import Config, config_class, leaves
from sheeprl.config.suggestions import shown
from tools import flowchart

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("algorithms", "reference", "project")
"""Folders of generated pages."""

PAGES = {
    **{file: DOCS / "algorithms" / f"{file.parent.name}.md" for file in sorted(ROOT.glob("sheeprl/algos/*/README.md"))},
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CONTRIBUTING.md": DOCS / "project" / "contributing.md",
    ROOT / "SECURITY.md": DOCS / "project" / "security.md",
    ROOT / "CHANGELOG.md": DOCS / "project" / "changelog.md",
    ROOT / "benchmarks" / "README.md": DOCS / "project" / "benchmarks.md",
}
"""Files outside of `docs`, and their pages."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")
CHART = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```\n(Rewards/rew_avg .*?)^```$", re.MULTILINE | re.DOTALL)
SCALAR = re.compile(r"""["']((?:Loss|Values|Params|Policy|Grads|Model)/[a-z_]+)["']""")


def write_pages() -> None:
    """Write all generated pages, and remove those that have no source."""
    for folder in FOLDERS:
        shutil.rmtree(DOCS / folder, ignore_errors=True)
        (DOCS / folder).mkdir()
    for page, make in generated_pages().items():
        page.write_text(make(), encoding="utf-8")


def generated_pages() -> dict[Path, Callable[[], str]]:
    """Return the generated pages, and the function that returns the text of each."""
    copies = {
        page: functools.partial(relinked_file, source, page) for source, page in PAGES.items() if page.parent != DOCS
    }
    return {
        **copies,
        DOCS / "algorithms" / "index.md": algorithms_page,
        DOCS / "reference" / "settings.md": settings_page,
        DOCS / "reference" / "metrics.md": metrics_page,
        DOCS / "reference" / "commands.md": commands_page,
    }


def relinked_file(source: Path, page: Path) -> str:
    """Return the text of a file for its page."""
    return relinked(source.read_text(encoding="utf-8"), source, page)


def relinked(text: str, source: Path, page: Path) -> str:
    """Return Markdown with links that work on a page of the site.

    Args:
        text: the text.
        source: its file, which relative links start from.
        page: the file of its page.
    """

    def relink(match: re.Match[str]) -> str:
        """Return one link."""
        image, label, target, anchor = match.groups()
        path = (source.parent / target).resolve()
        if path.is_dir():
            return label
        path = PAGES.get(path, path)
        return f"{image}[{label}]({os.path.relpath(path, page.parent)}{anchor or ''})"

    return LINK.sub(relink, text)


def drawn(text: str) -> str:
    """Return Markdown with its flowcharts drawn."""
    return CHART.sub(lambda match: f"```{{raw}} html\n{flowchart.draw(match[1])}\n```", text)


def algorithms_page() -> str:
    """Return the list of the algorithms."""
    rows = ["| algorithm | observations | actions | summary |", "|---|---|---|---|"]
    names = own_algorithms()
    for name in names:
        args = registry.args_class(name)
        title = f"[{name}]({args.__module__.split('.')[-2]}.md)"
        rows.append(f"| {title} | {', '.join(args.observations)} | {', '.join(args.actions)} | {args.summary} |")
    pages = sorted({page.stem for page in PAGES.values() if page.parent.name == "algorithms"})
    toc = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])
    intro = "`sheeprl algos` prints this list, also with the algorithms of other packages."
    return "\n".join(["# Algorithms", "", intro, "", *rows, "", toc, ""])


def own_algorithms() -> list[str]:
    """Return the names of the algorithms of this package."""
    return [name for name in registry.registered() if registry.args_class(name).__module__.startswith("sheeprl.")]


def settings_page() -> str:
    """Return the page of all settings: a table per section, and one per algorithm."""
    lines = [
        "# Settings",
        "",
        "All settings of [a configuration](../configuration.md) with their types and defaults. On the command line a",
        "setting is `section.name=value` or `--name value`.",
    ]
    by_section: dict[str, list[tuple[str, FieldInfo]]] = {}
    for key, field in leaves(Config):
        by_section.setdefault(key.partition(".")[0], []).append((key, field))
    for section, fields in by_section.items():
        if section == "algo":
            continue
        doc = (Config.model_fields[section].annotation.__doc__ or "").partition("\n")[0]
        lines += ["", f"## {section}", "", doc, "", *_table(fields)]
    for name in own_algorithms():
        args = registry.args_class(name)
        fields = [pair for pair in leaves(config_class(args)) if pair[0].startswith("algo.") and pair[0] != "algo.name"]
        page = args.__module__.split(".")[-2]
        lines += ["", f"## algo.name={name}", "", f"{args.summary}; [its page](../algorithms/{page}.md).", ""]
        lines += _table(fields)
    return "\n".join(lines) + "\n"


def _table(fields: Iterable[tuple[str, FieldInfo]]) -> list[str]:
    """Return the rows of a table of settings."""
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for key, field in fields:
        default = "required" if field.is_required() else f"`{shown(_plain(field))}`"
        cells = [f"`{key}`", escaped(type_name(field.annotation)), default, escaped(field.description or "")]
        rows.append("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in cells) + " |")
    return rows


def escaped(text: str) -> str:
    """Return text whose characters mean nothing in Markdown."""
    return re.sub(r"([<>*_\[\]|])", r"\\\1", text)


def _plain(field: FieldInfo) -> object:
    """Return the default of a setting, with lists for tuples."""
    default = field.get_default(call_default_factory=True)
    return list(default) if isinstance(default, tuple) else default


def metrics_of_runs() -> list[tuple[list[str], str]]:
    """Return the names and the meaning of each line of metrics in `docs/running.md`."""
    (block,) = BLOCK.findall((DOCS / "running.md").read_text(encoding="utf-8"))
    rows: list[tuple[list[str], str]] = []
    for line in block.splitlines():
        names, _, meaning = line.partition("   ") if not line.startswith(" ") else ("", "", line)
        if not names:
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {meaning.strip()}".strip())
        else:
            rows.append((names.split(), meaning.strip()))
    return rows


def metrics_page() -> str:
    """Return the page of the metrics: those of every run, and those of each algorithm."""
    lines = ["# Metrics", "", "A run writes these numbers to `metrics.jsonl`, to TensorBoard and to its trackers."]
    lines += ["[Running](../running.md#output-of-a-run) describes the files.", "", "## Every run", ""]
    lines += ["| metric | meaning |", "|---|---|"]
    for names, meaning in metrics_of_runs():
        cells = " ".join(f"`{name}`" for name in names)
        lines.append(f"| {cells} | {meaning} |")
    lines += ["", "## By algorithm", "", "| algorithm | own metrics |", "|---|---|"]
    for folder in sorted(page.stem for page in PAGES.values() if page.parent.name == "algorithms"):
        found = dict.fromkeys(
            name
            for file in sorted((ROOT / "sheeprl" / "algos" / folder).glob("*.py"))
            for name in SCALAR.findall(file.read_text(encoding="utf-8"))
        )
        if found:
            lines.append(f"| [{folder}](../algorithms/{folder}.md) | {' '.join(f'`{name}`' for name in found)} |")
    lines += ["", "Algorithms that extend another one also log its metrics.", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page with the help of each command."""
    lines = ["# Commands", "", "The help of `sheeprl`, `sheeprl COMMAND -h` and `sheeprl -h exit`."]
    for words in ([], *([name] for name in (*overview.WITH_SETTINGS, *overview.PLAIN)), ["exit"]):
        title = " ".join(["sheeprl", *words]) if words != ["exit"] else "Exit codes"
        shown_words = ["-h", "exit"] if words == ["exit"] else [*words, "-h"]
        lines += ["", f"## {title}", "", "```text", *_help(shown_words), "```"]
    return "\n".join(lines) + "\n"


def _help(words: list[str]) -> Iterator[str]:
    """Yield the lines that a command of the program prints."""
    import typer.rich_utils  # noqa: F401  # reads its width from the environment at its import, for good

    from sheeprl.cli import main

    plain = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    output = io.StringIO()
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(words)
    for line in output.getvalue().strip("\n").splitlines():
        yield line.rstrip()
