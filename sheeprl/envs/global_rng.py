"""The generators that a process has for all its code: Python's, NumPy's and Torch's. Some environments draw from them.

A player has its own of each, which are in their place while it plays: what it draws doesn't depend on who else is in
the process, and is kept with its state.

Torch is imported late: the driver, which makes an environment to look at its spaces, needs none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.random import mtrand


def seed_all(seed: int) -> None:
    """Seed those of the process."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def capture() -> dict[str, Any]:
    """Where those of the process are, as plain data."""
    import torch

    return {"python": random.getstate(), "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}


def restore(state: dict[str, Any]) -> None:
    """Put those of the process where they were."""
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])


@contextmanager
def kept() -> Iterator[None]:
    """Have those of the process where they were afterwards."""
    before = capture()
    try:
        yield
    finally:
        restore(before)


class OwnGenerators:
    """One of each, to be put in the place of the process's.

    Args:
        seed: of all of them.
    """

    def __init__(self, seed: int) -> None:
        import torch

        self._python = random.Random(seed).getstate()
        self._numpy = np.random.MT19937(seed)
        self._torch = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Whoever draws from the process's generators draws from these."""
        import torch

        others = random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state()
        random.setstate(self._python)
        mtrand.set_bit_generator(self._numpy)  # as it is: states of NumPy's take long to copy
        torch.set_rng_state(self._torch)
        try:
            yield
        finally:
            self._python, self._torch = random.getstate(), torch.get_rng_state()
            random.setstate(others[0])
            mtrand.set_bit_generator(others[1])
            torch.set_rng_state(others[2])

    @property
    def state(self) -> dict[str, Any]:
        """Where they are, as plain data."""
        return {"python": self._python, "numpy": self._numpy.state, "torch": self._torch}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._python, self._numpy.state, self._torch = state["python"], state["numpy"], state["torch"]
