"""Simple model of the buffer: one Python list of rows per stream, and one list of arrivals."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from tensordict import TensorDict

from sheeprl.buffer.tensordicts import flatten


@dataclass
class ModelRow:
    """One arrival row. All values apart from the fields follow from the row's name."""

    name: int
    terminated: bool
    truncated: bool
    is_first: bool
    note: float = 0.0  # overwritten by write_back

    @property
    def is_last(self):
        """Return True for an end row."""
        return self.terminated or self.truncated

    @property
    def reward(self):
        """Return the reward received on arrival."""
        return self.name / 2


@dataclass
class Player:
    """State of the newest incarnation of a player."""

    incarnation: int = 0
    begun: int = 0  # restarts of its streams after lost fragments
    sequence: int = 0  # of the next fragment


class Model:
    """Expected rows and samples of a buffer."""

    def __init__(self, capacity):
        """Start without rows."""
        self.capacity = capacity
        self.players = {}
        self.streams = {}  # (player, incarnation, begun, env) -> rows
        self.bootstrap_rows = {}
        self.arrivals = []  # (stream, position) by arrival number, None in a gap
        self.names = 0

    def new_row(self, end, is_first):
        """Return a row with a new name."""
        self.names += 1
        return ModelRow(self.names, end == "terminated", end == "truncated", is_first)

    def fragment(self, envs, ends):
        """Return rows `[T + 1][B]` with new names. `ends` has two items per row: its end, and None if not first."""
        drawn, rows = iter(ends), len(ends) // envs // 2
        return [[self.new_row(next(drawn), next(drawn) is not None) for _ in range(envs)] for _ in range(rows)]

    def add(self, player, fragment, gap=False):
        """Add the next fragment of a player, after lost ones if `gap` is True."""
        state = self.players.setdefault(player, Player())
        state.begun += gap
        stream = (player, state.incarnation, state.begun)
        for row in fragment[:-1]:
            for env, cell in enumerate(row):
                rows = self.streams.setdefault((*stream, env), [])
                self.arrivals.append(((*stream, env), len(rows)))
                rows.append(cell)
        for env, cell in enumerate(fragment[-1]):
            self.bootstrap_rows[(*stream, env)] = cell

    def leave_gap(self, count):
        """Replace the oldest rows by the gap of an interrupted fragment."""
        self.arrivals += [None] * count

    @property
    def stored(self):
        """Return the stored arrival numbers, gaps included."""
        return range(max(0, len(self.arrivals) - self.capacity), len(self.arrivals))

    @property
    def numbers(self):
        """Return the arrival numbers of the stored rows."""
        return [number for number in self.stored if self.arrivals[number]]

    def row(self, number):
        """Return the row of an arrival number."""
        stream, position = self.arrivals[number]
        return self.streams[stream][position]

    def successor(self, number):
        """Return the row after that of an arrival number."""
        stream, position = self.arrivals[number]
        return self.row_at(stream, position + 1)

    def row_at(self, stream, position):
        """Return a row of a stream, or its bootstrap row."""
        rows = self.streams[stream]
        return rows[position] if position < len(rows) else self.bootstrap_rows[stream]

    def transitions(self):
        """Return (row, successor) by arrival number."""
        return {n: (self.row(n), self.successor(n)) for n in self.numbers if not self.row(n).is_last}

    def n_step(self, n, gamma):
        """Return (row, row up to n steps ahead, return, discount) by arrival number."""
        found = {}
        for number in self.transitions():
            stream, position = self.arrivals[number]
            rewards = []
            while len(rewards) < n and position + len(rewards) < len(self.streams[stream]):
                if rewards and self.row_at(stream, position + len(rewards)).is_last:
                    break
                rewards.append(self.row_at(stream, position + len(rewards) + 1).reward)
            last = self.row_at(stream, position + len(rewards))
            total = sum(gamma**i * reward for i, reward in enumerate(rewards))
            found[number] = self.row(number), last, total, 0.0 if last.terminated else gamma ** len(rewards)
        return found

    def sequences(self, length, context=False, crosses=True):
        """Return the arrival numbers of all rows, context row included, by that of the last row."""
        number_of = {self.arrivals[number]: number for number in self.numbers}
        found = {}
        for number in self.numbers:
            stream, last = self.arrivals[number]
            numbers = [number_of.get((stream, last - length + 1 + i)) for i in range(length)]
            if None in numbers or (not crosses and any(self.row(each).is_first for each in numbers[1:])):
                continue
            if context:
                begin = last - length + 1
                numbers.insert(0, number_of.get((stream, begin - 1)) if begin else numbers[0])
            if None not in numbers:
                found[number] = numbers
        return found

    def episodes(self):
        """Return the arrival numbers of every complete episode, in the order of their ends."""
        number_of = {self.arrivals[number]: number for number in self.numbers}
        found = []
        for stream, rows in self.streams.items():
            begin = None
            for position, row in enumerate(rows):
                begin = position if row.is_first else begin
                if row.is_last and begin is not None:
                    found.append([number_of.get((stream, each)) for each in range(begin, position + 1)])
                    begin = None
        return sorted((numbers for numbers in found if None not in numbers), key=lambda numbers: numbers[-1])


