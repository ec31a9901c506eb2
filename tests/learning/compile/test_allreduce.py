"""Graphs that are cut where ranks' tensors are summed."""

import pytest
import torch
import torch.distributed as dist
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.learning.compile import allreduce
from sheeprl.learning.compile.allreduce import SUM, open_graph, sum_over_ranks


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A process group of nobody else."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def worth_compiling(monkeypatch):
    monkeypatch.setattr(allreduce, "MIN_OPERATIONS", 1)


def library_of(graph, examples):
    """As compiled ones are: tensors that share memory are different ones to it."""
    made.append(graph)

    def library(tensors):
        own = [values.clone() for values in tensors]
        found = graph(*own)
        for values, changed in zip(tensors, own, strict=True):
            if not torch.equal(values, changed):
                values.copy_(changed)
        return [values.clone() for values in ([found] if isinstance(found, torch.Tensor) else found)]

    return library


made = []


def check(function, *inputs, sums):
    """Whether a graph in parts does what the function does, to its inputs too."""
    made.clear()
    graph = make_fx(function, tracing_mode="fake")(*inputs)
    expected, found = [values.clone() for values in inputs], [values.clone() for values in inputs]
    results = function(*expected)
    for one, other in zip(open_graph(graph, library_of)(found), results, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(node.target is SUM for part in made for node in part.graph.nodes)
    assert sum(node.target is SUM for node in graph.graph.nodes) == sums


def test_one_without_sums_is_one_library():
    check(lambda x: [x * 2 + 1], torch.arange(3.0), sums=0)
    assert len(made) == 1


def test_what_is_found_before_a_sum_is_used_after_it():
    def function(x, y):
        product = x * y
        total = sum_over_ranks(product)
        return [total + product, sum_over_ranks(total * 2)]

    check(function, torch.arange(3.0), torch.ones(3), sums=2)
    assert len(made) == 2  # before the first sum, and between both; after the second nothing is left to do


def test_a_view_from_before_a_sum_follows_what_is_changed_after_it():
    def function(x, y):
        first, rest = torch.split(x, [2, 3])
        total = sum_over_ranks(y + 1)
        x.copy_(x * 10 + total)
        return [first.view(2, 1) + 1, rest * 2, total]

    check(function, torch.arange(5.0), torch.ones(5), sums=1)


def test_one_of_several_results_is_used_after_a_sum():
    def function(x, y):
        highest, _ = x.max(dim=1)
        return [sum_over_ranks(y + 1) + highest]

    check(function, torch.arange(6.0).reshape(3, 2), torch.ones(3), sums=1)


def test_what_was_changed_before_a_sum_is_changed_again_after_it():
    def function(x, y):
        x.add_(y)
        total = sum_over_ranks(x * 2)
        x.mul_(total)
        x[:2].copy_(y[:2])
        return [x + total]

    check(function, torch.arange(5.0), torch.ones(5), sums=1)


def test_few_operations_are_carried_out_as_they_are(monkeypatch):
    monkeypatch.setattr(allreduce, "MIN_OPERATIONS", 3)

    def function(x):
        return [sum_over_ranks(x * x + x * 2) + 1]

    check(function, torch.arange(3.0), sums=1)
    assert len(made) == 1


def test_examples_lie_in_memory_as_what_they_stand_for():
    def function(x):
        return [x * 2]

    strides = []
    graph = make_fx(function, tracing_mode="fake")(torch.arange(8.0)[::2])
    open_graph(graph, lambda part, examples: strides.append(examples[0].stride()) or library_of(part, examples))
    assert strides == [(2,)]
