"""Test the texts of messages."""

import shlex

import pytest
import torch

from sheeprl.utils.errors import describe, one_line, shell_command


@pytest.mark.parametrize("path", ["a b", "run[1]", "it's", "$HOME", "*", "a;b", "é", "logs/plain"])
def test_a_command_can_be_pasted(path):
    """A command in a message can be pasted into a shell."""
    assert shlex.split(shell_command("resume", path)) == ["sheeprl", "resume", path]


def test_a_path_is_not_taken_for_an_option():
    """A path that begins with a dash isn't parsed as an option."""
    assert shell_command("resume", "-x") == "sheeprl resume ./-x"


def test_full_memory_is_said_in_plain_words():
    """The message says how much is missing and what would help, without torch's source files."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert one_line(caught.value).startswith(
        "the memory is full: 268,435,456.0 GiB more can't be allocated; use smaller"
    )
    assert describe(caught.value).startswith("RuntimeError: the memory is full: ")
