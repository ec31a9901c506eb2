"""Start processes that add to a memory-mapped buffer until they are killed, one per line of stdin.

A line has the capacity and the folder. Each process continues the stored buffer, and prints the player and the sequence
number of each fragment once it is added. The processes are forked, so that PyTorch is imported once.
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
    """Return a fragment whose rows are named by their player and their place in its stream."""
    names = [100_000 * player + ROWS * sequence + row for row in range(ROWS + 1)]
    ends = "".join("t" if name % 11 == 10 else " " for name in names)
    first = "".join("f" if name % 11 == 0 else " " for name in names)
    return rows_of(names, ends, first, envs=player + 1)


def print_line(line):
    """Print a line in one system call, which a kill can't split; `print` needs two if the output is unbuffered."""
    os.write(1, f"{line}\n".encode())


def write(folder, capacity):
    """Add fragments to the buffer in a folder and wait to be killed."""
    sampler = Sequences(3, crosses=False)
    try:
        if has_buffer(folder):
            buffer = ReplayBuffer.attach(folder, capacity, sampler)
        else:
            buffer = ReplayBuffer(capacity, sampler, memmap=folder)
    except OSError as error:
        print_line(type(error).__name__)
        return
    expected = [buffer.storage.streams.expects((player, 0)) for player in range(PLAYERS)]
    numbers = range(min(expected), min(expected) + FRAGMENTS)
    fragments = [(player, number, fragment_of(player, number)) for number in numbers for player in range(PLAYERS)]
    print_line(f"ready {os.getpid()}")
    for player, number, fragment in fragments:
        if number >= expected[player]:
            buffer.add(fragment, (player, 0), number)
            print_line(f"{player} {number}")
    time.sleep(60)  # to be killed


def main():
    """Fork a process for each line of stdin."""
    for line in sys.stdin:
        capacity, folder = line.split(maxsplit=1)
        pid = os.fork()
        if not pid:
            write(Path(folder.strip()), int(capacity))
            os._exit(0)
        os.waitpid(pid, 0)
        print_line("gone")


if __name__ == "__main__":
    main()
