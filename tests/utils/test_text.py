"""Test the format of text for messages."""

import re
from pathlib import Path

import sheeprl
from sheeprl.utils.text import byte_size, counted


def test_a_count_of_one_is_singular():
    """Only a count of one is singular."""
    assert [counted(number, "episode") for number in (0, 1, 2, 2000)] == [
        "0 episodes",
        "1 episode",
        "2 episodes",
        "2,000 episodes",
    ]


def test_a_byte_size_has_a_unit_and_one_digit():
    """The unit is KiB below a MiB, and GiB from a GiB on."""
    assert [byte_size(size) for size in (0, 2**19, 3 * 2**19, 3 * 2**30, 2**42)] == [
        "0.0 KiB",
        "512.0 KiB",
        "1.5 MiB",
        "3.0 GiB",
        "4,096.0 GiB",
    ]


def test_no_message_has_a_byte_size_of_its_own():
    """No module formats bytes by itself."""
    own = re.compile(r"\{[^{}]*\} (KiB|MiB|GiB)")
    files = [file for file in Path(sheeprl.__file__).parent.rglob("*.py") if file.stem != "text"]
    assert [str(file) for file in files if own.search(file.read_text(encoding="utf-8"))] == []


def test_no_message_counts_without_the_helper():
    """No module chooses between singular and plural by itself."""
    own = re.compile(r"""['"]s['"] (\*|if)""")
    files = [file for file in Path(sheeprl.__file__).parent.rglob("*.py") if file.stem != "text"]
    assert [str(file) for file in files if own.search(file.read_text(encoding="utf-8"))] == []
