"""Starts processes that add to a memory-mapped buffer until they are killed, one for every line that it reads.

A line is the capacity and the folder. Each process goes on with what is there, and says the player and the sequence
number of each fragment once it was added. They are forked, so that PyTorch is imported once.
"""

import os
import sys
import time
from pathlib import Path

import sheeprl.buffer.storage
from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.memmap import has_buffer
from sheeprl.buffer.sequences import Sequences
from tests.helpers.buffer_model import rows_of

sheeprl.buffer.storage.RECORDS = 7
PLAYERS, FRAGMENTS = 3, 100
ROWS = 40


def fragment_of(player, sequence):
    """Every row is told by its name: the player, then its place in its stream."""
    names = [100_000 * player + ROWS * sequence + row for row in range(ROWS + 1)]
    ends = "".join("t" if name % 11 == 10 else " " for name in names)
    first = "".join("f" if name % 11 == 0 else " " for name in names)
    return rows_of(names, ends, first, envs=player + 1)


def say(line):
    """In one system call, which a kill can't tear: `print` makes two where Python doesn't buffer."""
    os.write(1, f"{line}\n".encode())


def write(folder, capacity):
    sampler = Sequences(3, crosses=False)
    try:
        if has_buffer(folder):
            buffer = ReplayBuffer.attach(folder, capacity, sampler)
        else:
            buffer = ReplayBuffer(capacity, sampler, memmap=folder)
    except OSError as error:
        say(type(error).__name__)
        return
    expected = [buffer.storage.streams.expects((player, 0)) for player in range(PLAYERS)]
    numbers = range(min(expected), min(expected) + FRAGMENTS)
    fragments = [(player, number, fragment_of(player, number)) for number in numbers for player in range(PLAYERS)]
    say(f"ready {os.getpid()}")
    for player, number, fragment in fragments:
        if number >= expected[player]:
            buffer.add(fragment, (player, 0), number)
            say(f"{player} {number}")
    time.sleep(60)  # to be killed


def main():
    for line in sys.stdin:
        capacity, folder = line.split(maxsplit=1)
        pid = os.fork()
        if not pid:
            write(Path(folder.strip()), int(capacity))
            os._exit(0)
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main()
