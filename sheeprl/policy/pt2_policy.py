"""Run a policy that `sheeprl export --to pt2` wrote. Imports NumPy and torch only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sheeprl.policy.interface import Array, Policy, PolicySpec

METADATA = "sheeprl.json"


class Pt2Policy(Policy):
    """Policy in a file of `torch.export`.

    Args:
        path: the file.

    Raises:
        ValueError: the file isn't a policy of SheepRL.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file."""
        files = {METADATA: ""}
        program = torch.export.load(str(path), extra_files=files)
        if not files[METADATA]:
            raise ValueError("it isn't a policy of sheeprl export --to pt2")
        super().__init__(PolicySpec.from_json(files[METADATA]))
        self._module: Any = program.module()
        self._state: list[torch.Tensor] = []

    def _act(self, leaves: dict[str, Array], reward: Array, is_first: Array) -> Array:
        """Return the actions `[B, *]` in the environment's units, and keep the state."""
        inputs = [torch.from_numpy(leaves[leaf.key]) for leaf in self.spec.observation]
        if self.spec.state:
            if not self._state:
                self._state = [
                    torch.zeros((len(reward), *leaf.shape), dtype=getattr(torch, leaf.dtype))
                    for leaf in self.spec.state
                ]
            inputs += [torch.from_numpy(reward), torch.from_numpy(is_first), *self._state]
        inputs += [torch.from_numpy(drawn) for drawn in self._draw(len(reward)).values()]
        with torch.inference_mode():
            action, *self._state = self._module(*inputs)
        array: Array = action.numpy()
        return array

    def _forget(self) -> None:
        """Forget the state of all episodes."""
        self._state = []
