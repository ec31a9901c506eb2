"""Explain why a text isn't YAML, in plain words: the place, the line, the cause, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import yaml

LONGEST = 60  # characters of the line in a message


@dataclass(frozen=True)
class Explanation:
    """Cause of a mistake in a text.

    Args:
        line: the line, from 0.
        column: the column, from 0.
        cause: what is wrong.
        advice: what to write instead.
    """

    line: int
    column: int
    cause: str
    advice: str = ""


@dataclass(frozen=True)
class _Problem:
    """Error of the parser: its words, the place where it gave up, and where the unfinished part began."""

    words: str
    lines: list[str]
    line: int
    column: int
    start_line: int
    start_column: int

    def here(self, cause: str, advice: str = "") -> Explanation:
        """Return an explanation for the place of the error."""
        return Explanation(self.line, self.column, cause, advice)

    def at_start(self, cause: str, advice: str = "") -> Explanation:
        """Return an explanation for the place where the unfinished part began."""
        return Explanation(self.start_line, self.start_column, cause, advice)

    def text(self, line: int) -> str:
        """Return a line, "" past the end."""
        return self.lines[line] if line < len(self.lines) else ""


def describe_yaml_error(error: yaml.YAMLError, text: str, source: str) -> str:
    """Return the line of a message about a text that isn't YAML.

    Args:
        error: the parser's error.
        text: the whole text.
        source: the file or the setting that contains it.
    """
    explained = explain(error, text)
    lines = text.splitlines()
    shown = lines[explained.line].strip() if explained.line < len(lines) else ""
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
    where = (
        f"{source}:{explained.line + 1}:{explained.column + 1}" if not source.startswith("the value of ") else source
    )
    quoted = f", in `{shown}`" if shown else ""
    return f"{where}: not valid YAML: {explained.cause}{quoted}{f'; {explained.advice}' if explained.advice else ''}"


def explain(error: yaml.YAMLError, text: str) -> Explanation:
    """Return the cause of an error of the parser, in the parser's own words if no cause is known."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1)
        character = error.character if isinstance(error.character, int) else ord(error.character[:1] or b"\0")
        return Explanation(before.count("\n"), column, f"the character U+{character:04X} isn't allowed", "remove it")
    mark, start = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    words = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return Explanation(0, 0, words)
    start = start or mark
    problem = _Problem(words, text.splitlines(), mark.line, mark.column, start.line, start.column)
    for explain_one in (
        _explain_tab,
        _explain_missing_colon,
        *(_KNOWN[words] for words in _KNOWN if words in problem.words),
    ):
        if explained := explain_one(problem):
            return explained
    return problem.here(problem.words)


def _explain_tab(problem: _Problem) -> Explanation | None:
    """Explain a tab."""
    for line in (problem.line, problem.start_line):
        indentation = re.match(r"\s*", problem.text(line))
        if indentation and "\t" in indentation[0]:
            return Explanation(line, indentation[0].index("\t"), "a tab indents the line", "use spaces")
    if r"'\t'" in problem.words:
        return problem.here("a tab separates name and value", "use spaces")
    return None


def _explain_missing_colon(problem: _Problem) -> Explanation | None:
    """Explain a line without a colon after the name, or without a space after the colon."""
    if "could not find expected ':'" in problem.words:
        line = problem.start_line
    elif "mapping values are not allowed" in problem.words:
        line = _line_before(problem)
    else:
        return None
    text = problem.text(line).split(" #")[0].rstrip()
    name = text.strip().removeprefix("- ")
    column = len(text) - len(text.lstrip())
    if re.match(r"[\w.]+:\S", name):
        return Explanation(line, column + name.index(":"), "a space is missing after the colon", "write name: value")
    if name and ":" not in name:
        return Explanation(line, column, "a colon is missing after the name", "write name: value")
    return None


def _line_before(problem: _Problem) -> int:
    """Return the last line before that of the error which is neither empty nor a comment."""
    lines = range(problem.line - 1, -1, -1)
    return next((line for line in lines if re.match(r"\s*[^\s#]", problem.text(line))), problem.line)


def _explain_colon(problem: _Problem) -> Explanation:
    """Explain a colon that can't follow what is before it."""
    line = problem.text(problem.line)
    if re.search(r":\s", line[: problem.column]):
        return problem.here("a second colon", "put the value in quotes")
    column = len(line) - len(line.lstrip())
    above = problem.text(_line_before(problem)).strip()
    return Explanation(
        problem.line,
        column,
        f"the indentation is larger than that of the line above, which has a value (`{above[:LONGEST]}`)",
        "use the indentation of its neighbours",
    )


