"""DreamerV3, Hafner et al. 2023 (2301.04104), as in the authors' code of 2026."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from sheeprl.algos.base import Loss, OptimizerSpec, Phase, Step, TargetUpdate, Tensors
from sheeprl.algos.dreamer.actor import ActorHead
from sheeprl.algos.dreamer.dreamer import MODULES, Dreamer, after_context
from sheeprl.algos.dreamer.imagination import Behavior, BehaviorLoss, imagine
from sheeprl.algos.dreamer.loss import imagined_returns, imagined_weights, mean
from sheeprl.algos.dreamer_v3.agent import Actor, DreamerV3Agent, Policy, build_critic, build_latents
from sheeprl.algos.dreamer_v3.args import DreamerV3Args
from sheeprl.algos.dreamer_v3.loss import policy_loss, replayed_returns
from sheeprl.models.latents import Latents, balanced_kl
from sheeprl.models.optimizers import LaProp
from sheeprl.models.parts import in_parts, part_length
from sheeprl.models.ranks import all_rows
from sheeprl.models.rssm import Observed
from sheeprl.models.symlog import symexp

if TYPE_CHECKING:
    from tensordict import TensorDict


class DreamerV3(Dreamer[DreamerV3Args]):
    """DreamerV3: one loss and one phase per gradient step."""

    @property
    def gamma(self) -> float:
        """Return the discount factor."""
        return self.args.gamma

    def build_latents(self) -> Latents:
        """Return categoricals with a uniform part."""
        return build_latents(self.args)

    def build_head(self) -> ActorHead:
        """Return categoricals with a uniform part, or normals."""
        return ActorHead(self.spaces.action, self.args.uniform_mix)

    def build_agent(self) -> nn.Module:
        """Build all networks."""
        return DreamerV3Agent(self.build_policy(), self.args)

    def build_policy(self) -> Any:
        """Build encoder, dynamics and actor."""
        return Policy(self.spaces, self.args)

    def build_actor(self, policy: Policy) -> nn.Module:
        """Build an actor."""
        return Actor(self.head, policy.rssm.size, self.args.widths.units)

    def build_critic(self, agent: DreamerV3Agent) -> nn.Module:
        """Build a critic."""
        return build_critic(agent.policy.rssm.size, self.args.widths.units, len(agent.two_hot.bins))

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return LaProp over three groups. It is elementwise and clips by parameter, so it equals one over all."""
        build = self.optimizer(self.args.learning_rate)
        return {
            name: OptimizerSpec(modules, build, adaptive_clip=self.args.adaptive_clip)
            for name, modules in MODULES.items()
        }

    def optimizer(self, lr: float) -> Callable[..., Optimizer]:
        """Return LaProp."""
        return partial(LaProp, lr=lr)

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, which also moves the slow critic; the learning rate rises over `warmup` steps."""
        update = TargetUpdate("critic", "critic_target", self.args.target_tau)
        scale = min(1.0, (step.gradient_step + 1) / max(1, self.args.warmup))
        return [Phase(tuple(MODULES), self.loss, self.noise, lr_scale=scale, target_updates=(update,), compile=False)]

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the noise of the samples, sample axis first: posteriors, imagined states and imagined actions."""
        return self.model_noise(shape, generator) | self.imagined_noise(shape, generator)

    def loss(self, agent: DreamerV3Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the losses of world model, actor and critic of a batch of sequences `[1 + L, N]`."""
        rows, weight = after_context(batch.select("obs", "reward", "terminated", "truncated")), batch["sample_weight"]
        observed = self.observe(agent.policy, batch, rows, noise)
        model, metrics = self.world_model_loss(agent, observed, rows, weight)
        learned = self.behavior_loss(agent, self.task(agent), self.last_rows(observed.detached()), noise, weight)
        replayed = self.replay_value_loss(agent, self.task_features(observed), rows, learned.returns[0], weight)
        return Loss(
            model + (learned.value + self.args.replay_value_scale * replayed),
            metrics | learned.metrics | {"Loss/replay_value_loss": replayed.detach()},
            carry=self.carried(observed),
            buffers={f"returns.{name}": value for name, value in learned.percentiles.items()},
            write=self.fresh_states(observed),
        )

    def carried(self, observed: Observed) -> Tensors:
        """Return nothing: there is no later phase."""
        return {}

    def predicted_reward(self, agent: DreamerV3Agent, states: Tensor) -> Tensor:
        """Return the mean of the predicted distribution."""
        return in_parts(lambda part: agent.two_hot.mean(agent.reward(part)), states)

    def world_model_loss(
        self, agent: DreamerV3Agent, observed: Observed, rows: TensorDict, weight: Tensor
    ) -> tuple[Tensor, Tensors]:
        """Compute reconstruction, reward, continuation and KL losses of rows `[L, N]`, and their metrics."""
        features = observed.features
        reconstruction = self.reconstruction_loss(agent, features, rows)
        goes_on = (~rows["terminated"]).to(features.dtype) * self.args.gamma
        logit = agent.continuation(features).squeeze(-1)
        kl_loss, kl = self.kl_loss(observed)
        losses = {
            "Loss/reconstruction": reconstruction,
            "Loss/reward": agent.two_hot.loss(agent.reward(self.task_features(observed)), rows["reward"]),
            "Loss/continue": functional.binary_cross_entropy_with_logits(logit, goes_on, reduction="none"),
            "Loss/kl": kl_loss,
        }
        return self.total_of(losses, kl, observed, weight)

    def kl_loss(self, observed: Observed) -> tuple[Tensor, Tensor]:
        """Return the KL loss, which trains prior and posterior by their own scales, and the KL: `[L, N]` each."""
        args = self.args
        forward, backward = self.latents.divergences(observed.posterior, observed.prior)
        return balanced_kl(forward, backward, args.prior_scale, args.posterior_scale, args.free_nats), forward

    def behavior_loss(
        self, agent: Any, behavior: Behavior, starts: Tensors, noise: Tensors, weight: Tensor
    ) -> BehaviorLoss:
        """Compute the losses of actor and critic in imagination from states `[K, N, *]`, without its gradients."""
        args, two_hot, head = self.args, agent.two_hot, self.head
        with torch.no_grad():
            imagined = imagine(
                agent.policy.rssm, behavior.actor, starts["deter"], starts["stoch"], noise["state"], noise["action"]
            )
        states, acted_in = imagined.states, imagined.states[:-1]  # [H + 1, K, N, *] and [H, K, N, *]
        length = part_length(acted_in)
        critic = [behavior.critic(part) for part in torch.split(acted_in, length)]
        with torch.no_grad():
            continues = self.continues(agent, states)
            slow = in_parts(lambda part: two_hot.mean(behavior.critic_target(part)), acted_in)
            value = torch.cat([two_hot.mean(each) for each in (*critic, behavior.critic(states[-1:]))])
            returns = imagined_returns(behavior.reward(imagined), continues, value, args.lambda_)
            reached = imagined_weights(continues, args.gamma)[:-1]
            percentiles = behavior.returns.updated(all_rows(returns.movedim(-1, 0)))
            advantage = (returns - value[:-1]) / behavior.returns.scale(percentiles)
        parameters = in_parts(behavior.actor, acted_in)
        entropy = head.entropy(parameters)
        logprob = head.logprob(parameters, imagined.actions[:-1])
        actor_loss = policy_loss(logprob, advantage, entropy, reached, args.entropy_coef, weight)
        targets = zip(critic, torch.split(returns, length), torch.split(slow, length), strict=True)
        errors = torch.cat([two_hot.loss(*each, args.slow_scale) for each in targets])
        critic_loss = mean(reached * errors, weight)
        metrics = {
            "Loss/policy_loss": actor_loss,
            "Loss/value_loss": critic_loss,
            "Policy/entropy": mean(entropy, weight),
            "Values/imagined_return": mean(returns, weight),
            "Values/return_range": behavior.returns.scale(percentiles),
        }
        detached = {name: value.detach() for name, value in metrics.items()}
        return BehaviorLoss(actor_loss + critic_loss, detached, returns, percentiles)

    def replay_value_loss(
        self, agent: DreamerV3Agent, features: Tensor, rows: TensorDict, imagined: Tensor, weight: Tensor
    ) -> Tensor:
        """Compute the critic's loss on the last replayed rows, with gradients into the world model.

        Args:
            agent: all networks.
            features: inferred states `[L, N, *]`.
            rows: rows `[L, N]`.
            imagined: `[K, N]`, the return imagined from each of the last K rows.
            weight: `[N]`.
        """
        args, two_hot, last = self.args, agent.two_hot, slice(-self.args.starts, None)
        if args.starts < 2:
            return torch.zeros_like(weight).sum()
        states, terminated = features[last], rows["terminated"][last]
        is_last = terminated | rows["truncated"][last]
        returns = replayed_returns(rows["reward"][last], terminated, is_last, imagined, args.gamma, args.lambda_)
        critic = agent.critic(states[:-1])
        with torch.no_grad():
            slow = two_hot.mean(agent.critic_target(states[:-1]))
        errors = two_hot.loss(critic, returns, slow, args.slow_scale)
        return mean((~is_last[:-1]) * errors, weight)

    def own_vector(self, target: Tensor) -> Tensor:
        """Return vectors in the units of the observation for vectors as the decoder predicts them."""
        return symexp(target)
