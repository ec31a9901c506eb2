"""Encoders and decoders of pictures."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional

from sheeprl.models.cnn import (
    DoublingDecoder,
    HalvingEncoder,
    PictureEncoder,
    PixelDecoder,
    flat_size,
    halved_sizes,
    pixel_encoder,
    shifted,
)


def test_nature_cnn_has_the_published_layers():
    """The parameters are those of Mnih et al. 2015 for four frames of 84 x 84 pixels."""
    network = pixel_encoder("nature", (4, 84, 84), 512)
    shapes = [tuple(layer.weight.shape) for layer in network if hasattr(layer, "weight")]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136)]


@pytest.mark.parametrize(("size", "first"), [(36, 32), (35, 16), (10, 16), (5, 16), (2, 16), (1, 16)])
def test_the_kind_is_chosen_by_the_size(size, first):
    """Pictures of any size have a CNN."""
    network = pixel_encoder("auto", (3, size, size + 4), 8)
    assert network[0].out_channels == first
    assert network(torch.rand(2, 3, size, size + 4)).shape == (2, 8)


def test_deep_cnn_has_the_published_layers():
    """The parameters are those of Yarats et al. 2019 for three frames; without features, there is no linear layer."""
    network = pixel_encoder("deep", (9, 84, 84), None)
    shapes = [tuple(layer.weight.shape) for layer in network if hasattr(layer, "weight")]
    assert shapes == [(32, 9, 3, 3), *[(32, 32, 3, 3)] * 3]
    assert flat_size("deep", (9, 84, 84)) == 32 * 35 * 35
    assert pixel_encoder("deep", (1, 15, 17), None)(torch.rand(2, 1, 15, 17)).shape == (
        2,
        flat_size("deep", (1, 15, 17)),
    )


def test_shifts_repeat_the_border():
    """A shifted picture is a crop of the padded one, as in DrQ."""
    pictures, shift = torch.rand(4, 3, 6, 5), torch.tensor([[0, 0], [2, -1], [-3, 4], [-4, 0]])
    padded = functional.pad(pictures, (4, 4, 4, 4), mode="replicate")
    crops = [padded[n, :, 4 + y : 10 + y, 4 + x : 9 + x] for n, (y, x) in enumerate(shift.tolist())]
    assert torch.equal(shifted(pictures, shift), torch.stack(crops))


def test_mistaken_kinds():
    """The errors name the kind and what would work."""
    with pytest.raises(
        ValueError, match="cnn=large: unknown kind; use auto, nature, small, deep, strided32 or strided48"
    ):
        pixel_encoder("large", (3, 84, 84), 8)
    with pytest.raises(ValueError, match="cnn=nature: needs at least 36 x 36 pixels, not 84 x 10"):
        PixelDecoder(8, (3, 84, 10), "nature")


@pytest.mark.parametrize("shape", [(3, 84, 84), (1, 64, 96), (4, 36, 37), (3, 7, 7), (6, 10, 10), (1, 1, 2)], ids=str)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_a_decoder_returns_the_shape_of_the_picture(shape, batch):
    """Any height and width are restored, over any batch axes."""
    assert PixelDecoder(8, shape)(torch.rand(*batch, 8)).shape == (*batch, *shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 9), (1, 7, 9)),
        ((7, 9, 3), (3, 7, 9)),
        ((3, 7, 9), (3, 7, 9)),
        ((10, 10, 10), (10, 10, 10)),
        ((4, 7, 9, 3), (12, 7, 9)),
        ((4, 3, 7, 9), (12, 7, 9)),
    ],
    ids=str,
)
def test_channels_come_first(shape, expected):
    """Every layout of the space becomes [C, H, W], and each pixel is in its place."""
    encoder = PictureEncoder(spaces.Box(0, 255, shape, np.uint8), 8)
    assert encoder.shape == expected
    pictures = torch.randint(0, 256, (2, 5, *shape), dtype=torch.uint8)
    if shape[-1] == 9:
        channels = pictures.reshape(10, *expected)
    else:
        channels = torch.einsum("nkhwc->nkchw", pictures.reshape(10, -1, *shape[-3:])).reshape(10, *expected)
    assert torch.allclose(encoder.channels_first(pictures, 2), channels / 255)
    features = encoder(pictures, 2)
    assert features.shape == (2, 5, 8)
    assert torch.allclose(features[1, 3], encoder(pictures[1, 3:4])[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int16])
def test_only_bytes_are_scaled(dtype):
    """Pictures of other dtypes are only converted to float."""
    encoder = PictureEncoder(spaces.Box(0, 1, (5, 5, 2), dtype), 8)
    pictures = torch.ones(1, 5, 5, 2).to(getattr(torch, np.dtype(dtype).name))
    assert torch.equal(encoder.channels_first(pictures), torch.ones(1, 2, 5, 5))


def test_many_pictures_are_encoded_in_parts():
    """Many pictures have the same features with gradients and without, where they are encoded in parts."""
    encoder = PictureEncoder(spaces.Box(0, 255, (5, 5, 2), np.uint8), 8)
    pictures = torch.randint(0, 256, (65, 8, 5, 5, 2), dtype=torch.uint8)  # 520
    expected, sizes = encoder(pictures, batch_dims=2), []
    encoder.network.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    with torch.no_grad():
        torch.testing.assert_close(encoder(pictures, batch_dims=2), expected)
    assert sizes == [128, 128, 128, 128, 8]


def test_an_encoder_and_a_decoder_learn_a_picture():
    """Gradients reach every parameter."""
    encoder, decoder = PictureEncoder(spaces.Box(0, 255, (5, 5, 1), np.uint8), 8), PixelDecoder(8, (1, 5, 5))
    both = nn.ModuleList([encoder, decoder])
    pictures = torch.randint(0, 256, (16, 5, 5, 1), dtype=torch.uint8)
    (decoder(encoder(pictures)) - encoder.channels_first(pictures)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in both.parameters())


def test_layer_norm_is_over_channels_and_pixels():
    """Each layer is normalized before its activation, and only with the option."""
    network = pixel_encoder("nature", (4, 84, 84), 16, layer_norm=True)
    assert [layer.normalized_shape for layer in network if isinstance(layer, nn.LayerNorm)] == [
        (32, 20, 20), (64, 9, 9), (64, 7, 7), (16,),
    ]  # fmt: skip
    assert network(torch.rand(2, 4, 84, 84)).shape == (2, 16)
    assert not any(isinstance(layer, nn.LayerNorm) for layer in pixel_encoder("nature", (4, 84, 84), 16))


@pytest.mark.parametrize(
    ("shape", "least"),
    [((3, 64, 64), (4, 4)), ((1, 10, 7), (5, 4)), ((1, 10, 10), (3, 3)), ((3, 84, 84), (6, 6)), ((2, 3, 3), (2, 2))],
)
def test_halving_and_doubling(shape, least):
    """Pictures of any size are halved at most four times, and decoded to their size."""
    assert halved_sizes(*shape[1:])[-1] == least
    encoder, decoder = HalvingEncoder(shape, depth=2), DoublingDecoder(16, 6, shape, depth=2, units=4, blocks=4)
    features = encoder(torch.rand(5, *shape))
    assert features.shape == (5, encoder.size) and encoder.size == 8 * least[0] * least[1]
    pictures = decoder(torch.randn(5, 22))
    assert pictures.shape == (5, *shape) and ((pictures > 0) & (pictures < 1)).all()


def test_an_observation_has_the_features_of_the_chosen_cnn():
    """A function builds the CNN for (C, H, W); bytes are scaled to [0, 1] and centred."""
    encoder = PictureEncoder(spaces.Box(0, 255, (8, 8, 3), np.uint8), None, lambda shape: HalvingEncoder(shape, 2))
    picture = torch.randint(256, (4, 8, 8, 3), dtype=torch.uint8)
    expected = encoder.network.layers(picture.movedim(-1, 1) / 255 - 0.5).flatten(1)
    torch.testing.assert_close(encoder(picture), expected)
    assert encoder.size == expected.shape[1]


def test_activation_of_encoder_and_decoder():
    """All layers but the decoder's last one have the given activation, by default ReLU."""
    for settings, kind in (({}, nn.ReLU), ({"activation": "elu"}, nn.ELU)):
        for network, layers in (
            (pixel_encoder("strided48", (3, 64, 64), None, **settings), 4),
            (PixelDecoder(8, (3, 64, 64), "strided48", **settings), 4),
        ):
            activations = [part for part in network.modules() if isinstance(part, nn.ReLU | nn.ELU)]
            assert len(activations) == layers and all(type(part) is kind for part in activations)
