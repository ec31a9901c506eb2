"""Encode observations as vectors: flatten their vectors, and encode their pictures with convolutional networks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.envs.transforms import ACTION_MASK, input_keys, input_spaces, vector_size
from sheeprl.models.cnn import BuildCNN, PictureEncoder
from sheeprl.models.mlp import ACTIVATIONS, MLP, mlp

__all__ = ["Bottleneck", "Encoder", "to_vector", "vector_size"]


class Encoder(nn.Module):
    """Joins the features of all pictures, each from its own CNN, and the vectors of an observation.

    Without pictures and without `mlp`, it has no parameters and equals `to_vector`. The key `action_mask` is never an
    input. Pictures of bytes are scaled to [0, 1].

    Args:
        space: observation space.
        mlp_keys: keys of the vectors to read; None for all of them.
        cnn_keys: keys of the pictures to read; None for all of them.
        features: features of each picture; None for the flattened outputs of the convolutions.
        cnn: kind of the CNNs, see `models.cnn.PictureEncoder`.
        mlp: sizes of the layers, each with an activation, that the joined vectors pass; empty for none.
        activation: activation of these layers, a key of `ACTIVATIONS`.
        layer_norm: normalize the outputs of each layer of the CNNs before its activation.

    Raises:
        ValueError: no input is left.
    """

    def __init__(
        self,
        space: gymnasium.Space[Any],
        mlp_keys: Collection[str] | None = None,
        cnn_keys: Collection[str] | None = None,
        *,
        features: int | None = 512,
        cnn: str | BuildCNN = "auto",
        mlp: Sequence[int] = (),
        activation: str = "relu",
        layer_norm: bool = False,
    ) -> None:
        """Build the networks with torch's default initialization."""
        super().__init__()
        vectors, pictures = input_keys(space, mlp_keys, cnn_keys)
        parts = input_spaces(space)
        if not vectors and not pictures:
            raise ValueError(f"no key of the observation is left as an input; use some of {', '.join(parts)}")
        self.has_vectors = bool(vectors)
        self.vectors = _only(space, vectors)
        self.paths = [_path(space, key) for key in pictures]
        encoders = [PictureEncoder(parts[key], features, cnn, layer_norm) for key in pictures]
        self.pictures = nn.ModuleList(encoders)
        self.layers = _layers(vector_size(self.vectors), mlp, activation) if mlp and vectors else None
        vector = 0 if not vectors else mlp[-1] if mlp else vector_size(self.vectors)
        self.picture_shapes = [encoder.shape for encoder in encoders]
        """(C, H, W) of each picture as its CNN gets it."""
        self.picture_size = sum(encoder.size for encoder in encoders)
        """Number of features of all pictures; they come before those of the vectors."""
        self.size = self.picture_size + vector
        """Length of the encoded vectors."""

    def forward(self, obs: Any, batch_dims: int = 1, shift: Tensor | None = None) -> Tensor:
        """Encode observations: `[*batch, *]` with `batch_dims` batch axes to `[*batch, size]`.

        Args:
            obs: observations.
            batch_dims: number of batch axes.
            shift: `[N, 2]` shifts of the pictures of each of the N observations, see `models.cnn.shifted`.
        """
        if not self.paths:
            return self.vector(obs, batch_dims)
        parts = [
            picture.forward(_at(obs, path), batch_dims, shift)
            for path, picture in zip(self.paths, self.pictures, strict=True)
        ]
        if self.has_vectors:
            parts.append(self.vector(obs, batch_dims))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def channels_first(self, obs: Any) -> list[Tensor]:
        """Return each picture of observations `[N, *]` as its CNN gets it, float `[N, C, H, W]`."""
        pictures = cast("list[PictureEncoder]", self.pictures)
        return [picture.channels_first(_at(obs, path)) for path, picture in zip(self.paths, pictures, strict=True)]

    def vector(self, obs: Any, batch_dims: int) -> Tensor:
        """Return the joined vectors after their layers."""
        vector = to_vector(self.vectors, obs, batch_dims)
        return vector if self.layers is None else self.layers.forward(vector)


