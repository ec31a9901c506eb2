import torch
from reinforce_example.loss import baseline_loss, discounted_returns, policy_loss

from sheeprl import train
from sheeprl.config.loading import validate


def column(*values: float) -> torch.Tensor:
    """Return one environment's values as `[T + 1, 1]`."""
    return torch.tensor(values).unsqueeze(-1)


def test_returns_by_hand():
    """Returns equal hand-computed values."""
    # Rows 0 to 4: row 2 is an end row, row 3 starts the next episode, row 4 is the bootstrap row.
    reward, value = column(0.0, 1.0, 2.0, 0.0, 3.0), column(9.0, 9.0, 10.0, 9.0, 20.0)
    end, never = column(0, 0, 1, 0, 0).bool(), column(0, 0, 0, 0, 0).bool()
    truncated = discounted_returns(reward, value, never, end, gamma=0.5)
    assert truncated[[0, 1, 3], 0].tolist() == [1 + 0.5 * 7, 2 + 0.5 * 10, 3 + 0.5 * 20]
    terminated = discounted_returns(reward, value, end, never, gamma=0.5)
    assert terminated[[0, 1, 3], 0].tolist() == [1 + 0.5 * 2, 2, 3 + 0.5 * 20]


def test_losses_by_hand():
    """Losses equal hand-computed values."""
    weight = torch.tensor([0.5, 0.5, 0.0])  # the third row is padding
    logprob, advantage = torch.tensor([-1.0, -2.0, -9.0]), torch.tensor([2.0, -1.0, 9.0])
    assert policy_loss(logprob, advantage, weight).item() == 0.0
    value, returns = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([3.0, 2.0, 0.0])
    assert baseline_loss(value, returns, weight).item() == 2.0


def test_learns_to_balance(tmp_path):
    """The algorithm learns to balance the pole."""
    tree = {
        "algo": {"name": "reinforce_example.algorithm:Reinforce", "rollout_steps": 32},
        "env": {"id": "CartPole-v1", "num_envs": 8},
        "run": {"total_steps": 8_000, "mode": "coupled", "dir": str(tmp_path / "run"), "seed": 1},
        "trainer": {"accelerator": "cpu", "threads": 1},
        "eval": {"episodes": 0},
        "log": {"level": "warning"},
    }
    result = train(validate(tree))
    assert result.mean_return > 45  # a random policy gets about 22
