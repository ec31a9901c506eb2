"""Graphs cut at their sums over ranks."""

import pytest
import torch
import torch.distributed as dist
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.learning.compile import allreduce
from sheeprl.learning.compile.allreduce import SUM, open_graph, sum_over_ranks


@pytest.fixture(scope="module", autouse=True)
def process_group():
    """Make this process the only rank of a process group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def compile_all_parts(monkeypatch):
    """Compile even the shortest parts."""
    monkeypatch.setattr(allreduce, "MIN_OPERATIONS", 1)


def library_of(graph, examples):
    """Return a stand-in for a compiled part; like one, it assumes that its inputs share no memory."""
    parts.append(graph)

    def library(tensors):
        """Run the graph on copies and write changes back, so aliases in the inputs are lost."""
        own = [values.clone() for values in tensors]
        found = graph(*own)
        for values, changed in zip(tensors, own, strict=True):
            if not torch.equal(values, changed):
                values.copy_(changed)
        return [values.clone() for values in ([found] if isinstance(found, torch.Tensor) else found)]

    return library


parts = []


def check(function, *inputs, sums):
    """Check that a graph in parts returns the function's results and changes its inputs in the same way."""
    parts.clear()
    graph = make_fx(function, tracing_mode="fake")(*inputs)
    expected, found = [values.clone() for values in inputs], [values.clone() for values in inputs]
    results = function(*expected)
    for one, other in zip(open_graph(graph, library_of)(found), results, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(node.target is SUM for part in parts for node in part.graph.nodes)
    assert sum(node.target is SUM for node in graph.graph.nodes) == sums


def test_a_graph_without_sums_is_one_library():
    """A graph without sums becomes one library."""
    check(lambda x: [x * 2 + 1], torch.arange(3.0), sums=0)
    assert len(parts) == 1


def test_values_from_before_a_sum_are_used_after_it():
    """Values computed before a sum can be used after it."""

    def function(x, y):
        """Return two sums, with the operands of the second computed from the first."""
        product = x * y
        total = sum_over_ranks(product)
        return [total + product, sum_over_ranks(total * 2)]

    check(function, torch.arange(3.0), torch.ones(3), sums=2)
    assert len(parts) == 2  # before the first sum, and between both; after the second nothing is left to do


def test_a_view_from_before_a_sum_shows_changes_after_it():
    """A view created before a sum shows an in-place change parts after it."""

    def function(x, y):
        """Change a tensor after a sum and read its views."""
        first, rest = torch.split(x, [2, 3])
        total = sum_over_ranks(y + 1)
        x.copy_(x * 10 + total)
        return [first.view(2, 1) + 1, rest * 2, total]

    check(function, torch.arange(5.0), torch.ones(5), sums=1)


def test_one_of_several_results_can_be_used_after_a_sum():
    """One result of an operation with several results can be used after a sum."""

    def function(x, y):
        """Return a sum plus the first result of `max`."""
        highest, _ = x.max(dim=1)
        return [sum_over_ranks(y + 1) + highest]

    check(function, torch.arange(6.0).reshape(3, 2), torch.ones(3), sums=1)


def test_a_tensor_can_be_changed_before_and_after_a_sum():
    """A tensor can be changed in place both before and after a sum."""

    def function(x, y):
        """Change the first input before and after a sum."""
        x.add_(y)
        total = sum_over_ranks(x * 2)
        x.mul_(total)
        x[:2].copy_(y[:2])
        return [x + total]

    check(function, torch.arange(5.0), torch.ones(5), sums=1)


def test_short_parts_run_eagerly(monkeypatch):
    """Parts with fewer operations than the minimum aren't compiled."""
    monkeypatch.setattr(allreduce, "MIN_OPERATIONS", 3)

    def function(x):
        """Compute three operations, a sum and one operation."""
        return [sum_over_ranks(x * x + x * 2) + 1]

    check(function, torch.arange(3.0), sums=1)
    assert len(parts) == 1


def test_example_inputs_have_the_strides_of_the_real_ones():
    """Example inputs have the strides of the traced inputs."""

    def function(x):
        """Return a product."""
        return [x * 2]

    strides = []
    graph = make_fx(function, tracing_mode="fake")(torch.arange(8.0)[::2])
    open_graph(graph, lambda part, examples: strides.append(examples[0].stride()) or library_of(part, examples))
    assert strides == [(2,)]
