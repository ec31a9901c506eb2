"""Test the texts of messages."""

import shlex

import pytest

from sheeprl.utils.errors import shell_command


@pytest.mark.parametrize("path", ["a b", "run[1]", "it's", "$HOME", "*", "a;b", "é", "logs/plain"])
def test_a_command_can_be_pasted(path):
    """A command in a message can be pasted into a shell."""
    assert shlex.split(shell_command("resume", path)) == ["sheeprl", "resume", path]


def test_a_path_is_not_taken_for_an_option():
    """A path that begins with a dash isn't parsed as an option."""
    assert shell_command("resume", "-x") == "sheeprl resume ./-x"
