"""Test standard streams whose reader ends, or that can't be written."""

import os
import subprocess
import sys

import pytest

from sheeprl.utils.output import lasting_output, lost_streams

PROGRAM = """
import os, sys
from sheeprl.utils.output import lasting_output, lost_streams
with lasting_output():
    for _ in range(3):
        print("a line", flush=True)
        print("an error", file=sys.stderr)
    os.system("echo a child")
    lost = lost_streams()
    print("buffered")
print("after")
with open(sys.argv[1], "w") as file:
    file.write(" ".join(lost))
"""


def run(tmp_path, **streams):
    """Run the program; return its exit code and the streams that it found lost."""
    result = tmp_path / "result"
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(result)], timeout=60, **streams)
    return ended.returncode, result.read_text().split()


@pytest.fixture
def closed_pipe():
    """Write end of a pipe without a reader."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_program_outlives_the_readers_of_its_output(tmp_path, closed_pipe):
    """A program continues after the readers of its output have ended."""
    assert run(tmp_path, stdout=closed_pipe, stderr=closed_pipe) == (0, ["stdout", "stderr"])


def test_a_full_disk_loses_output_only(tmp_path):
    """A full disk loses output only."""
    with open("/dev/full", "w") as full:
        code, lost = run(tmp_path, stdout=subprocess.DEVNULL, stderr=full)
    assert (code, lost) == (0, ["stderr"])


def test_output_that_can_be_written_is_complete(tmp_path):
    """Output to a file is complete."""
    path = tmp_path / "output"
    with path.open("w") as file:
        assert run(tmp_path, stdout=file, stderr=file) == (0, [])
    assert path.read_text() == "a line\nan error\n" * 3 + "a child\nbuffered\nafter\n"


def test_closed_descriptors_do_not_become_files(tmp_path):
    """A file that the program opens later receives no output."""
    command = f'{sys.executable} -c "$PROGRAM" {tmp_path / "result"} >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], env=os.environ | {"PROGRAM": PROGRAM}, timeout=60).returncode == 0
    assert (tmp_path / "result").read_text() == ""


def test_replaced_streams_stay(capsys):
    """Streams that another library replaced are unchanged."""
    stdout = sys.stdout
    with lasting_output():
        assert sys.stdout is stdout and lost_streams() == []
        print("text")
    assert capsys.readouterr().out == "text\n"
