"""Test the pages that the documentation's site generates."""

import re
from pathlib import Path

import pytest

from sheeprl.config.schema import Config, leaves
from tools import site

ROOT = Path(__file__).resolve().parents[1]
TOPLEVEL = re.compile(r'"((?:Rewards|Game|Test|Time|Params|Players|Trainer|Weights|Buffer)/[a-z_]+)"')


def test_the_page_of_the_settings_has_all_of_them():
    """The page of the settings has a row for each setting, with its type, default and meaning."""
    page = site.settings_page()
    for key, field in leaves(Config):
        if not key.startswith("algo."):
            assert f"| `{key}` | " in page and site.escaped(field.description) in page
    assert "| `env.num_envs` | int | `4` | environments of one player |" in page
    assert "| `algo.gamma` | float | `0.99` | discount factor |" in page


def test_the_metrics_of_every_run_are_described():
    """`docs/running.md`, from which the page of the metrics is made, describes each metric of the driver."""
    described = {name for names, _ in site.metrics_of_runs() for name in names}
    files = [*(ROOT / "sheeprl" / "metrics").glob("*.py"), *(ROOT / "sheeprl" / "driver").glob("*.py")]
    logged = {name for file in files for name in TOPLEVEL.findall(file.read_text(encoding="utf-8"))}
    assert logged - described - {"Test/cumulative_reward_std"} == set()
    assert "Rewards/rew_avg" in described and all(
        meaning for names, meaning in site.metrics_of_runs() if len(names) == 1
    )


def test_links_lead_to_pages_of_the_site():
    """Links to files with a page lead to it, those to other files stay, and folders have none."""
    page = site.DOCS / "algorithms" / "ppo.md"
    source = ROOT / "sheeprl" / "algos" / "ppo" / "README.md"
    text = (
        "[a](../a2c/README.md) [b](args.py) ![c](../../../docs/images/x.png) [d](../../../docs/running.md#exit-codes) "
    )
    text += "[e](../../actors) [`f`](https://example.org)"
    assert site.relinked(text, source, page) == (
        "[a](a2c.md) [b](../../sheeprl/algos/ppo/args.py) ![c](../images/x.png) [d](../running.md#exit-codes) "
        "e [`f`](https://example.org)"
    )


def test_each_page_is_in_the_table_of_contents():
    """Each page is in the table of contents."""
    index = (site.DOCS / "index.md").read_text(encoding="utf-8")
    missing = [page.stem for page in site.DOCS.glob("*.md") if not re.search(rf"^{page.stem}$", index, re.MULTILINE)]
    assert missing == ["index"]


def test_the_page_of_the_commands_has_their_help():
    """The page of the commands has the help of each command."""
    page = site.commands_page()
    assert "## sheeprl convert-config" in page and "--episodes" in page and "\x1b" not in page


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Sphinx builds the site without a warning."""
    pytest.importorskip("myst_nb", reason="needs the extra docs")
    pytest.importorskip("furo", reason="needs the extra docs")
    pytest.importorskip("sphinxcontrib.mermaid", reason="needs the extra docs")
    from sphinx.cmd.build import build_main

    assert build_main(["-q", "-E", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]) == 0
    assert (tmp_path / "algorithms" / "ppo.html").is_file()
