"""Update rules against torch's optimizers."""

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RAdam, RMSprop

from sheeprl.learning.optimizers import NoRuleError, check_elementwise, rule_of
from sheeprl.models.optimizers import LaProp, RMSpropTF

KNOWN = {
    "adam": partial(Adam, lr=1e-2, betas=(0.8, 0.95), eps=1e-5),
    "adam with decay": partial(Adam, lr=1e-2, weight_decay=0.1),
    "adamw": partial(AdamW, lr=1e-2, weight_decay=0.1),
    "radam": partial(RAdam, lr=1e-2, betas=(0.8, 0.95), eps=1e-5),
    "radam with decay": partial(RAdam, lr=1e-2, weight_decay=0.1),
    "rmsprop": partial(RMSprop, lr=1e-2, alpha=0.9, eps=1e-5, weight_decay=0.1),
    "rmsprop with momentum": partial(RMSprop, lr=1e-2, momentum=0.7),
    "centered rmsprop": partial(RMSprop, lr=1e-2, alpha=0.9, eps=1e-2, centered=True, momentum=0.5),
    "laprop": partial(LaProp, lr=1e-2, betas=(0.8, 0.9)),
    "rmsprop of tensorflow": partial(RMSpropTF, lr=1e-2, alpha=0.9, eps=1e-3, weight_decay=0.1),
    "sgd": partial(SGD, lr=1e-2, weight_decay=0.1),
    "sgd with momentum": partial(SGD, lr=1e-2, momentum=0.9, dampening=0.2),
    "sgd with nesterov's momentum": partial(SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rule_equals_torch(name):
    """Each update rule gives the vectors and the state of torch's optimizer."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.nn.Parameter(torch.randn(50, generator=generator))
    optimizer = KNOWN[name]([vector])
    rule, stepped, state = rule_of(optimizer), vector.detach().clone(), None
    for number in range(6):
        rate = 1e-2 / (number + 1)
        vector.grad = torch.randn(50, generator=generator) * 10.0**-number
        optimizer.param_groups[0]["lr"] = rate
        if state is not None:
            settings = optimizer.param_groups[0]
            factors = torch.tensor(rule.factors(rate, number + 1, settings))
            stepped, state = rule.step(stepped, vector.grad, state, settings, factors)
        optimizer.step()
        if state is None:  # torch creates its state in the first step
            stepped, state = (
                vector.detach().clone(),
                {key: optimizer.state[vector][key].clone() for key in rule.names(optimizer.param_groups[0])},
            )
        torch.testing.assert_close(stepped, vector.detach(), rtol=1e-6, atol=1e-7)
        for key, value in state.items():
            torch.testing.assert_close(value, optimizer.state[vector][key], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", KNOWN)
def test_scaled_factors_are_those_of_a_scaled_learning_rate(name):
    """Scaled factors equal the factors of the scaled learning rate."""
    optimizer = KNOWN[name]([torch.nn.Parameter(torch.zeros(1))])
    rule, settings = rule_of(optimizer), optimizer.param_groups[0]
    factors = rule.scaled(torch.tensor(rule.factors(0.1, 3, settings)).unbind(), torch.tensor(0.25))
    torch.testing.assert_close(torch.stack(factors), torch.tensor(rule.factors(0.025, 3, settings)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(Adagrad, lr=0.1), "Adagrad is none of Adam"),
        (partial(SGD, lr=0.1, maximize=True), "SGD with maximize=True"),
        (partial(Adam, lr=0.1, amsgrad=True), "Adam with amsgrad=True"),
    ],
)
def test_unsupported_optimizer_is_rejected(build, message):
    """An unknown optimizer or an unsupported option raises an error that names it."""
    with pytest.raises(NoRuleError, match=message):
        rule_of(build([torch.nn.Parameter(torch.zeros(1))]))


def test_state_is_complete_with_the_optional_tensors():
    """A rule needs the momentum's tensor only if there is momentum."""
    vector = torch.nn.Parameter(torch.ones(3))
    for momentum in (0.0, 0.9):
        optimizer = SGD([vector], lr=0.1, momentum=momentum)
        rule, settings = rule_of(optimizer), optimizer.param_groups[0]
        assert rule.has_state(optimizer.state[vector], settings) == (momentum == 0)
        vector.grad = torch.ones(3)
        optimizer.step()
        assert rule.has_state(optimizer.state[vector], settings)


def test_an_optimizer_that_treats_tensors_as_a_whole_is_refused():
    """LBFGS, and a class of a well-known name or derived from one, are refused by name; Adam isn't."""

    class Muon(SGD):
        """Optimizer of that name."""

    class Quicker(Muon):
        """Optimizer derived from it."""

    parameters = [torch.nn.Parameter(torch.zeros(2))]
    for optimizer in (torch.optim.LBFGS(parameters), Muon(parameters, 0.1), Quicker(parameters, 0.1)):
        with pytest.raises(ValueError, match=f"builds {type(optimizer).__name__} for 'agent'.*use an elementwise"):
            check_elementwise("agent", optimizer)
    check_elementwise("agent", Adam(parameters))
