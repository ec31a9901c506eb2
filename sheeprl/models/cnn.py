"""Convolutional networks: encoders of pictures, and their decoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.models.mlp import ACTIVATIONS
from sheeprl.models.normed import BlockLinear, RMSNorm, truncated_normal_
from sheeprl.models.parts import in_parts

BuildCNN = Callable[[Sequence[int]], nn.Module]
"""Function that builds a CNN from (C, H, W); the attribute `size` of the module is the size of its output."""
LEAST_NATURE = 36  # smallest height and width of which three layers of NatureCNN leave a pixel
LEAST = {"nature": LEAST_NATURE, "deep": 15, "strided32": 46, "strided48": 46}
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
    "strided32": tuple(Conv(32 * multiple, 4, 2) for multiple in (1, 2, 4, 8)),
    "strided48": tuple(Conv(48 * multiple, 4, 2) for multiple in (1, 2, 4, 8)),
}
"""Layers by the kind of a CNN.

- `nature`: Mnih et al. 2015, for pictures of at least 36 x 36 pixels.
- `small`: MinAtar's, Young and Tian 2019 (1903.03176), for grids of a few cells.
- `strided32`, `strided48`: Ha and Schmidhuber 2018 (1803.10122), for pictures of at least 46 x 46 pixels.
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


