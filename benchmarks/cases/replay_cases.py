"""SheepRL's side of `benchmarks.replay`: prepare one case, then measure it on request.

Linux only: resident memory is read from `/proc`.
"""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.worker import Figures, seconds_per_call, serve
from sheeprl.actors.ray.actors import ReplayActor

if TYPE_CHECKING:
    from tensordict import TensorDict

    from sheeprl.buffer import ReplayBuffer

Arrays = dict[str, npt.NDArray[Any]]

STORED = 1_000_000
BATCH, CHUNK = 256, 64
ENVS = 4
OBS, ACTION = 17, 6
IMAGE = (64, 64, 3)
EPISODE = 1000
ALPHA, BETA = 0.6, 0.4
LEVELS = (20_000, 200_000, 1_000_000, 5_000_000)
MIB = 2**20


# ---------------------------------------------------------------------------------------------- contents


def fragment_rows(rng: np.random.Generator, rows: int, envs: int = ENVS, image: bool = False) -> Arrays:
    """Return a random fragment `[rows + 1, envs]` whose episodes last 1000 rows on average."""
    shape = (rows + 1, envs)
    ended = rng.random(shape) < 1 / EPISODE
    is_first = np.zeros(shape, bool)
    is_first[1:] = ended[:-1]
    obs: npt.NDArray[Any]
    if image:
        obs = rng.integers(256, size=(*shape, *IMAGE), dtype=np.uint8)
    else:
        obs = rng.standard_normal((*shape, OBS), np.float32)
    return {
        "obs": obs,
        "action": rng.standard_normal((*shape, ACTION), np.float32),
        "reward": rng.standard_normal(shape, np.float32),
        "terminated": ended,
        "truncated": np.zeros(shape, bool),
        "is_first": is_first,
    }


def row_bytes(rows: Arrays) -> int:
    """Return the bytes of one copy of one row."""
    return sum(values[0, 0].nbytes for values in rows.values())


def as_fragment(rows: Arrays) -> TensorDict:
    """Return a TensorDict that shares the arrays' memory."""
    from sheeprl.buffer.tensordicts import unflatten

    return unflatten(rows, batch_dims=2)


def fill(buffer: ReplayBuffer, fragment: TensorDict, until: int) -> None:
    """Add one fragment again and again until the buffer holds `until` rows."""
    while len(buffer) < until:
        buffer.add(fragment)


def filled(stored: int, **options: Any) -> ReplayBuffer:
    """Return a full buffer of small transitions, added like a player of 4 environments does, 64 rows at a time."""
    from sheeprl.buffer import ReplayBuffer
    from sheeprl.buffer.samplers import Transitions

    buffer = ReplayBuffer(stored, Transitions(), seed=0, **options)
    fill(buffer, as_fragment(fragment_rows(np.random.default_rng(0), 64)), stored)
    return buffer


def block_bytes(block: Arrays) -> int:
    """Return the bytes of a block of samples."""
    return sum(values.nbytes for values in block.values())


# ----------------------------------------------------------------------------------------------- drawing


def by_hand(rows: Arrays, rng: np.random.Generator, batches: int) -> Arrays:
    """Sample uniformly with random numbers and `numpy.take`, ignoring the ends of episodes and streams."""
    stored = len(rows["reward"])
    index = rng.integers(stored - 1, size=(batches, BATCH))
    after = index + 1
    taken = {name: rows[name].take(index, axis=0, mode="clip") for name in ("obs", "action")}
    for name in ("reward", "terminated", "truncated"):
        taken[name] = rows[name].take(after, axis=0, mode="clip")
    taken["next_obs"] = rows["obs"].take(after, axis=0, mode="clip")
    return taken


def uniform() -> Callable[[], Figures]:
    """Measure seconds per batch of 256 out of 1M: drawn, sampled as a TensorDict, and by hand; in chunks and singly."""
    buffer = filled(STORED)
    rng = np.random.default_rng(1)
    rows = {name: values[:, 0] for name, values in fragment_rows(rng, STORED - 1, envs=1).items()}

    def measure() -> Figures:
        """Measure one round."""
        return {
            "by_hand": seconds_per_call(lambda: by_hand(rows, rng, CHUNK)) / CHUNK,
            "draw": seconds_per_call(lambda: buffer.draw(BATCH, n_batches=CHUNK)) / CHUNK,
            "sample": seconds_per_call(lambda: buffer.sample(BATCH, n_batches=CHUNK)) / CHUNK,
            "by_hand_single": seconds_per_call(lambda: by_hand(rows, rng, 1)),
            "draw_single": seconds_per_call(lambda: buffer.draw(BATCH)),
            "sample_single": seconds_per_call(lambda: buffer.sample(BATCH)),
        }

    return measure


