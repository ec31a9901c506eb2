"""Configuration of Sphinx for the documentation's site: `sphinx-build -W docs build/site`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sheeprl import __version__  # noqa: E402
from tools.site import DOCS, drawn, relinked, write_pages  # noqa: E402

write_pages()

project = "SheepRL"
author = "SheepRL authors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
highlight_language = "none"
nb_execution_mode = "off"  # the tests execute the notebooks
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"SheepRL {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def relink_page(app: object, name: str, text: list[str]) -> None:
    """Convert the links and flowcharts of a page of `docs` for the site."""
    page = DOCS / f"{name}.md"
    if page.parent == DOCS and page.is_file():
        text[0] = drawn(relinked(text[0], page, page))


def setup(app: object) -> None:
    """Register the function that rewrites links."""
    app.connect("source-read", relink_page)