def _explain_block(problem: _Problem) -> Explanation:
    """Explain a line that doesn't continue the block before it."""
    found = problem.words.rpartition("found ")[2].strip("'")
    if found in "]}":
        return problem.here(f"{found} closes nothing", "remove it or add the opening bracket")
    if found in "-?":
        return problem.here("names and list items (-) are mixed", "use only one of them in a section")
    if found == "<block mapping start>":
        return problem.here("the indentation fits no line above", "use the indentation of its neighbours")
    return _explain_rest(problem)


def _explain_rest(problem: _Problem) -> Explanation:
    """Explain text after the end of a value."""
    return problem.here("text follows the end of a value", "put the whole value in quotes")


def _explain_missing_value(problem: _Problem) -> Explanation:
    """Explain a bracket that isn't closed, or a missing value."""
    if "<stream end>" not in problem.words:
        found = problem.words.rpartition("found ")[2].strip("'")
        return problem.here(f"a value is missing before {found}", "add the value, or remove it")
    opened: list[tuple[int, int]] = []
    for number, text in enumerate(problem.lines):
        for place, character in enumerate(text):
            if character in "[{":
                opened.append((number, place))
            elif character in "]}" and opened:
                opened.pop()
    line, column = opened[-1] if opened else (problem.line, problem.column)
    return _explain_bracket(replace(problem, start_line=line, start_column=column))


def _explain_name(problem: _Problem) -> Explanation:
    """Explain a list or a mapping as a name."""
    return problem.here("a name must be text or a number", "write name: value")


def _explain_bracket(problem: _Problem) -> Explanation:
    """Explain a list or a mapping in brackets that isn't closed."""
    opening = problem.text(problem.start_line)[problem.start_column : problem.start_column + 1]
    closing = {"[": "]", "{": "}"}.get(opening, "bracket")
    return problem.at_start(f"{opening} isn't closed, or a comma is missing", f"add {closing} or the comma")


def _explain_character(problem: _Problem) -> Explanation:
    """Explain a character that has a meaning in YAML and begins a value."""
    character = problem.text(problem.line)[problem.column : problem.column + 1]
    return problem.here(f"a value can't begin with {character}", "put the value in quotes")


def _explain_start(problem: _Problem) -> Explanation:
    """Explain a value that begins with a character that has a meaning in YAML."""
    character = problem.text(problem.start_line)[problem.start_column : problem.start_column + 1]
    return problem.at_start(f"{character} begins a special value in YAML", "put the value in quotes")


def _explain_end(problem: _Problem) -> Explanation:
    """Explain a quote or a bracket that isn't closed before the end of the text."""
    opening = problem.text(problem.start_line)[problem.start_column : problem.start_column + 1]
    return problem.at_start(f"{opening} isn't closed", f"add a second {opening}" if opening in "'\"" else "")


def _explain_escape(problem: _Problem) -> Explanation:
    """Explain an unknown escape in double quotes."""
    return problem.here("a backslash in double quotes begins an escape", "use single quotes")


def _explain_tag(problem: _Problem) -> Explanation:
    """Explain a tag that is unknown."""
    return problem.here("a value that begins with ! is a tag, and this one is unknown", "put the value in quotes")


def _explain_document(problem: _Problem) -> Explanation:
    """Explain a second document."""
    return problem.here("a second document begins", "use one file per configuration")


_KNOWN: dict[str, Callable[[_Problem], Explanation]] = {
    "mapping values are not allowed": _explain_colon,
    "expected <block end>": _explain_block,
    "expected ',' or": _explain_bracket,
    "that cannot start any token": _explain_character,
    "unexpected end of stream": _explain_end,
    "expected the node content": _explain_missing_value,
    "expected '<document start>'": _explain_rest,
    "found unhashable key": _explain_name,
    "unknown escape character": _explain_escape,
    "undefined alias": _explain_character,
    "expected alphabetic or numeric character": _explain_start,
    "chomping or indentation indicators": _explain_start,
    "mapping keys are not allowed": _explain_character,
    "could not determine a constructor for the tag": _explain_tag,
    "but found another document": _explain_document,
}
"""Explanations by words of the parser."""