def prioritized() -> Callable[[], Figures]:
    """Measure seconds per batch of 256 out of 1M, by priority with and without the update, and uniformly."""
    from sheeprl.buffer.priorities import Prioritized

    plain = filled(STORED)
    buffer = filled(STORED, prioritized=Prioritized(alpha=ALPHA, beta=BETA))
    priorities = np.random.default_rng(1).random((CHUNK, BATCH)) + 0.01

    def draw_and_update(batches: int) -> None:
        """Draw batches and update the priorities of their samples."""
        block = buffer.draw(BATCH, n_batches=batches)
        buffer.update_priorities(block["index"], priorities[:batches])

    draw_and_update(CHUNK)

    def measure() -> Figures:
        """Measure one round."""
        return {
            "uniform": seconds_per_call(lambda: plain.draw(BATCH, n_batches=CHUNK)) / CHUNK,
            "draw": seconds_per_call(lambda: buffer.draw(BATCH, n_batches=CHUNK)) / CHUNK,
            "draw_update": seconds_per_call(lambda: draw_and_update(CHUNK)) / CHUNK,
            "draw_update_single": seconds_per_call(lambda: draw_and_update(1)),
        }

    return measure


def sequences() -> Callable[[], Figures]:
    """Measure bytes per second of 64 sequences of 64 images out of 100k, and of copying as many bytes and 1 GB."""
    from sheeprl.buffer import ReplayBuffer
    from sheeprl.buffer.sequences import Sequences

    buffer = ReplayBuffer(100_000, Sequences(64), seed=0)
    fill(buffer, as_fragment(fragment_rows(np.random.default_rng(0), 64, image=True)), 100_000)
    size = block_bytes(buffer.draw(64))
    batch, large = np.ones(size, np.uint8), np.ones(10**9, np.uint8)
    to_batch, to_large = np.ones_like(batch), np.ones_like(large)

    def measure() -> Figures:
        """Measure one round."""
        return {
            "copy_1gb": large.nbytes / seconds_per_call(lambda: np.copyto(to_large, large)),
            "copy_batch": size / seconds_per_call(lambda: np.copyto(to_batch, batch)),
            "draw": size / seconds_per_call(lambda: buffer.draw(64), seconds=1),
            "sample": size / seconds_per_call(lambda: buffer.sample(64), seconds=1),
            "copy_batch_fresh": size / seconds_per_call(batch.copy),
            "copy_1gb_fresh": large.nbytes / seconds_per_call(large.copy),
        }

    return measure


# ------------------------------------------------------------------------------------------------ adding


def add() -> Callable[[], Figures]:
    """Measure seconds per add of a 64 x 4 fragment at several fill levels, and after old rows are overwritten."""
    from sheeprl.buffer import ReplayBuffer
    from sheeprl.buffer.samplers import Transitions

    fragment = as_fragment(fragment_rows(np.random.default_rng(0), 64))

    def measure() -> Figures:
        """Measure one round."""
        buffer = ReplayBuffer(LEVELS[-1] + 100_000, Transitions(), seed=0)
        figures = {}
        for level in LEVELS:
            fill(buffer, fragment, level)
            figures[str(level)] = seconds_per_call(lambda: buffer.add(fragment), seconds=0, least=300)
        fill(buffer, fragment, LEVELS[-1] + 100_000)
        figures["overwriting"] = seconds_per_call(lambda: buffer.add(fragment), seconds=0, least=300)
        return figures

    return measure


# ----------------------------------------------------------------------------------------- through actors


class ChunkActor(ReplayActor):
    """Replay actor of a run, with a full buffer."""

    def __init__(self) -> None:
        """Fill the buffer."""
        from sheeprl.actors.replay import Replay

        self.replay = Replay(filled(STORED), BATCH)


