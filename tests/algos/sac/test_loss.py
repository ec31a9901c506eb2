"""SAC's losses against hand-computed values."""

from torch import tensor

from sheeprl.algos.sac.loss import actor_loss, alpha_loss, critic_target, expectation


def test_critic_target():
    """The target equals hand-computed values and doesn't bootstrap after termination."""
    target = critic_target(
        reward=tensor([1.0, 2.0, 0.0]),
        discount=tensor([0.5, 0.0, 0.5]),
        next_q=tensor([[4.0, 6.0, -2.0], [1.0, 0.0, 8.0]]),
        next_logprob=tensor([1.0, -3.0, -6.0]),
        alpha=tensor(0.5),
    )
    # 1 + 0.5·(1 − 0.5); 2 (terminated); 0.5·(−2 + 3)
    assert target.tolist() == [1.25, 2.0, 0.5]


def test_actor_loss():
    """The actor loss is the weighted mean of α log π − Q."""
    # ½·((0.5·2 − 1) + (0.5·−4 − 3)) = −2.5
    value, logprob = tensor([1.0, 3.0]), tensor([2.0, -4.0])
    assert actor_loss(value, logprob, tensor(0.5), tensor([0.5, 0.5])).item() == -2.5


def test_alpha_loss():
    """The alpha loss and its gradient equal hand-computed values."""
    # −½·(0.5·(1 − 2) + 0.5·(−3 − 2)) = 1.5, gradient 3: the entropy is above its target, so alpha decreases
    log_alpha = tensor(0.5, requires_grad=True)
    loss = alpha_loss(log_alpha, tensor([1.0, -3.0]), -2.0, tensor([0.5, 0.5]))
    loss.backward()
    assert loss.item() == 1.5 and log_alpha.grad.item() == 3


def test_expectations_over_all_choices():
    """With probabilities, target and actor loss are expectations, equal to hand-computed values."""
    probability, logprob, alpha = tensor([[0.25, 0.75]]), tensor([[-2.0, -1.0]]), tensor(0.5)
    next_q = tensor([[[4.0, 6.0]], [[1.0, 8.0]]])
    target = critic_target(tensor([1.0]), tensor([0.5]), next_q, logprob, alpha, probability)
    # 1 + 0.5·(0.25·(1 + 1) + 0.75·(6 + 0.5))
    assert target.tolist() == [3.6875]
    # 0.25·(−1 − 1) + 0.75·(−0.5 − 6)
    assert actor_loss(next_q.min(0).values, logprob, alpha, tensor([1.0]), probability).item() == -5.375
    assert expectation(logprob, probability).tolist() == [-1.25] and expectation(logprob, None) is logprob


def test_alpha_loss_with_a_target_per_sample():
    """Targets may differ between samples."""
    loss = alpha_loss(tensor(2.0), tensor([-1.0, -0.5]), tensor([0.5, 0.0]), tensor([0.5, 0.5]))
    assert loss.item() == 1.0  # −2·½·((−1 + 0.5) + (−0.5 + 0))
