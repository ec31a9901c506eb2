"""Run a policy that `sheeprl export --to onnx` wrote. Imports NumPy and onnxruntime only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.policy.interface import Array, Policy, PolicySpec

METADATA = "sheeprl"


class OnnxPolicy(Policy):
    """Policy in an ONNX file.

    Args:
        path: the file.
        threads: threads of onnxruntime; 1 is the fastest for small networks.

    Raises:
        ValueError: the file isn't a policy of SheepRL.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        """Open the file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        if text is None:
            raise ValueError(f"{path}: isn't a policy of sheeprl export --to onnx")
        super().__init__(PolicySpec.from_json(text))
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._state: dict[str, Array] = {}

    def _act(self, leaves: dict[str, Array], reward: Array, is_first: Array) -> Array:
        """Return the actions `[B, *]` in the environment's units, and keep the state."""
        if not self._state:
            self._state = {leaf.key: np.zeros((len(reward), *leaf.shape), leaf.dtype) for leaf in self.spec.state}
        given: dict[str, Any] = {**leaves, "reward": reward, "is_first": is_first}
        given |= {f"state/{key}": part for key, part in self._state.items()} | self._draw(len(reward))
        found = self._session.run(self._outputs, {name: given[name] for name in self._inputs})
        outputs = dict(zip(self._outputs, found, strict=True))
        self._state = {leaf.key: outputs[f"next_state/{leaf.key}"] for leaf in self.spec.state}
        return np.asarray(outputs["action"])

    def _forget(self) -> None:
        """Forget the state of all episodes."""
        self._state = {}