def actor() -> Callable[[], Figures]:
    """Measure bytes per second of chunks from an actor with two requests in progress, and of put and get."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**30)
    actor_class: Any = ray.remote(num_cpus=1)(ChunkActor)
    remote = actor_class.remote()

    def request() -> Any:
        """Request a chunk from the actor."""
        return remote.sample.options(num_returns=2).remote(CHUNK, 0.0)[1]

    block = {name: values.copy() for name, values in ray.get(request()).unpack().items()}
    size = block_bytes(block)
    flat = np.ones(size, np.uint8)
    under_way = [request(), request()]

    def next_chunk() -> None:
        """Get the oldest requested chunk and request another one."""
        under_way.append(request())
        ray.get(under_way.pop(0)).unpack()

    def measure() -> Figures:
        """Measure one round."""
        return {
            "put_get_array": size / seconds_per_call(lambda: ray.get(ray.put(flat)), seconds=2),
            "actor": size / mean_seconds(next_chunk, seconds=3),
            "put_get_dict": size / seconds_per_call(lambda: ray.get(ray.put(block)), seconds=2),
            "chunk_bytes": float(size),
        }

    return measure


def mean_seconds(function: Callable[[], object], seconds: float) -> float:
    """Return the mean time of a call over `seconds`, for a pipeline whose calls wait for each other."""
    for _ in range(4):
        function()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        function()
        count += 1
    return (time.perf_counter() - began) / count


# ------------------------------------------------------------------------------------------------ memory


def status_bytes(field: str) -> int:
    """Return a field of `/proc/self/status` in bytes, such as `VmRSS`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def memory(with_priorities: bool = False) -> Callable[[], Figures]:
    """Measure the growth of resident memory from all modules loaded to 1M rows stored. Once a process."""
    options: dict[str, Any] = {}
    if with_priorities:
        from sheeprl.buffer.priorities import Prioritized

        options["prioritized"] = Prioritized(alpha=ALPHA, beta=BETA)
    warm = filled(ENVS * 64, **options)
    warm.sample(1)
    row = row_bytes(fragment_rows(np.random.default_rng(0), 64))

    def measure() -> Figures:
        """Fill the buffer and measure the growth."""
        before = status_bytes("VmRSS")
        buffer = filled(STORED, **options)
        grown = status_bytes("VmRSS") - before
        assert len(buffer) == STORED
        return {"grown": float(grown), "raw": float(row * STORED)}

    return measure


def memory_prioritized() -> Callable[[], Figures]:
    """Measure `memory` with priorities."""
    return memory(with_priorities=True)


def memmap(limit: int, folder: Path, by_rlimit: bool) -> Callable[[], Figures]:
    """Measure bytes per second into and out of a memory-mapped buffer of 4 times the process's memory limit.

    Args:
        limit: bytes.
        folder: folder of the files.
        by_rlimit: set `RLIMIT_DATA` here, which counts private memory and not the pages of mapped files.
    """
    if by_rlimit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from sheeprl.buffer import ReplayBuffer
    from sheeprl.buffer.samplers import Transitions

    rows = fragment_rows(np.random.default_rng(0), 64, image=True)
    fragment, row = as_fragment(rows), row_bytes(rows)
    stored = 4 * limit // row + 1

    def measure() -> Figures:
        """Measure one round."""
        with tempfile.TemporaryDirectory(prefix="replay_", dir=folder) as place:
            buffer = ReplayBuffer(stored, Transitions(), seed=0, memmap=place)
            began = time.perf_counter()
            fill(buffer, fragment, stored)
            seconds = time.perf_counter() - began
            size = block_bytes(buffer.draw(BATCH, n_batches=2))
            sampled = size / seconds_per_call(lambda: buffer.draw(BATCH, n_batches=2), seconds=3)
            evict(Path(place))
            began = time.perf_counter()
            buffer.draw(BATCH, n_batches=2)
            cold = size / (time.perf_counter() - began)
            return {
                "add": stored * row / seconds,
                "sample": sampled,
                "sample_from_disk": cold,
                "stored_bytes": float(stored * row),
                "private": float(status_bytes("VmData")),
                "private_resident": float(status_bytes("RssAnon")),
            }

    return measure


def evict(folder: Path) -> None:
    """Drop the pages of the files below a folder from this process and from the page cache."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    os.sync()
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


# -------------------------------------------------------------------------------------------------- main

CASES: dict[str, Callable[[], Callable[[], Figures]]] = {
    "uniform": uniform,
    "prioritized": prioritized,
    "sequences": sequences,
    "add": add,
    "actor": actor,
    "memory": memory,
    "memory_prioritized": memory_prioritized,
}


def main() -> None:
    """Prepare the case named on the command line and serve measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", choices=(*CASES, "memmap"))
    parser.add_argument("--limit", type=int, default=2**30, help="bytes of memory, for memmap")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for memmap's files")
    parser.add_argument("--rlimit", action="store_true", help="set the limit as RLIMIT_DATA")
    given = parser.parse_args()
    if given.case == "memmap":
        serve(lambda: memmap(given.limit, given.folder, given.rlimit))
    else:
        serve(CASES[given.case])


if __name__ == "__main__":
    main()
