"""Running moments."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from sheeprl.models.normalizer import PercentileRange, RunningMoments


def with_rows(moments, x, mask=None):
    """Return the moments after more rows, by the buffers that `updated` returns."""
    moments.load_state_dict(moments.updated(x, mask))
    return moments


def averaged(parts):
    """Return the mean of each buffer over the ranks."""
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}


def test_hand_computed_moments():
    """The rows 1, 2, 6 have the mean 3 and the variance 14/3."""
    moments = with_rows(RunningMoments(), tensor([1.0, 2.0, 6.0]))
    assert moments.mean.item() == pytest.approx(3) and moments.variance.item() == pytest.approx(14 / 3)
    assert moments.scale().item() == pytest.approx((14 / 3) ** 0.5)
    assert moments.normalize(tensor([3.0, 1e9])).tolist() == [0.0, 10.0]
    assert moments.normalize(tensor([-1e9]), clip=5.0).tolist() == [-5.0]
    assert moments.normalize(tensor([30.0]), clip=None).item() == pytest.approx(27 / (14 / 3) ** 0.5)


def test_without_rows_only_the_limit_applies():
    """The mean is 0 and the variance 1."""
    moments = RunningMoments((2,))
    assert moments.mean.tolist() == [0, 0] and moments.variance.tolist() == [1, 1]
    assert moments.normalize(tensor([[0.5, -20.0]])).tolist() == [[0.5, -10.0]]


def test_dtypes():
    """Statistics are float64; results have the dtype of the input, float32 for integers."""
    moments = with_rows(RunningMoments((2,)), tensor([[1, 2], [3, 5]]))
    assert all(buffer.dtype == torch.float64 for buffer in moments.buffers())
    assert moments.normalize(tensor([[1, 2]])).dtype == torch.float32
    assert moments.normalize(torch.zeros(1, 2, dtype=torch.float16)).dtype == torch.float16


def test_updates_are_not_in_place():
    """`updated` returns new tensors and takes part in no gradient."""
    moments, x = RunningMoments(), torch.ones(3, requires_grad=True)
    new = moments.updated(x)
    assert moments.count == 0 and new["count"] == 3 and not any(value.requires_grad for value in new.values())
    assert new.keys() == dict(moments.named_buffers()).keys()


def test_masked_rows_do_not_count():
    """Invalid rows may even hold NaN."""
    x = tensor([[[1.0, 2.0], [torch.nan, torch.inf]], [[3.0, 8.0], [5.0, 2.0]]])
    mask = tensor([[True, False], [True, True]])
    moments = with_rows(RunningMoments((2,)), x, mask)
    assert moments.count == 3 and moments.mean.tolist() == [3, 4]
    assert torch.allclose(moments.variance, x[mask].double().var(0, unbiased=False))


def test_a_constant_has_a_small_scale():
    """Rounding never makes the variance negative."""
    moments = with_rows(RunningMoments(), torch.full((1000,), 1234.567))
    assert moments.variance >= 0 and moments.normalize(tensor([1234.567])).abs() < 1e-3


ROWS = hnp.arrays("float64", st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-1e3, 1e3))


@given(ROWS, st.lists(st.integers(0, 30), max_size=4), st.integers(0, 2**30))
def test_any_split_gives_the_moments_of_all_rows(rows, cuts, seed):
    """Any number of updates, with any masks, equals one update with all valid rows."""
    x, mask = torch.from_numpy(rows), torch.rand(len(rows), generator=torch.Generator().manual_seed(seed)) < 0.8
    moments = RunningMoments((2,))
    cuts = sorted({min(cut, len(rows)) for cut in cuts})
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        with_rows(moments, x[start:end], mask[start:end])
    assert moments.count == mask.sum()
    if mask.any():
        assert torch.allclose(moments.mean, x[mask].mean(0), atol=1e-9)
        assert torch.allclose(moments.variance, x[mask].var(0, unbiased=False), rtol=1e-6, atol=1e-6)


@given(st.lists(ROWS, min_size=4, max_size=4))
def test_the_average_over_ranks_gives_the_moments_of_all_ranks(parts):
    """It is exact for ranks with different numbers of rows, and over several updates."""
    ranks = RunningMoments((2,))
    for pair in (parts[:2], parts[2:]):
        ranks.load_state_dict(averaged([ranks.updated(torch.from_numpy(part)) for part in pair]))
    whole = torch.cat([torch.from_numpy(part) for part in parts])
    assert ranks.count * 2 == len(whole)
    assert torch.allclose(ranks.mean, whole.mean(0), atol=1e-9)
    assert torch.allclose(ranks.variance, whole.var(0, unbiased=False), rtol=1e-6, atol=1e-6)


def test_many_rows_far_from_0():
    """Float64 sums resolve a standard deviation of 1 at a mean of 10,000."""
    generator, moments = torch.Generator().manual_seed(0), RunningMoments()
    for _ in range(100):
        with_rows(moments, 1e4 + torch.randn(1000, generator=generator, dtype=torch.float64))
    assert moments.variance.item() == pytest.approx(1, abs=0.02)


def test_percentile_range_by_hand():
    """The averages start at 0 and move towards the percentiles; small ranges count as 1."""
    normalizer = PercentileRange(0.25, 0.75, rate=0.5, least=1.0)
    assert normalizer.scale() == 1.0
    rows = torch.tensor([[0.0, 10.0], [20.0, 30.0], [40.0, -0.0]])
    updated = normalizer.updated(rows)
    low, high = np.percentile(rows.numpy(), [25, 75])
    assert updated["low"].item() == pytest.approx(low / 2) and updated["high"].item() == pytest.approx(high / 2)
    assert normalizer.scale(updated).item() == pytest.approx((high - low) / 2)
    normalizer.load_state_dict(updated)
    assert normalizer.scale().item() == pytest.approx((high - low) / 2)
    assert normalizer.updated(rows)["high"].item() == pytest.approx(0.75 * high)
