"""Convolutional networks: encoders of pictures, and their decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

LEAST_NATURE = 36  # smallest height and width of which three layers of NatureCNN leave a pixel
LEAST = {"nature": LEAST_NATURE, "deep": 15}
"""Smallest height and width by the kind of a CNN; the kernels of other kinds shrink with the picture."""


class Conv(NamedTuple):
    """Convolution without padding: number of channels, size of the square kernel, stride."""

    channels: int
    kernel: int
    stride: int


KINDS: dict[str, tuple[Conv, ...]] = {
    "nature": (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1)),
    "small": (Conv(16, 3, 1),),
    "deep": (Conv(32, 3, 2), *(Conv(32, 3, 1),) * 3),
}
"""Layers by the kind of a CNN.

- `nature`: Mnih et al. 2015, for pictures of at least 36 x 36 pixels.
- `small`: MinAtar's, Young and Tian 2019 (1903.03176), for grids of a few cells.
- `deep`: Yarats et al. 2019 (1910.01741), for pictures of continuous control, of at least 15 x 15 pixels.
"""


def layers_of(kind: str, height: int, width: int) -> tuple[Conv, ...]:
    """Return the layers of a kind of CNN; `auto` chooses it by the size of the picture.

    Raises:
        ValueError: unknown kind, or the picture is too small for it.
    """
    least = min(height, width)
    if kind == "auto":
        kind = "nature" if least >= LEAST_NATURE else "small"
    if kind not in KINDS:
        raise ValueError(f"cnn={kind}: unknown kind; use {', '.join(['auto', *list(KINDS)[:-1]])} or {list(KINDS)[-1]}")
    if least < (needed := LEAST.get(kind, 1)):
        raise ValueError(f"cnn={kind}: needs at least {needed} x {needed} pixels, not {height} x {width}")
    return tuple(layer._replace(kernel=min(layer.kernel, least)) for layer in KINDS[kind])


def pixel_encoder(kind: str, shape: Sequence[int], features: int | None, layer_norm: bool = False) -> nn.Sequential:
    """Build a CNN from `[N, C, H, W]` to `[N, features]`: convolutions and a linear layer, each with ReLU.

    Args:
        kind: a key of `KINDS`, or `auto` by the size of the picture.
        shape: (C, H, W).
        features: size of the output; None for the flattened output of the convolutions, without the linear layer.
        layer_norm: normalize the outputs of each layer before its activation, those of a convolution over channels
            and pixels (LayerNorm, 1607.06450).

    Raises:
        ValueError: unknown kind, or the picture is too small for it.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    convolutions = layers_of(kind, height, width)
    sizes = zip(_sizes(convolutions, height)[1:], _sizes(convolutions, width)[1:], strict=True)
    for layer, (height, width) in zip(convolutions, sizes, strict=True):
        norm = [nn.LayerNorm((layer.channels, height, width))] if layer_norm else []
        layers += [nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride), *norm, nn.ReLU()]
        channels = layer.channels
    if features is None:
        return nn.Sequential(*layers, nn.Flatten())
    norm = [nn.LayerNorm(features)] if layer_norm else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat_size(kind, shape), features), *norm, nn.ReLU())


def flat_size(kind: str, shape: Sequence[int]) -> int:
    """Return the size of the flattened output of the convolutions for pictures of the shape (C, H, W)."""
    _, height, width = shape
    convolutions = layers_of(kind, height, width)
    return convolutions[-1].channels * _sizes(convolutions, height)[-1] * _sizes(convolutions, width)[-1]