def encode(fragment):
    """Return a fragment of the model as a TensorDict, whose values follow from the names of the rows."""
    shape = (len(fragment), len(fragment[0]))
    names = torch.tensor([[cell.name for cell in row] for row in fragment])

    def flags(field):
        """Return a field of all rows."""
        return torch.tensor([[getattr(cell, field) for cell in row] for row in fragment])

    return TensorDict(
        {
            "obs": {
                "vector": torch.stack([names.float(), -names.float()], -1),
                "deep": {"pixel": (names % 251).to(torch.uint8).reshape(*shape, 1, 1)},
            },
            "action": names * 3,
            "reward": names.float() / 2,
            "terminated": flags("terminated"),
            "truncated": flags("truncated"),
            "is_first": flags("is_first"),
            "note": torch.tensor([[cell.note for cell in row] for row in fragment]),
        },
        batch_size=shape,
    )


def encode_flat(rows):
    """Return a list of the model's rows as flat arrays."""
    return {name: values[0] for name, values in flatten(encode([rows])).items()}


def check_equal(found, expected):
    """Assert that flat keys, dtypes and values are equal, apart from `index`."""
    assert set(found) - {"index"} == set(expected)
    for key, values in expected.items():
        assert found[key].dtype == values.dtype, key
        assert found[key].tolist() == values.tolist(), key


def encode_transitions(pairs):
    """Return (row, successor) pairs as a flat sample of transitions."""
    rows, successors = (encode_flat(list(cells)) for cells in zip(*pairs, strict=True))
    rows |= {key: successors[key] for key in ("reward", "terminated", "truncated")}
    return rows | {f"next_{key}": values for key, values in successors.items() if key.startswith("obs/")}


def one_of_each(rows):
    """Return one sample per distinct index, ascending. Assert that samples of the same index are equal."""
    ndim = rows["index"].ndim
    flat = {name: values.reshape(-1, *values.shape[ndim:]) for name, values in rows.items()}
    _, first, inverse = np.unique(flat["index"], return_index=True, return_inverse=True)
    for name, values in flat.items():
        assert (values == values[first][inverse.ravel()]).all(), name
    return {name: values[first] for name, values in flat.items()}


def columns_of(rows):
    """Return `index` of every sequence in `[n, L, b]` as a tuple."""
    index = rows["index"]
    return [tuple(column) for column in np.moveaxis(index, 1, -1).reshape(-1, index.shape[1]).tolist()]


def check_rows(model, rows, keys=()):
    """Assert that sampled rows, without the keys `keys`, equal those of the model."""
    rows = one_of_each({name: values for name, values in rows.items() if name not in ("importance", *keys)})
    check_equal(rows, encode_flat([model.row(number) for number in rows["index"].tolist()]))


# ---------------------------------------------------------------------------------------- explicit fragments


def rows_of(names, ends="", first="", envs=1):
    """Return a fragment `[T + 1, envs]` of vector observations.

    Args:
        names: names of the rows, from which the values follow.
        ends: a letter per row: t for terminated, x for truncated.
        first: the letter f for each first row.
        envs: number of environments.
    """
    count = len(names)
    ends, first = ends.ljust(count), first.ljust(count)
    column = torch.tensor(names, dtype=torch.float32)[:, None].expand(count, envs) + 1000 * torch.arange(envs)
    grid = {
        "terminated": [[letter == "t"] * envs for letter in ends],
        "truncated": [[letter == "x"] * envs for letter in ends],
        "is_first": [[letter == "f"] * envs for letter in first],
    }
    tensors = {name: torch.tensor(values) for name, values in grid.items()}
    return TensorDict(
        {"obs": column[..., None].clone(), "action": column + 0.25, "reward": column / 10, **tensors},
        batch_size=(count, envs),
    )


def draw_all(buffer, draws=4000):
    """Return every transition of a small buffer."""
    flat = buffer.sample(1, draws).reshape(-1)
    first = np.unique(flat["index"].numpy(), return_index=True)[1]
    return list(flat[torch.from_numpy(first)].unbind(0))


def check_frequencies(counts, expected):
    """Assert with a chi-square test, within three deviations, that counts match their expected values."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    degrees = len(counts) - 1
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < degrees + 3 * math.sqrt(2 * degrees) + 3, (chi_square, degrees)