class Bottleneck(nn.Module):
    """Projection of an encoder's picture features: linear layer, layer normalization and tanh.

    The features of vectors are joined to it unchanged. Without pictures it has no parameters and returns its inputs.
    Yarats et al. 2019 (1910.01741) put it between convolutions and networks.

    Args:
        encoder: encoder of the inputs.
        features: size of the projection.
    """

    def __init__(self, encoder: Encoder, features: int) -> None:
        """Build the layers."""
        super().__init__()
        self.pictures, vectors = encoder.picture_size, encoder.size - encoder.picture_size
        if self.pictures:
            self.layers = nn.Sequential(nn.Linear(self.pictures, features), nn.LayerNorm(features), nn.Tanh())
        self.size = features + vectors if self.pictures else vectors
        """Length of the outputs."""

    def forward(self, features: Tensor) -> Tensor:
        """Project features `[*batch, inputs]` to `[*batch, size]`."""
        if not self.pictures:
            return features
        pictures = self.layers(features[..., : self.pictures])
        return torch.cat([pictures, features[..., self.pictures :]], -1)


def _layers(inputs: int, sizes: Sequence[int], activation: str) -> MLP:
    """Build layers of the given sizes, each with an activation."""
    return MLP(*mlp(inputs, sizes[:-1], sizes[-1], activation), ACTIVATIONS[activation]())


def _path(space: gymnasium.Space[Any], key: str) -> tuple[str, ...]:
    """Return the keys that lead to a part of an observation."""
    return tuple(key.split("/")) if isinstance(space, spaces.Dict) else ()


def _at(obs: Any, path: tuple[str, ...]) -> Tensor:
    """Return a part of an observation."""
    for key in path:
        obs = obs[key]
    part: Tensor = obs
    return part


def _only(space: gymnasium.Space[Any], keys: Collection[str], prefix: str = "") -> gymnasium.Space[Any]:
    """Return an observation space without the parts that don't have the given keys."""
    if not isinstance(space, spaces.Dict):
        return space if keys else spaces.Dict({})
    parts = []  # pairs, because a Dict sorts the keys of a mapping
    for name, part in space.items():
        key = f"{prefix}{name}"
        if isinstance(part, spaces.Dict) and (rest := _only(part, keys, f"{key}/")):
            parts.append((name, rest))
        elif key in keys:
            parts.append((name, part))
    return spaces.Dict(parts)


def to_vector(space: gymnasium.Space[Any], obs: Any, batch_dims: int = 1) -> Tensor:
    """Return one float vector per observation: Boxes flattened, choices one-hot, Dicts joined in the space's order.

    An action mask is left out.

    Args:
        space: the observation space.
        obs: tensor `[*batch, *shape]`, or a mapping of such tensors for a Dict space.
        batch_dims: number of leading batch axes.

    Returns:
        `[*batch, vector_size(space)]` float tensor.
    """
    if isinstance(space, spaces.Dict):
        parts = [to_vector(part, obs[name], batch_dims) for name, part in space.items() if name != ACTION_MASK]
        return torch.cat(parts, -1)
    if isinstance(space, spaces.Discrete):
        return functional.one_hot(obs.long() - int(space.start), int(space.n)).float()
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot_of_each(space, obs.long(), batch_dims)
    vector: Tensor = obs.float()
    if vector.dim() == batch_dims + 1:  # the common case first: a reshape costs time in a small network
        return vector
    return vector.flatten(batch_dims) if vector.dim() > batch_dims else vector.unsqueeze(-1)


def _one_hot_of_each(space: spaces.MultiDiscrete, obs: Tensor, batch_dims: int) -> Tensor:
    """Return the joined one-hot vectors of the elements of a MultiDiscrete: `[*batch, sum(nvec)]`."""
    elements = obs.flatten(batch_dims)
    choices = list(zip(space.nvec.reshape(-1).tolist(), space.start.reshape(-1).tolist(), strict=True))
    if len(set(choices)) == 1:
        count, start = choices[0]
        return functional.one_hot(elements - start, count).flatten(batch_dims).float()
    parts = zip(elements.unbind(-1), choices, strict=True)
    return torch.cat([functional.one_hot(part - start, count) for part, (count, start) in parts], -1).float()
