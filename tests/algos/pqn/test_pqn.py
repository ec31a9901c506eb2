"""PQN's returns, loss and phases."""

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import nn, tensor

from sheeprl.algos.base import Spaces, Step
from sheeprl.algos.pqn.args import PQNArgs
from sheeprl.algos.pqn.loss import q_lambda_returns, q_loss
from sheeprl.algos.pqn.pqn import PQN


def build_pqn(**args):
    """Build PQN for observations of 3 numbers and 2 actions."""
    observation = spaces.Dict({"position": spaces.Box(-1.0, 1.0, (3,)), "action_mask": spaces.MultiBinary(2)})
    return PQN(PQNArgs(name="pqn", hidden_sizes=(8,), **args), Spaces(observation, spaces.Discrete(2)))


def column(values, dtype=torch.float32):
    """Return rows of one environment."""
    return tensor(values, dtype=dtype)[:, None]


def test_returns_within_an_episode():
    """By hand, with γ = ½ and λ = ½: R_t = r + ½ (½ R_{t+1} + ½ v_{t+1}), and R = v at the end of the rollout."""
    no = torch.zeros(4, 1, dtype=torch.bool)
    found = q_lambda_returns(column([9, 1, 2, 3]), column([9, 4, 8, 16]), no, no, 0.5, 0.5)
    last = 3 + 0.5 * 16
    second = 2 + 0.5 * (0.5 * last + 0.5 * 8)
    assert found.flatten().tolist() == pytest.approx([1 + 0.5 * (0.5 * second + 0.5 * 4), second, last])


@pytest.mark.parametrize(("truncated", "expected"), [(True, 2 + 0.5 * 8), (False, 2.0)])
def test_returns_at_the_end_of_an_episode(truncated, expected):
    """A truncation bootstraps from its final observation and cuts the trace; a termination doesn't bootstrap."""
    end, no = column([0, 0, 1, 0], torch.bool), torch.zeros(4, 1, dtype=torch.bool)
    flags = (no, end) if truncated else (end, no)
    found = q_lambda_returns(column([9, 1, 2, 0]), column([9, 4, 8, 16]), *flags, 0.5, 0.5).flatten()
    assert found[1].item() == expected
    assert found[0].item() == 1 + 0.5 * (0.5 * expected + 0.5 * 4)


def test_lambda_at_its_bounds():
    """λ = 0 gives one-step targets, λ = 1 the discounted rewards of the rollout."""
    no = torch.zeros(3, 1, dtype=torch.bool)
    reward, best = column([0, 1, 2]), column([9, 4, 8])
    assert q_lambda_returns(reward, best, no, no, 0.5, 0.0).flatten().tolist() == [3.0, 6.0]
    assert q_lambda_returns(reward, best, no, no, 0.5, 1.0).flatten().tolist() == [4.0, 6.0]


def test_loss():
    """The loss is half of the weighted mean of squared errors."""
    assert q_loss(tensor([1.0, 2.0]), tensor([3.0, 1.0]), tensor([0.25, 0.75])).item() == 0.5 * (1 + 0.75)


def test_prepared_rollout_and_loss():
    """Returns use the best permitted action; end rows are masked; the loss takes the chosen action's value."""
    algorithm = build_pqn(gamma=0.5, q_lambda=0.0)
    agent = algorithm.build_agent()
    for parameter in agent.policy.parameters():
        parameter.data.zero_()
    agent.policy.advantage[-1].bias.data.copy_(tensor([4.0, 8.0]))
    masks = tensor([[1, 1], [1, 0], [0, 0], [1, 1]], dtype=torch.int8)[:, None]
    rollout = TensorDict(
        {
            "obs": TensorDict({"position": torch.rand(4, 1, 3), "action_mask": masks}, [4, 1]),
            "action": column([1, 0, 0, 0], torch.int64),
            "reward": column([0, 1, 2, 0]),
            "terminated": column([0, 0, 1, 0], torch.bool),
            "truncated": torch.zeros(4, 1, dtype=torch.bool),
        },
        [4, 1],
    )
    with torch.no_grad():
        rows = algorithm.prepare_rollout(agent, rollout)
    assert rows["mask"].flatten().tolist() == [True, True, False]
    assert rows["returns"].flatten()[:2].tolist() == [1 + 0.5 * 4, 2.0]
    batch = rows[:2, 0].update({"sample_weight": tensor([0.5, 0.5])})
    assert algorithm.loss(agent, batch, {}, {}).value.item() == 0.5 * (25 + 4) / 2


def test_network_and_schedules():
    """Every hidden layer has LayerNorm; the learning rate falls linearly."""
    algorithm = build_pqn(final_learning_rate=0.0)
    kinds = [type(layer) for layer in algorithm.build_agent().policy.advantage]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
    assert algorithm.phases(Step(0, 0.25))[0].lr_scale == pytest.approx(0.75)
