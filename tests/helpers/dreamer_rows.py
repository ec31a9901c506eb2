"""Random sequences of replayed rows for the tests of the Dreamers, whose deterministic state has 16 numbers."""

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict

from sheeprl.algos.base import Spaces

VECTOR, PICTURE = spaces.Box(-5.0, 5.0, (3,)), spaces.Box(0, 255, (8, 8, 3), np.uint8)
BOX, ROWS, N = spaces.Box(-1.0, 1.0, (2,)), 7, 4
CASES = {
    "continuous": Spaces(VECTOR, BOX),
    "discrete, pixels": Spaces(PICTURE, spaces.Discrete(3)),
    "multi-discrete, Dict": Spaces(
        spaces.Dict({"rgb": PICTURE, "arm": spaces.Dict({"x": VECTOR, "mode": spaces.Discrete(2)})}),
        spaces.MultiDiscrete([2, 3]),
    ),
}


def random_values(space, *batch):
    """Return random elements of a space, nested as the space."""
    if isinstance(space, spaces.Dict):
        return {name: random_values(part, *batch) for name, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return torch.randint(int(space.n), batch)
    if isinstance(space, spaces.MultiDiscrete):
        return torch.stack([torch.randint(int(count), batch) for count in space.nvec], -1)
    if space.dtype == np.uint8:
        return torch.randint(256, (*batch, *space.shape), dtype=torch.uint8)
    return torch.randn(*batch, *space.shape)


def make_batch(algorithm, ends=True):
    """Return random sequences `[1 + L, N]`; an episode ends in the middle of some."""
    rows = {"obs": random_values(algorithm.spaces.observation, ROWS, N)}
    rows |= {"action": random_values(algorithm.spaces.action, ROWS, N), "reward": torch.randn(ROWS, N)}
    terminated, truncated = (torch.zeros(ROWS, N, dtype=torch.bool) for _ in range(2))
    if ends:
        terminated[3, 0] = truncated[4, 1] = True
    is_first = torch.cat([torch.zeros(1, N, dtype=torch.bool), (terminated | truncated)[:-1]])
    latents = algorithm.latents
    sample = latents.sample(torch.randn(ROWS, N, latents.outputs), latents.draw((ROWS, N), torch.default_generator))
    state = {"deter": torch.randn(ROWS, N, 16), "stoch": latents.stored(sample)}
    flags = {"terminated": terminated, "truncated": truncated, "is_first": is_first}
    return TensorDict(rows | flags | state | {"sample_weight": torch.full((N,), 1 / N)}, [])
