"""The code of the documentation runs."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["replay_buffer.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    code = PYTHON.findall((DOCS / page).read_text())
    assert code
    exec(compile("\n".join(code), page, "exec"), {})
