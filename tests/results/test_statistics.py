"""Test the statistics against SciPy and on simulated returns."""

import math

import numpy as np
import pytest

from sheeprl.results.statistics import (
    aggregate_iqm,
    aggregate_mean,
    bootstrap,
    curve,
    iqm,
    performance_profile,
    probability_of_improvement,
    smoothed,
    student_quantile,
    time_to_threshold,
)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 10, 41])
def test_iqm_is_the_trimmed_mean_of_scipy(count):
    """The middle half is the same for every number of runs."""
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(size=(3, count))
    assert np.allclose(iqm(values), stats.trim_mean(values, 0.25, axis=1))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 200])
def test_student_quantile(freedom):
    """The quantile is that of SciPy."""
    stats = pytest.importorskip("scipy.stats")
    assert student_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def test_bootstrap_has_the_standard_error_of_scipy():
    """Many resamples give the interval that SciPy's standard error gives."""
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(0).lognormal(size=12)
    ours = bootstrap([scores], lambda drawn: iqm(drawn[0]), repetitions=20_000)
    theirs = stats.bootstrap((scores,), lambda x, axis: iqm(x, axis), n_resamples=20_000, vectorized=True, rng=0)
    margin = stats.t.ppf(0.975, 11) * theirs.standard_error * math.sqrt(12 / 11)
    assert ours.high - ours.value == pytest.approx(margin, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5, 10, 20])
@pytest.mark.parametrize("estimate", [aggregate_iqm, aggregate_mean])
def test_intervals_cover_95_percent_of_simulated_returns(runs, estimate):
    """The true value of 1,500 simulated experiments lies in 95 ± 2 % of the intervals."""
    generator = np.random.default_rng(runs)
    found = [estimate([generator.normal(400, 50, runs)], repetitions=400, seed=seed) for seed in range(1500)]
    covered = np.mean([each.low <= 400 <= each.high for each in found])
    assert 0.93 <= covered <= 0.97 + 0.01 * (runs == 5 and estimate is aggregate_iqm)


@pytest.mark.parametrize("scores", [[3.0], [2.0, 4.0]])
def test_one_or_two_runs_have_no_interval(scores):
    """The bounds are NaN rather than zero-width or meaningless."""
    found = aggregate_iqm([np.array(scores)])
    assert found.value == 3.0 and not found.has_interval
    assert aggregate_iqm([np.array([2.0, 3.0, 4.0])]).has_interval
    assert not aggregate_iqm([np.array(scores), np.array([2.0, 3.0, 4.0])]).has_interval


@pytest.mark.parametrize(
    ("one", "other"), [([1.0], [2.0]), ([1.0, 3.0], [2.0]), ([1.0, 3.0, 4.0], [2.0, 0.0]), ([1, 2, 3], [4, 5, 6])]
)
def test_a_probability_of_few_or_separate_runs_has_no_interval(one, other):
    """Few runs, and resamples that all agree, say nothing about the uncertainty."""
    found = probability_of_improvement([np.array(one)], [np.array(other)])
    assert not found.has_interval and math.isnan(found.high)


def test_probability_of_improvement_counts_ties_half():
    """The value is that of all pairs, averaged over tasks."""
    one, other = [np.array([1.0, 1.0, 2.0]), np.array([5.0] * 3)], [np.array([1.0, 1.0, 0.0]), np.array([7.0] * 3)]
    found = probability_of_improvement(one, other)
    assert found.value == pytest.approx((7 / 9 + 0) / 2)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_performance_profile_falls_from_one_to_zero():
    """The profile is the fraction of runs above each threshold."""
    scores = [np.array([1.0, 2.0, 3.0, 4.0])]
    value, low, high = performance_profile(scores, np.array([0.0, 2.5, 9.0]), repetitions=50)
    assert value.tolist() == [1.0, 0.5, 0.0]
    assert (low <= value).all() and (value <= high).all()


def test_time_to_threshold_interpolates():
    """The time lies between two points; it is infinite if the curve stays below."""
    x, y = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 3.0])
    assert time_to_threshold(x, y, 2.0) == 15.0
    assert time_to_threshold(x, y, 0.0) == 0.0
    assert math.isinf(time_to_threshold(x, y, 4.0))


def test_curve_ends_where_the_first_run_ends():
    """The grid is the part that all runs cover."""
    runs = [(np.array([start, end]), np.array([start, end])) for start, end in ((0.0, 10.0), (2.0, 20.0), (1.0, 30.0))]
    grid, value, low, high = curve(runs, points=5, repetitions=10)
    assert grid.tolist() == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert np.allclose(value, grid)
    assert np.allclose(low, high)


def test_smoothed_averages_what_there_is():
    """The first values average fewer."""
    assert smoothed(np.array([2.0, 4.0, 6.0]), 2).tolist() == [2.0, 3.0, 5.0]
