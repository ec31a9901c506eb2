"""The stateless generator: bits, distribution, independence and dropout."""

import torch
from torch import tensor
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.models import noise

MASK = 2**32 - 1


def reference(seed, place, element):
    """Return the number of one element, computed with Python's integers."""

    def mix(x, added=0):
        """Hash an unsigned 32-bit integer."""
        x = ((x ^ x >> 16) * 0x7FEB352D + added) & MASK
        x = (x ^ x >> 15) * 0x846CA68B & MASK
        return x ^ x >> 16

    low, high = seed & MASK, seed >> 32 & MASK
    first = mix((low + 0x9E3779B9 * (2 * place + 1)) & MASK)
    second = mix(high ^ first)
    return (mix((element * 0x9E3779B9 & MASK) ^ first, second) >> 8) / 2**24


def seeds(count, seed=0):
    """Return seeds of samples."""
    return noise.seeds(torch.Size([count]), torch.Generator().manual_seed(seed))


def test_uniform_equals_the_hash_in_exact_integers():
    """Every bit equals the hash computed with Python's integers, negative seeds included."""
    seed = torch.cat([seeds(3), tensor([-1, 0, 2**63 - 1, -(2**63)])])
    found = noise.uniform(seed, 5, (2, 3))
    assert found.shape == (7, 2, 3) and found.dtype == torch.float32
    for row, number in zip(found.flatten(1).tolist(), seed.tolist(), strict=True):
        assert row == [reference(number, 5, element) for element in range(6)]


def test_uniform_is_uniform_and_independent():
    """Numbers are uniform (χ²) and not correlated over samples, elements and places."""
    seed = seeds(400)
    found = torch.stack([noise.uniform(seed, place, (100,)) for place in range(3)])
    counts = torch.histc(found, 16, 0.0, 1.0)
    expected = found.numel() / 16
    assert ((counts - expected) ** 2 / expected).sum() < 38  # 15 degrees of freedom
    assert found.min() >= 0 and found.max() < 1
    centered = (found - 0.5) * 12**0.5
    shifted = [
        (centered[:, 1:], centered[:, :-1]),
        (centered[:, :, 1:], centered[:, :, :-1]),
        (centered[1:], centered[:-1]),
    ]
    assert all(abs(float((one * other).mean())) < 4 / one.numel() ** 0.5 for one, other in shifted)


def test_consecutive_seeds_draw_different_numbers():
    """Seeds that differ in one bit of either half draw unrelated numbers."""
    found = noise.uniform(tensor([7, 6, 7 + 2**32]), 0, (4000,)) - 0.5
    for other in found[1:]:
        assert abs(float((found[0] * other).mean()) * 12) < 4 / 4000**0.5


def test_a_sample_draws_the_same_numbers_on_any_rank():
    """A part of the seeds draws its part of the numbers."""
    seed = seeds(6)
    whole = noise.uniform(seed, 1, (5,))
    assert all(torch.equal(noise.uniform(seed[rank::2], 1, (5,)), whole[rank::2]) for rank in range(2))


def test_a_traced_graph_draws_the_same_bits():
    """A traced graph draws the eager bits for seeds that it wasn't traced with."""
    graph = make_fx(lambda seed: noise.uniform(seed, 2, (9,)), tracing_mode="fake")(seeds(4))
    assert torch.equal(graph(seeds(4, seed=1)), noise.uniform(seeds(4, seed=1), 2, (9,)))


def test_dropout():
    """Dropout sets a fraction p to 0, scales the others and keeps the mean; p = 0 changes nothing."""
    x, seed = torch.full((500, 8, 5), 3.0), seeds(500)
    dropped = noise.dropout(x, 0.25, seed, 0)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert abs(float((dropped == 0).float().mean()) - 0.25) < 0.01
    assert torch.equal(dropped, noise.dropout(x, 0.25, seed, 0))
    assert not torch.equal(dropped, noise.dropout(x, 0.25, seed, 1))
    assert torch.equal(noise.dropout(x, 0.0, seed, 0), x)


def test_gradients_flow_through_the_remaining_elements_only():
    """The gradient of a dropped element is 0, that of another one 1 / (1 − p)."""
    x = torch.ones(20, 10, requires_grad=True)
    dropped = noise.dropout(x, 0.5, seeds(20), 0)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_normal_is_standard_normal():
    """Moments and tails are those of the standard normal distribution, and samples draw alone."""
    seed = seeds(300)
    found = noise.normal(seed, 4, (100,))
    assert abs(float(found.mean())) < 0.025 and abs(float(found.std()) - 1) < 0.02
    assert abs(float((found.abs() > 1.96).float().mean()) - 0.05) < 0.006
    torch.testing.assert_close(noise.normal(seed[7:9], 4, (100,)), found[7:9])