def pixel_encoder(
    kind: str, shape: Sequence[int], features: int | None, layer_norm: bool = False, activation: str = "relu"
) -> nn.Sequential:
    """Build a CNN from `[N, C, H, W]` to `[N, features]`: convolutions and a linear layer, each with an activation.

    Args:
        kind: a key of `KINDS`, or `auto` by the size of the picture.
        shape: (C, H, W).
        features: size of the output; None for the flattened output of the convolutions, without the linear layer.
        layer_norm: normalize the outputs of each layer before its activation, those of a convolution over channels
            and pixels (LayerNorm, 1607.06450).
        activation: key of `ACTIVATIONS`.

    Raises:
        ValueError: unknown kind, or the picture is too small for it.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    convolutions, activate = layers_of(kind, height, width), ACTIVATIONS[activation]
    sizes = zip(_sizes(convolutions, height)[1:], _sizes(convolutions, width)[1:], strict=True)
    for layer, (height, width) in zip(convolutions, sizes, strict=True):
        norm = [nn.LayerNorm((layer.channels, height, width))] if layer_norm else []
        layers += [nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride), *norm, activate()]
        channels = layer.channels
    if features is None:
        return nn.Sequential(*layers, nn.Flatten())
    norm = [nn.LayerNorm(features)] if layer_norm else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat_size(kind, shape), features), *norm, activate())


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
        activation: key of `ACTIVATIONS`.

    Raises:
        ValueError: unknown kind, or the picture is too small for it.
    """

    def __init__(self, features: int, shape: Sequence[int], kind: str = "auto", activation: str = "relu") -> None:
        """Build the layers; the last one has no activation."""
        super().__init__()
        channels, height, width = shape
        convolutions = layers_of(kind, height, width)
        heights, widths = _sizes(convolutions, height), _sizes(convolutions, width)
        self.shape = (convolutions[-1].channels, heights[-1], widths[-1])
        outputs = [channels, *(layer.channels for layer in convolutions[:-1])]
        activate = ACTIVATIONS[activation]
        layers: list[nn.Module] = [nn.Linear(features, math.prod(self.shape)), activate(), nn.Unflatten(-1, self.shape)]
        for i, layer in reversed(list(enumerate(convolutions))):
            # A convolution ignores the pixels that its stride doesn't reach.
            rest = (heights[i] - layer.kernel) % layer.stride, (widths[i] - layer.kernel) % layer.stride
            layers += [
                nn.ConvTranspose2d(layer.channels, outputs[i], layer.kernel, layer.stride, output_padding=rest),
                activate(),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """Decode features: `[*, features]` to `[*, C, H, W]`."""
        pictures: Tensor = self.layers(features.reshape(-1, features.shape[-1]))
        return pictures.reshape(*features.shape[:-1], *pictures.shape[1:])


class HalvingEncoder(nn.Module):
    """CNN of DreamerV3: convolutions, each with maximum pooling to half the size, RMSNorm and SiLU.

    Four stages take a picture of 64 x 64 pixels to 4 x 4. Smaller pictures have fewer stages. Odd sizes are rounded up.

    Args:
        shape: (C, H, W).
        depth: channels of the last four stages are 2, 3, 4 and 4 times this number.
        kernel: size of the square kernels, odd.
    """

    def __init__(self, shape: Sequence[int], depth: int, kernel: int = 5) -> None:
        """Build the layers."""
        super().__init__()
        channels, height, width = shape
        self.sizes = halved_sizes(height, width)
        """Height and width of the picture and after each stage."""
        layers: list[nn.Module] = []
        for multiple in MULTIPLES[1 - len(self.sizes) :]:
            layers += [
                nn.Conv2d(channels, depth * multiple, kernel, padding=kernel // 2),
                nn.MaxPool2d(2, ceil_mode=True),
                RMSNorm(depth * multiple, axis=-3),
                nn.SiLU(),
            ]
            channels = depth * multiple
        self.layers = truncated_normal_(nn.Sequential(*layers))
        self.size = channels * math.prod(self.sizes[-1])
        """Length of the output."""

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode pictures of numbers in [0, 1]: `[N, C, H, W]` to `[N, size]`."""
        features: Tensor = self.layers(pictures - 0.5)
        return features.flatten(1)


class DoublingDecoder(nn.Module):
    """Mirror of `HalvingEncoder`: linear maps to the smallest picture, then doubling and convolutions, in [0, 1].

    The deterministic state passes a linear map in blocks, the stochastic state two layers; their sum is normalized.

    Args:
        deter: size of the deterministic state.
        stoch: size of the stochastic state.
        shape: (C, H, W) of the picture.
        depth: as the encoder's.
        units: half the size of the hidden layer of the stochastic state.
        blocks: number of blocks.
        kernel: size of the square kernels, odd.
    """

    def __init__(
        self, deter: int, stoch: int, shape: Sequence[int], depth: int, units: int, blocks: int, kernel: int = 5
    ) -> None:
        """Build the layers."""
        super().__init__()
        channels, height, width = shape
        self.sizes, self.deter, self.blocks = halved_sizes(height, width), deter, blocks
        stages = [depth * multiple for multiple in MULTIPLES[1 - len(self.sizes) :]]
        self.least = (stages[-1], *self.sizes[-1])
        self.from_deter = BlockLinear(deter // blocks, math.prod(self.least) // blocks, blocks)
        hidden = 2 * units
        layers = [nn.Linear(stoch, hidden), RMSNorm(hidden), nn.SiLU(), nn.Linear(hidden, math.prod(self.least))]
        self.from_stoch = truncated_normal_(nn.Sequential(*layers))
        self.start = nn.Sequential(RMSNorm(stages[-1], axis=-3), nn.SiLU())
        pairs = zip(reversed(stages), [*reversed(stages[:-1]), channels], strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, kernel, padding=kernel // 2) for before, after in pairs)
        self.norms = nn.ModuleList(RMSNorm(after, axis=-3) for after in reversed(stages[:-1]))
        truncated_normal_(self.layers)

    def forward(self, state: Tensor) -> Tensor:
        """Decode joined states `[N, deter + stoch]` to `[N, C, H, W]`."""
        deter, stoch = state[:, : self.deter], state[:, self.deter :]
        parts = self.from_deter(deter.view(len(deter), self.blocks, -1).transpose(0, 1)).transpose(0, 1)
        # each block gives some channels of the smallest picture
        pictures = self.start(parts.reshape(-1, *self.least) + self.from_stoch(stoch).view(-1, *self.least))
        for number, layer in enumerate(self.layers):
            height, width = self.sizes[-2 - number]
            pictures = pictures.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
            pictures = layer(pictures)
            if number < len(self.norms):
                pictures = functional.silu(self.norms[number](pictures))
        decoded: Tensor = pictures.sigmoid()
        return decoded


MULTIPLES = (2, 3, 4, 4)  # channels of the stages of a HalvingEncoder, as multiples of its depth
SMALLEST_PICTURE = 4  # pictures with a side of at most this size aren't halved any more


def halved_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return height and width of a picture before the first stage of a `HalvingEncoder` and after each stage."""
    sizes = [(height, width)]
    while len(sizes) <= len(MULTIPLES) and (len(sizes) == 1 or min(sizes[-1]) > SMALLEST_PICTURE):
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return sizes


def _sizes(layers: Sequence[Conv], size: int) -> list[int]:
    """Return the height or width of a picture before the first layer and after each layer."""
    sizes = [size]
    for layer in layers:
        sizes.append((sizes[-1] - layer.kernel) // layer.stride + 1)
    return sizes


MOST_CACHED, PART = 512, 128
"""A CPU encodes more pictures than the first number in parts of the second one: their activations stay in its cache."""


class PictureEncoder(nn.Module):
    """CNN for the pictures of an observation space.

    The channels are the last axis, `[H, W, C]`, or the first one, `[C, H, W]`, if it is shorter than both others.
    Further axes in front, such as stacked frames, become channels. A picture of two axes has one channel. Bytes are
    scaled to [0, 1].

    Args:
        space: Box of the pictures.
        features: size of the output; None for the flattened output of the convolutions.
        kind: kind of CNN, or a function that builds one from (C, H, W); the module's `size` is then the size of the
            output.
        layer_norm: normalize the outputs of each layer; see `pixel_encoder`.
    """

    def __init__(
        self, space: gymnasium.Space[Any], features: int | None, kind: str | BuildCNN = "auto", layer_norm: bool = False
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
        self.network: nn.Module
        self.size: int
        """Size of the output."""
        if callable(kind):
            self.network = kind(self.shape)
            self.size = int(self.network.size)  # type: ignore[arg-type]
            return
        self.network = pixel_encoder(kind, self.shape, features, layer_norm)
        self.size = flat_size(kind, self.shape) if features is None else features

    def forward(self, pictures: Tensor, batch_dims: int = 1, shift: Tensor | None = None) -> Tensor:
        """Encode pictures: `[*batch, *shape]` to `[*batch, features]`, shifted by `shift` as by `shifted`."""
        batch = pictures.shape[:batch_dims]
        pictures = pictures if batch_dims == 1 else pictures.reshape(-1, *pictures.shape[batch_dims:])
        if shift is None and self._is_evaluated_on_cpu(pictures) and len(pictures) > MOST_CACHED:
            features = in_parts(self._encode, pictures, PART)
        else:
            features = self._encode(pictures, shift)
        return features if batch_dims == 1 else features.reshape(*batch, -1)

    @staticmethod
    def _is_evaluated_on_cpu(pictures: Tensor) -> bool:
        """Return True if a CPU computes no gradient of the features; a graph stays smaller without parts.

        While a graph is exported, the number of pictures is unknown.
        """
        is_eager = type(pictures) is Tensor and not torch.compiler.is_compiling()
        return is_eager and not torch.is_grad_enabled() and pictures.device.type == "cpu"

    def _encode(self, pictures: Tensor, shift: Tensor | None = None) -> Tensor:
        """Encode pictures `[N, *shape]` at once."""
        inputs = self.channels_first(pictures)
        features: Tensor = self.network(inputs if shift is None else shifted(inputs, shift))
        return features

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
