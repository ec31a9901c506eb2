"""Export a policy to a file that runs without SheepRL's trainer, and check it against the policy.

The file maps observations to actions in the environment's own units: normalization, masks, the state of a recurrent
policy and the scaling of actions are inside. It holds no pickled object.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from sheeprl.algos.base import PolicyInput
from sheeprl.buffer.tensordicts import nested
from sheeprl.policy.interface import Array, Policy
from sheeprl.policy.loading import load_policy
from sheeprl.policy.torch_policy import Draws, TorchPolicy
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line
from sheeprl.utils.installation import install_command

TOLERANCE = 1e-6  # of the difference between the actions, relative to half the range of the actions
CALLS = 500  # for the latency


@dataclass(frozen=True)
class Recorded:
    """Observations of one environment in order, for the comparison."""

    observations: list[Any]
    rewards: list[float]
    is_first: list[bool]


@dataclass(frozen=True)
class Check:
    """Result of comparing an exported policy with its origin.

    Args:
        observations: number of observations.
        difference: largest difference of actions, relative to half their range; 1 for different discrete actions.
        p50: median of the seconds of a call with one observation.
        p99: the 99th percentile of the seconds.
    """

    observations: int
    difference: float
    p50: float
    p99: float


class _FlatPolicy(nn.Module):
    """Policy whose inputs and outputs are tensors, without dicts.

    Args:
        origin: the policy.
    """

    def __init__(self, origin: TorchPolicy) -> None:
        """Register the network."""
        super().__init__()
        self.policy, self.algorithm, self.spec = origin.policy, origin.algorithm, origin.spec
        self.to_env = action_function(origin.action)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the actions in the environment's units, and the next state.

        Args:
            inputs: leaves of the observation; for a recurrent policy then reward, is_first and the state; the random
                numbers that the policy draws.
        """
        count = len(self.spec.observation)
        end = len(inputs) - len(self.spec.noise)
        inputs, drawn = inputs[:end], inputs[end:]
        obs = nested({leaf.key: part for leaf, part in zip(self.spec.observation, inputs[:count], strict=True)})["obs"]
        if self.spec.state:
            reward, is_first, *parts = inputs[count:]
            state = {leaf.key: part for leaf, part in zip(self.spec.state, parts, strict=True)}
        else:
            reward = inputs[0].new_zeros(inputs[0].shape[0], dtype=torch.float32)
            is_first, state = reward.bool(), {}
        row = PolicyInput(obs, reward, is_first, progress=1.0)
        with Draws(drawn):
            output = self.algorithm.act(self.policy, row, state, "greedy", torch.Generator())
        return (self.to_env(output.action), *(output.rnn_state[leaf.key] for leaf in self.spec.state))


def action_function(space: Space[Any]) -> Callable[[Tensor], Tensor]:
    """Return the function of tensors that equals `sheeprl.envs.transforms.ActionTransform` of a space.

    Whole numbers are returned as int64.
    """
    if isinstance(space, spaces.Box):
        shape = tuple(space.shape)
        scale = _whole_numbers(space) if space.dtype.kind in "iub" else _real_numbers(space)
        return lambda action: scale(action.reshape(-1, *shape))
    if isinstance(space, spaces.MultiDiscrete):
        start = torch.from_numpy(np.asarray(space.start, np.int64))
        return lambda action: action.reshape(-1, *start.shape) + start
    if isinstance(space, spaces.MultiBinary):
        shape = tuple(space.shape)
        return lambda action: action.reshape(-1, *shape).long()
    start_at = int(getattr(space, "start", 0))
    return lambda action: action + start_at


def _real_numbers(space: spaces.Box) -> Callable[[Tensor], Tensor]:
    """Return the function that maps actions to the real numbers of a box."""
    dtype = getattr(torch, str(space.dtype))
    low, high = (torch.from_numpy(bound.copy()) for bound in (space.low, space.high))
    if not space.is_bounded():
        return lambda action: action.to(dtype).maximum(low).minimum(high)
    wide_low, wide_high = low.double(), high.double()
    middle, half = wide_high / 2 + wide_low / 2, wide_high / 2 - wide_low / 2

    def scale(action: Tensor) -> Tensor:
        """Scale an action of the agent."""
        scaled = (middle + half * action.clamp(-1.0, 1.0).double()).to(dtype)
        return scaled.maximum(low).minimum(high)

    return scale


def _whole_numbers(space: spaces.Box) -> Callable[[Tensor], Tensor]:
    """Return the function that maps actions to the whole numbers of a box.

    Raises:
        ConfigError: its range exceeds that of int64.
    """
    if space.dtype == np.uint64 or (space.is_bounded() and np.any(np.ptp([space.low, space.high], 0) > 2.0**52)):
        raise ConfigError([f"the actions {space} have a range that an exported policy can't represent"])
    low, high = (torch.from_numpy(bound.astype(np.int64)) for bound in (space.low, space.high))
    if not space.is_bounded():
        return lambda action: action.double().round().maximum(low.double()).minimum(high.double()).long()
    count, span = (high - low).double() + 1, high - low

    def scale(action: Tensor) -> Tensor:
        """Scale an action of the agent."""
        part = (action.double().clamp(-1.0, 1.0) + 1) / 2
        return low + (part * count).floor().long().minimum(span)

    return scale


