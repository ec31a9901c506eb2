"""Test that the commands in the documentation work."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(?:bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "docs/recovery.md", "docs/new_algorithm.md", "docs/change_one_line.md", "docs/migration.md"]


def commands_of(page):
    """The words of each command of a page, without its comment."""
    text = "\n".join(BLOCK.findall((ROOT / page).read_text(encoding="utf-8")))
    found = re.findall(r"^(?:\$ )?sheeprl (\S.*?)(?: +#.*)?$", text, re.MULTILINE)
    return [shlex.split(words) for words in found]


def test_there_are_commands():
    """Every page contains commands."""
    assert all(commands_of(page) for page in PAGES)


NEED_A_RUN_OR_RAY = ("resume", "replay", "eval", "enjoy", "dream", "export", "compare", "plot", "sweep", "status")


@pytest.mark.parametrize(
    "words",
    [
        words
        for page in PAGES
        for words in commands_of(page)
        if page != "docs/migration.md"
        and words[0] not in NEED_A_RUN_OR_RAY
        and not any("reinforce" in word or "my_" in word for word in words)  # need the files of the page
    ],
    ids=" ".join,
)
def test_a_command_of_a_page_is_accepted(sheeprl, training, monkeypatch, words):
    """A command of a page is accepted."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sheeprl.cli.check_env.SECONDS", 0.01)
    assert sheeprl(*(word for word in words if word != "--dry-run")).code == 0


def test_the_example_of_the_migration_page_prints_what_the_page_shows(sheeprl, training):
    """The example of the migration page prints the text on the page."""
    (block,) = BLOCK.findall((ROOT / "docs/migration.md").read_text(encoding="utf-8"))
    command, *lines = block.splitlines()
    done = sheeprl(*shlex.split(command.removeprefix("$ sheeprl ")))
    assert (done.code, done.err.splitlines()) == (2, lines)
