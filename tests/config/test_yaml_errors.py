"""A text that isn't YAML is explained in plain words."""

import pytest

from sheeprl import ConfigError
from sheeprl.config.loading import inspect
from sheeprl.config.yaml_io import parse_yaml

VALUE = "write name: value"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("run:\n\tseed: 3\n", "2:1", "a tab indents the line, in `seed: 3`; use spaces"),
        ("run:\n  seed:\t3\n", "2:8", "a tab separates name and value, in `seed:\t3`; use spaces"),
        ("run:\n  seed 3\n  mode: coupled\n", "2:3", f"a colon is missing after the name, in `seed 3`; {VALUE}"),
        ("run\n  seed: 3\n", "1:1", f"a colon is missing after the name, in `run`; {VALUE}"),
        ("run:\n  mode: coupled\n  seed 3\n", "3:3", f"a colon is missing after the name, in `seed 3`; {VALUE}"),
        ("run:\n  seed:3\n  mode: x\n", "2:7", f"a space is missing after the colon, in `seed:3`; {VALUE}"),
        ("run:\n  seed: 3\n   mode: x\n", "3:4", "the indentation is larger than that of the line above, which has"),
        ("run:\n    seed: 3\n  mode: x\n", "3:3", "the indentation fits no line above, in `mode: x`; use the indent"),
        ("run:\n  seed: 3\n  seed: 4\n", "3:3", "the name seed is already in line 2, in `seed: 4`"),
        ("a: [1, 2\nb: 3\n", "1:4", "[ isn't closed, or a comma is missing, in `a: [1, 2`; add ] or the comma"),
        ("a: {b: 1\nb: 3\n", "1:4", "{ isn't closed, or a comma is missing, in `a: {b: 1`; add } or the comma"),
        ("a: {b: \n", "1:4", "{ isn't closed, or a comma is missing, in `a: {b:`; add } or the comma"),
        ("a: [1]]\n", "1:7", "] closes nothing, in `a: [1]]`; remove it or add the opening bracket"),
        ("a: 'b\nc: 3\n", "1:4", "' isn't closed, in `a: 'b`; add a second '"),
        ('a: "\\q"\n', "1:6", "a backslash in double quotes begins an escape"),
        ("a: b: c\n", "1:5", "a second colon, in `a: b: c`; put the value in quotes"),
        ("a: @b\n", "1:4", "a value can't begin with @, in `a: @b`; put the value in quotes"),
        ("a: *b\n", "1:4", "a value can't begin with *"),
        ("a: >b\n", "1:4", "> begins a special value in YAML"),
        ("a: !b c\n", "1:4", "a value that begins with ! is a tag, and this one is unknown"),
        ("a: 1\n---\nb: 2\n", "2:1", "a second document begins"),
        ("a:\n  - 1\n  b: 3\n", "3:3", "names and list items (-) are mixed"),
        ("a: 'b' c\n", "1:8", "text follows the end of a value"),
        ("{[1]: 2}\n", "1:2", "a name must be text or a number"),
        ("a: }\n", "1:4", "a value is missing before }"),
        ("a: b\x07\n", "1:5", "the character U+0007 isn't allowed"),
    ],
)
def test_a_mistake_has_its_place_its_line_and_its_cause(text, place, message):
    """A mistake has its place, its line and its cause."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "mine.yaml")
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"mine.yaml:{place}: not valid YAML: {message}")


def test_a_value_on_the_command_line_has_no_place():
    """A value on the command line has no place."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml("{a: [1}", "the value of --kwargs")
    assert caught.value.mistakes == [
        "the value of --kwargs: not valid YAML: [ isn't closed, or a comma is missing, in `{a: [1}`; add ] or the comma"
    ]


def test_a_long_line_is_cut():
    """A long line is cut."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(f"a: [{'x' * 500}\n", "mine.yaml")
    assert len(caught.value.mistakes[0]) < 200


@pytest.mark.parametrize("line", ["seed:3", "seed 3"])
def test_a_single_setting_without_a_colon_or_without_its_space_is_text(line):
    """A single setting without a colon, or without the space after it, is text."""
    tree = parse_yaml(f"algo: {{name: ppo}}\nenv: {{id: CartPole-v1}}\nrun:\n  {line}\n", "mine.yaml")
    (mistake,) = inspect(tree)[1]
    assert mistake.endswith(f"{line}: must be a section of settings; did you mean seed: 3?")