def export_policy(origin: TorchPolicy, path: Path) -> None:
    """Write a policy as an ONNX file or as a program of `torch.export`, depending on the name of the file.

    Args:
        origin: the policy.
        path: a file that ends with .onnx or .pt2.

    Raises:
        ConfigError: a package is missing, or the file can't be written.
        RunFailedError: torch can't export the policy.
    """
    flat = _FlatPolicy(origin).eval()
    inputs = _example(origin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet(), torch.no_grad():
            shapes = ({0: torch.export.Dim.DYNAMIC},) * len(inputs)
            program = torch.export.export(flat, tuple(inputs.values()), dynamic_shapes={"inputs": shapes})
            if path.suffix == ".onnx":
                _write_onnx(program, origin, list(inputs), path)
            else:
                _write_pt2(program, origin, path)
    except ImportError as error:
        raise ConfigError([f"{error}; use {install_command('export')}"]) from error
    except OSError as error:
        raise ConfigError([f"--out {path}: can't be written: {error.strerror or error}"]) from error
    except Exception as error:
        reason = one_line(error)
        if "Constraints violated" in reason:
            reason = f"{type(origin.algorithm).__name__}.act() fixes the batch size; use x.shape[0] in place of len(x)"
        raise RunFailedError(f"the policy can't be exported to {path.suffix[1:]}: {reason}") from error


def _example(origin: TorchPolicy) -> dict[str, Tensor]:
    """Return inputs of the flat policy by name, with a batch of 2."""
    inputs = {key: torch.cat([part, part]) for key, part in origin.example().items()}
    if origin.spec.state:
        inputs |= {"reward": torch.zeros(2), "is_first": torch.zeros(2, dtype=torch.bool)}
        for leaf in origin.spec.state:
            inputs[f"state/{leaf.key}"] = torch.zeros((2, *leaf.shape), dtype=getattr(torch, leaf.dtype))
    return inputs | {leaf.key: torch.full((2, *leaf.shape), 0.5) for leaf in origin.spec.noise}


def _write_onnx(program: Any, origin: TorchPolicy, inputs: list[str], path: Path) -> None:
    """Write an exported program as ONNX, with the specification in its metadata."""
    import onnx
    import onnxscript  # noqa: F401  torch needs it, and its error message doesn't say so first

    outputs = ["action", *(f"next_state/{leaf.key}" for leaf in origin.spec.state)]
    found = torch.onnx.export(
        program, (), input_names=inputs, output_names=outputs, dynamo=True, optimize=True, verbose=False
    )
    assert found is not None
    model = found.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "sheeprl", origin.spec.to_json()
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _write_pt2(program: Any, origin: TorchPolicy, path: Path) -> None:
    """Write an exported program, with the specification as an extra file and without pickled sample inputs."""
    program._example_inputs = None
    file = BytesIO()  # torch's own error of a path that can't be written doesn't name it
    torch.export.save(program, file, extra_files={"sheeprl.json": origin.spec.to_json()})
    path.write_bytes(file.getbuffer())


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress lines and warnings of torch's exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# -------------------------------------------------------------------------------------- comparison


def record(origin: TorchPolicy, env: Any, steps: int, seed: int = 0) -> Recorded:
    """Play an environment with a policy and return the inputs of the policy.

    Args:
        origin: the policy.
        env: a single environment.
        steps: number of observations.
        seed: seed of the first reset.
    """
    recorded = Recorded([], [], [])
    origin.reset()
    obs, reward, is_first = env.reset(seed=seed)[0], 0.0, True
    for _ in range(steps):
        recorded.observations.append(obs)
        recorded.rewards.append(float(reward))
        recorded.is_first.append(is_first)
        if is_first:
            origin.reset()
        obs, reward, terminated, truncated, _ = env.step(origin(obs, reward))
        is_first = terminated or truncated
        if is_first:
            (obs, _), reward = env.reset(), 0.0
    return recorded


def compare(origin: TorchPolicy, path: Path, recorded: Recorded) -> Check:
    """Compare an exported policy with its origin on recorded observations, one by one and as batches.

    Args:
        origin: the policy.
        path: the exported file.
        recorded: the observations.
    """
    exported = load_policy(path)
    origin.draws_as_exported = True
    differences = [
        float(np.max(_difference(one, other, origin.action), initial=0.0))
        for one, other in zip(_replay(origin, recorded), _replay(exported, recorded), strict=True)
    ]
    for policy in (origin, exported):
        policy.seed(1)
        policy.reset()
    batch = _stacked(recorded.observations)
    differences.append(float(np.max(_difference(origin(batch), exported(batch), origin.action), initial=0.0)))
    times = []
    exported.reset()
    for number in range(CALLS):
        began = time.perf_counter()
        exported(recorded.observations[number % len(recorded.observations)])
        times.append(time.perf_counter() - began)
    p50, p99 = np.quantile(times, (0.5, 0.99))
    return Check(len(recorded.observations), max(differences), float(p50), float(p99))


def _replay(policy: Policy, recorded: Recorded) -> Iterator[Any]:
    """Yield the action of a policy for each recorded observation."""
    policy.seed(0)
    for obs, reward, is_first in zip(recorded.observations, recorded.rewards, recorded.is_first, strict=True):
        if is_first:
            policy.reset()
        yield policy(obs, reward)


def _difference(one: Array, other: Array, space: Space[Any]) -> Any:
    """Return the difference of two actions, relative to half the range of the space or, without one, to their size."""
    if not isinstance(space, spaces.Box) or space.dtype.kind in "iub":
        return (np.asarray(one) != np.asarray(other)).astype(float)
    size = (space.high - space.low) / 2 if space.is_bounded() else np.maximum(1.0, np.abs(one))
    return np.abs(np.asarray(one, float) - np.asarray(other, float)) / np.maximum(size, 1e-12)


def _stacked(observations: list[Any]) -> Any:
    """Return observations as a batch."""
    if isinstance(observations[0], dict):
        return {key: _stacked([obs[key] for obs in observations]) for key in observations[0]}
    return np.stack(observations)
