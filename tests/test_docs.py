"""Test that the code of the documentation runs."""

import re
from pathlib import Path

import pytest

from sheeprl import __version__
from tools import site

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["replay_buffer.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    """The code of a page runs from top to bottom."""
    code = PYTHON.findall((DOCS / page).read_text())
    assert code
    exec(compile("\n".join(code), page, "exec"), {})


LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += [*DOCS.glob("*.md"), ROOT / "benchmarks" / "README.md", *ROOT.glob("sheeprl/algos/*/README.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_exist(page):
    """The targets of local links exist in the repository, also without the pages that the site generates."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    targets = [(page.parent / link).resolve() for link in links]
    assert [target for target in targets if not target.exists() or target in site.generated_pages()] == []


@pytest.mark.parametrize("page", ["start", "errors", "glossary", "index"])
def test_the_readme_leads_to_the_pages_for_beginners(page):
    """The README links the pages that a beginner looks for."""
    assert f"docs/{page}.md" in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_continuous_integration_runs_the_command_of_the_readme():
    """Continuous integration runs the command of the README."""
    command = 'pip install -e ".[test]" && pytest'
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert command.replace("install", "install --quiet") in (ROOT / ".ci" / "run").read_text()


def test_the_citation_has_the_version():
    """The citation has the version of the package."""
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
