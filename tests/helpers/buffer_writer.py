"""Start processes that add to a memory-mapped buffer until they are killed, one for every line of the input.

A line gives capacity and folder. Each process attaches the buffer there, if any, and prints player and sequence number
of each added fragment. The processes are forked, so that PyTorch is imported once.
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
    """Return a fragment whose values follow from the names of its rows: the player, then the position in the stream."""
    names = [100_000 * player + ROWS * sequence + row for row in range(ROWS + 1)]
    ends = "".join("t" if name % 11 == 10 else " " for name in names)
    first = "".join("f" if name % 11 == 0 else " " for name in names)
    return rows_of(names, ends, first, envs=player + 1)


def send(line):
    """Print a line in one system call, which a kill can't split. Unbuffered `print` makes two."""
    os.write(1, f"{line}\n".encode())


def write(folder, capacity):
    """Attach or create the buffer, and add fragments."""
    sampler = Sequences(3, crosses=False)
    try:
        if has_buffer(folder):
            buffer = ReplayBuffer.attach(folder, capacity, sampler)
        else:
            buffer = ReplayBuffer(capacity, sampler, memmap=folder)
    except OSError as error:
        send(type(error).__name__)
        return
    expected = [buffer.storage.streams.expected_sequence((player, 0)) for player in range(PLAYERS)]
    numbers = range(min(expected), min(expected) + FRAGMENTS)
    fragments = [(player, number, fragment_of(player, number)) for number in numbers for player in range(PLAYERS)]
    send(f"ready {os.getpid()}")
    for player, number, fragment in fragments:
        if number >= expected[player]:
            buffer.add(fragment, (player, 0), number)
            send(f"{player} {number}")
    time.sleep(60)  # to be killed


def main():
    """Fork a process for every line of the input and wait for its end."""
    for line in sys.stdin:
        capacity, folder = line.split(maxsplit=1)
        pid = os.fork()
        if not pid:
            write(Path(folder.strip()), int(capacity))
            os._exit(0)
        os.waitpid(pid, 0)
        send("gone")


if __name__ == "__main__":
    main()
