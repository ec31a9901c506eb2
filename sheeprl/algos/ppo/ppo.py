"""Proximal Policy Optimization, Schulman et al. 2017 (1707.06347)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sheeprl.algos.base import Algorithm, Loss, Mode, OptimizerSpec, Phase, PolicyInput, PolicyOutput, Step, Tensors
from sheeprl.algos.ppo.agent import Actor, PPOAgent
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.loss import approximate_kl, clipped_policy_loss, compute_gae, entropy_loss, value_loss

if TYPE_CHECKING:
    from tensordict import TensorDict


class PPO(Algorithm[PPOArgs]):
    """PPO with clipped surrogate objective, GAE and several epochs of minibatches per rollout."""

    def build_agent(self) -> nn.Module:
        """Build actor and critic as separate networks."""
        return PPOAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam over both networks; their gradients are clipped together."""
        build = partial(Adam, lr=self.args.learning_rate, eps=self.args.adam_eps)
        return {"agent": OptimizerSpec(("policy", "critic"), build, self.args.max_grad_norm)}

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Sample actions and store their log probabilities; take the most likely actions when greedy."""
        output = policy(inputs.obs)
        if mode == "greedy":
            return PolicyOutput(policy.greedy(output))
        action = policy.sample(output, generator)
        return PolicyOutput(action, extras={"logprob": policy.logprob(output, action)})

    def prepare_rollout(self, agent: PPOAgent, rollout: TensorDict) -> TensorDict:
        """Compute advantages and returns `[T, B]` with the critic's current parameters."""
        value = agent.critic(rollout["obs"], batch_dims=2)  # [T + 1, B]
        advantage = compute_gae(
            rollout["reward"], value, rollout["terminated"], rollout["truncated"], self.args.gamma, self.args.gae_lambda
        )
        rows = rollout[:-1].select("obs", "action", "logprob")
        rows["advantage"] = advantage
        rows["returns"] = advantage + value[:-1]
        rows["mask"] = ~(rollout["terminated"] | rollout["truncated"])[:-1]  # end rows have no action
        return rows

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase; `anneal` decays learning rate and clip linearly to 0 over the run."""
        decay = 1.0 - step.progress if self.args.anneal else 1.0
        return [Phase("agent", self.loss, scalars={"clip": self.args.clip * decay}, lr_scale=decay)]

    def loss(self, agent: PPOAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute −L^CLIP + c1 L^VF − c2 S, eq. 9, of a minibatch `[N]`."""
        weight: Any = batch["sample_weight"]
        output = agent.policy(batch["obs"])
        logprob = agent.policy.logprob(output, batch["action"])
        old_logprob = batch["logprob"]
        pg_loss = clipped_policy_loss(logprob, old_logprob, batch["advantage"], weight, carry["clip"])
        v_loss = self.value_loss(agent.critic(batch["obs"]), batch["returns"], weight)
        ent_loss = entropy_loss(agent.policy.entropy(output), weight)
        metrics = {
            "Loss/policy_loss": pg_loss.detach(),
            "Loss/value_loss": v_loss.detach(),
            "Loss/entropy_loss": ent_loss.detach(),
            "Loss/approx_kl": approximate_kl(logprob.detach(), old_logprob, weight),
        }
        return Loss(pg_loss + self.args.value_coef * v_loss + self.args.entropy_coef * ent_loss, metrics)

    def value_loss(self, value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        """Return the value loss L^VF; a subclass may override it."""
        return value_loss(value, returns, weight)