class PixelDecoder(nn.Module):
    """Mirror of `pixel_encoder`: a linear layer and transposed convolutions, from features to a picture.

    Args:
        features: size of the input.
        shape: (C, H, W) of the picture.
        kind: kind of the encoder that it mirrors.

    Raises:
        ValueError: unknown kind, or the picture is too small for it.
    """

    def __init__(self, features: int, shape: Sequence[int], kind: str = "auto") -> None:
        """Build the layers; the last one has no activation."""
        super().__init__()
        channels, height, width = shape
        convolutions = layers_of(kind, height, width)
        heights, widths = _sizes(convolutions, height), _sizes(convolutions, width)
        self.shape = (convolutions[-1].channels, heights[-1], widths[-1])
        outputs = [channels, *(layer.channels for layer in convolutions[:-1])]
        layers: list[nn.Module] = [nn.Linear(features, math.prod(self.shape)), nn.ReLU(), nn.Unflatten(-1, self.shape)]
        for i, layer in reversed(list(enumerate(convolutions))):
            # A convolution ignores the pixels that its stride doesn't reach.
            rest = (heights[i] - layer.kernel) % layer.stride, (widths[i] - layer.kernel) % layer.stride
            layers += [
                nn.ConvTranspose2d(layer.channels, outputs[i], layer.kernel, layer.stride, output_padding=rest),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """Decode features: `[*, features]` to `[*, C, H, W]`."""
        pictures: Tensor = self.layers(features.reshape(-1, features.shape[-1]))
        return pictures.reshape(*features.shape[:-1], *pictures.shape[1:])


def _sizes(layers: Sequence[Conv], size: int) -> list[int]:
    """Return the height or width of a picture before the first layer and after each layer."""
    sizes = [size]
    for layer in layers:
        sizes.append((sizes[-1] - layer.kernel) // layer.stride + 1)
    return sizes


class PictureEncoder(nn.Module):
    """CNN for the pictures of an observation space.

    The channels are the last axis, `[H, W, C]`, or the first one, `[C, H, W]`, if it is shorter than both others.
    Further axes in front, such as stacked frames, become channels. A picture of two axes has one channel. Bytes are
    scaled to [0, 1].

    Args:
        space: Box of the pictures.
        features: size of the output; None for the flattened output of the convolutions.
        kind: kind of CNN.
        layer_norm: normalize the outputs of each layer; see `pixel_encoder`.
    """

    def __init__(
        self, space: gymnasium.Space[Any], features: int | None, kind: str = "auto", layer_norm: bool = False
    ) -> None:
        """Build the CNN."""
        super().__init__()
        shape = tuple(space.shape or ())
        self.axes = len(shape)
        self.is_channels_last = len(shape) > 2 and not shape[-3] < min(shape[-2:])
        self.scale = 1 / 255 if space.dtype == np.uint8 else None
        if self.is_channels_last:
            shape = (*shape[:-3], shape[-1], *shape[-3:-1])
        self.shape = (math.prod(shape[:-2]), *shape[-2:])
        """(C, H, W) after all axes in front became channels."""
        self.network = pixel_encoder(kind, self.shape, features, layer_norm)
        self.size = flat_size(kind, self.shape) if features is None else features
        """Size of the output."""

    def forward(self, pictures: Tensor, batch_dims: int = 1, shift: Tensor | None = None) -> Tensor:
        """Encode pictures: `[*batch, *shape]` to `[*batch, features]`, shifted by `shift` as by `shifted`."""
        batch = pictures.shape[:batch_dims]
        inputs = self.channels_first(pictures, batch_dims)
        features: Tensor = self.network(inputs if shift is None else shifted(inputs, shift))
        return features if batch_dims == 1 else features.reshape(*batch, -1)

    def channels_first(self, pictures: Tensor, batch_dims: int = 1) -> Tensor:
        """Return pictures as the CNN gets them: `[*batch, *shape]` to float `[N, C, H, W]`."""
        if self.is_channels_last:
            pictures = pictures.movedim(-1, -3)
        pictures = pictures.reshape(-1, *self.shape).float()
        return pictures if self.scale is None else pictures * self.scale


def shifted(pictures: Tensor, shift: Tensor) -> Tensor:
    """Shift pictures; the pixels at the border are repeated.

    With random shifts, this is the augmentation of DrQ, Yarats et al. 2021 (2004.13649): padding and a random crop.

    Args:
        pictures: `[N, C, H, W]`.
        shift: `[N, 2]` int64, the rows and columns by which the window moves down and to the right.
    """
    count, channels, height, width = pictures.shape
    device = pictures.device
    rows = (torch.arange(height, device=device) + shift[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) + shift[:, 1:]).clamp(0, width - 1)
    sample = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(-1, 1, 1)
    return pictures[sample, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]
