"""The benchmarks' entry, and the page that is made of their results. Nothing is measured here."""

import subprocess
import sys

import pytest

from benchmarks.__main__ import benchmarks, main, summary_of
from benchmarks.record import ROOT


def test_every_module_with_a_main_that_takes_words_is_a_benchmark():
    names = benchmarks()
    assert {"learning", "speed", "replay", "chaos", "soak", "plot"} <= set(names)
    assert not {"record", "worker", "replay_cases", "__main__"} & set(names)
    assert all(summary.endswith(".") for summary in names.values())
    assert summary_of('"""What it does.\n\nMore."""\ndef main(args=None): ...') == "What it does."
    assert summary_of('"""A helper."""\ndef main(): ...') is None


def test_the_list_imports_no_benchmark():
    code = "import sys; from benchmarks.__main__ import main; main(['--list']); print(*sys.modules)"
    heavy = {"torch", "ray", "numpy", "matplotlib"} | {f"benchmarks.{name}" for name in benchmarks()}
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    *lines, modules = printed.splitlines()
    assert len(lines) == len(benchmarks()) + 2
    assert not heavy & set(modules.split())


def test_an_unknown_name_is_told_with_the_nearest(capsys):
    assert main(["sped"]) == 2
    assert "did you mean speed?" in capsys.readouterr().err


def test_a_benchmark_is_given_its_arguments(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["learning", "--help"])
    assert ended.value.code == 0
    assert "usage: python -m benchmarks learning" in capsys.readouterr().out
