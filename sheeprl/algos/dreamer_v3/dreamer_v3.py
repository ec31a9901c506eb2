"""DreamerV3, Hafner et al. 2023 (2301.04104), as in the authors' code of 2026."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.algos.base import (
    Algorithm,
    Loss,
    Mode,
    OptimizerSpec,
    Phase,
    PolicyInput,
    PolicyOutput,
    Spaces,
    Step,
    TargetUpdate,
    Tensors,
)
from sheeprl.algos.dreamer_v3.actor import ActorHead
from sheeprl.algos.dreamer_v3.agent import DreamerV3Agent, Policy, build_latents
from sheeprl.algos.dreamer_v3.args import DreamerV3Args
from sheeprl.algos.dreamer_v3.imagination import Imagined, imagine
from sheeprl.algos.dreamer_v3.loss import imagined_returns, imagined_weights, mean, policy_loss, replayed_returns
from sheeprl.models.actions import action_mask
from sheeprl.models.latents import Latents, balanced_kl
from sheeprl.models.optimizers import LaProp
from sheeprl.models.ranks import all_rows
from sheeprl.models.rssm import Observed

if TYPE_CHECKING:
    from tensordict import TensorDict


def after_context(batch: TensorDict) -> TensorDict:
    """Return the rows `[L, N]` of a batch `[1 + L, N]` without the first row."""
    rows = batch.apply(lambda values: values[1:])
    assert rows is not None
    return rows


MODULES = {
    "world_model": ("policy.encoder", "policy.rssm", "decoder", "reward", "continuation"),
    "actor": ("policy.actor",),
    "critic": ("critic",),
}
"""Modules of the agent by group of parameters."""


class DreamerV3(Algorithm[DreamerV3Args]):
    """DreamerV3: one loss and one phase per gradient step."""

    latents: Latents
    head: ActorHead

    def __init__(self, args: DreamerV3Args, spaces: Spaces) -> None:
        """Choose the distributions of states and actions."""
        super().__init__(args, spaces)
        self.latents, self.head = build_latents(args), ActorHead(spaces.action, args.uniform_mix)

    def build_agent(self) -> nn.Module:
        """Build all networks."""
        return DreamerV3Agent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return LaProp over three groups. It is elementwise and clips by parameter, so it equals one over all."""
        build = partial(LaProp, lr=self.args.learning_rate)
        return {
            name: OptimizerSpec(modules, build, adaptive_clip=self.args.adaptive_clip)
            for name, modules in MODULES.items()
        }

    def act(
        self, policy: Policy, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Infer the state in every mode, store it with the row, and act on it."""
        rssm, n = policy.rssm, inputs.reward.shape[0]
        keep = (~inputs.is_first).float().unsqueeze(-1)
        sizes = {"deter": rssm.cell.size, "stoch": self.latents.size, "action": self.head.size}
        before = rnn_state or {name: keep.new_zeros(n, size) for name, size in sizes.items()}
        prepared = rssm.cell.prepare(before["action"] * keep)
        deter = rssm.cell(before["deter"] * keep, before["stoch"] * keep, prepared)
        stoch = rssm.infer(deter, policy.encoder(inputs.obs), self.latents.draw((n,), generator))
        output = policy.actor(torch.cat([deter, stoch], -1))
        action = self.head.act(output, mode, action_mask(inputs.obs), generator)
        extras = {"deter": deter, "stoch": self.latents.stored(stoch)}
        state = {"deter": deter, "stoch": stoch, "action": self.head.vector(action)}
        return PolicyOutput(action, extras, rnn_state=state)

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, which also moves the slow critic; the learning rate rises over `warmup` steps."""
        update = TargetUpdate("critic", "critic_target", self.args.target_tau)
        scale = min(1.0, (step.gradient_step + 1) / max(1, self.args.warmup))
        return [Phase(tuple(MODULES), self.loss, self.noise, lr_scale=scale, target_updates=(update,), compile=False)]

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the noise of the samples, sample axis first: posteriors, imagined states and imagined actions."""
        args = self.args
        imagined = (*shape, args.starts, args.horizon)
        return {
            "posterior": self.latents.draw((*shape, args.sequence_length), generator),
            "state": self.latents.draw(imagined, generator),
            "action": self.head.draw((*shape, args.starts, args.horizon + 1), generator),
        }

    def loss(self, agent: DreamerV3Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the losses of world model, actor and critic of a batch of sequences `[1 + L, N]`."""
        rows = after_context(batch.select("obs", "reward", "terminated", "truncated"))
        observed = self.observe(agent.policy, batch, rows, noise)
        model, metrics = self.world_model_loss(agent, observed, rows, batch["sample_weight"])
        behavior, more, buffers = self.behavior_loss(agent, observed, rows, noise, batch["sample_weight"])
        return Loss(model + behavior, metrics | more, buffers=buffers, write=self.fresh_states(batch, observed))

    def fresh_states(self, batch: TensorDict, observed: Observed) -> Tensors:
        """Return the states to write back; the context row gets no new state, so its values stay."""
        fresh = {"deter": observed.deter.detach(), "stoch": self.latents.stored(observed.stoch.detach())}
        return {name: torch.cat([batch[name][:1], values.to(batch[name].dtype)]) for name, values in fresh.items()}

    def observe(self, policy: Policy, batch: TensorDict, rows: TensorDict, noise: Tensors) -> Observed:
        """Infer the states of all rows but the first, from whose stored state and action the sequence begins."""
        rssm = policy.rssm
        state = (batch["deter"][0], self.latents.restored(batch["stoch"][0]))
        tokens = policy.encoder(rows["obs"], batch_dims=2)
        actions = self.head.vector(batch["action"][:-1])
        return rssm.observe(tokens, actions, batch["is_first"][1:], state, noise["posterior"].transpose(0, 1))

    def world_model_loss(
        self, agent: DreamerV3Agent, observed: Observed, rows: TensorDict, weight: Tensor
    ) -> tuple[Tensor, Tensors]:
        """Compute reconstruction, reward, continuation and KL losses of rows `[L, N]`, and their metrics."""
        args, latents, features = self.args, self.latents, observed.features
        reconstruction = self.reconstruction_loss(agent, features, rows)
        goes_on = (~rows["terminated"]).to(features.dtype) * args.gamma
        logit = agent.continuation(features).squeeze(-1)
        forward, backward = latents.divergences(observed.posterior, observed.prior)
        losses = {
            "Loss/reconstruction": reconstruction,
            "Loss/reward": agent.two_hot.loss(agent.reward(features), rows["reward"]),
            "Loss/continue": functional.binary_cross_entropy_with_logits(logit, goes_on, reduction="none"),
            "Loss/kl": balanced_kl(forward, backward, args.prior_scale, args.posterior_scale, args.free_nats),
        }
        return self.total_of(losses, forward, observed, weight)

    def reconstruction_loss(self, agent: Any, features: Tensor, rows: TensorDict) -> Tensor:
        """Return the summed squared errors of the decoded observations, `[L, N]`."""
        pictures, vector = agent.decoder(features)
        picture_targets, vector_target = agent.policy.encoder.targets(rows["obs"], 2)
        loss = torch.zeros_like(rows["reward"])
        for picture, target in zip(pictures, picture_targets, strict=True):
            loss = loss + (picture - target).square().sum((1, 2, 3)).view_as(rows["reward"])
        return loss if vector is None else loss + (vector - vector_target).square().sum(-1)

    def total_of(self, losses: Tensors, kl: Tensor, observed: Observed, weight: Tensor) -> tuple[Tensor, Tensors]:
        """Return the sum of the mean losses of the world model, and its metrics; losses and KL are `[L, N]`."""
        means = {name: mean(values, weight) for name, values in losses.items()}
        total = torch.stack(list(means.values())).sum()
        states = {
            "State/kl": kl,
            "State/prior_entropy": self.latents.entropy(observed.prior.detach()),
            "State/post_entropy": self.latents.entropy(observed.posterior.detach()),
        }
        metrics = means | {name: mean(values, weight) for name, values in states.items()}
        metrics["Loss/world_model_loss"] = total
        return total, {name: value.detach() for name, value in metrics.items()}

    def imagine(self, agent: DreamerV3Agent, observed: Observed, noise: Tensors) -> Imagined:
        """Imagine from the last `imag_last` rows of each sequence, without gradients."""
        starts = slice(-self.args.starts, None)
        with torch.no_grad():
            return imagine(
                agent.policy, observed.deter[starts], observed.stoch[starts], noise["state"], noise["action"]
            )

    def behavior_loss(
        self, agent: DreamerV3Agent, observed: Observed, rows: TensorDict, noise: Tensors, weight: Tensor
    ) -> tuple[Tensor, Tensors, Tensors]:
        """Compute the losses of actor and critic; return their sum, the metrics and the new percentiles."""
        args, two_hot, head = self.args, agent.two_hot, self.head
        imagined = self.imagine(agent, observed, noise)
        states = imagined.states  # [H + 1, K, N, *]
        critic = agent.critic(states)
        with torch.no_grad():
            reward = two_hot.mean(agent.reward(states))
            continues = agent.continuation(states).squeeze(-1).sigmoid()
            slow = two_hot.mean(agent.critic_target(states))
            value = two_hot.mean(critic)
            returns = imagined_returns(reward, continues, value, args.lambda_)
            reached = imagined_weights(continues)[:-1]
            percentiles = agent.returns.updated(all_rows(returns.movedim(-1, 0)))
            advantage = (returns - value[:-1]) / agent.returns.scale(percentiles)
        parameters = agent.policy.actor(states[:-1])
        entropy = head.entropy(parameters)
        logprob = head.logprob(parameters, imagined.actions[:-1])
        actor_loss = policy_loss(logprob, advantage, entropy, reached, args.entropy_coef, weight)
        errors = two_hot.loss(critic[:-1], returns) + args.slow_scale * two_hot.loss(critic[:-1], slow[:-1])
        critic_loss = mean(reached * errors, weight)
        replayed = self.replay_value_loss(agent, observed, rows, returns[0], weight)
        metrics = {
            "Loss/policy_loss": actor_loss,
            "Loss/value_loss": critic_loss,
            "Loss/replay_value_loss": replayed,
            "Policy/entropy": mean(entropy, weight),
            "Values/imagined_return": mean(returns, weight),
            "Values/return_range": agent.returns.scale(percentiles),
        }
        buffers = {f"returns.{name}": value for name, value in percentiles.items()}
        total = actor_loss + critic_loss + args.replay_value_scale * replayed
        return total, {name: value.detach() for name, value in metrics.items()}, buffers

    def replay_value_loss(
        self, agent: DreamerV3Agent, observed: Observed, rows: TensorDict, imagined: Tensor, weight: Tensor
    ) -> Tensor:
        """Compute the critic's loss on the last replayed rows, with gradients into the world model.

        Args:
            agent: all networks.
            observed: inferred states `[L, N]`.
            rows: rows `[L, N]`.
            imagined: `[K, N]`, the return imagined from each of the last K rows.
            weight: `[N]`.
        """
        args, two_hot, last = self.args, agent.two_hot, slice(-self.args.starts, None)
        if args.starts < 2:
            return torch.zeros_like(weight).sum()
        states, terminated = observed.features[last], rows["terminated"][last]
        is_last = terminated | rows["truncated"][last]
        returns = replayed_returns(rows["reward"][last], terminated, is_last, imagined, args.gamma, args.lambda_)
        critic = agent.critic(states[:-1])
        with torch.no_grad():
            slow = two_hot.mean(agent.critic_target(states[:-1]))
        errors = two_hot.loss(critic, returns) + args.slow_scale * two_hot.loss(critic, slow)
        return mean((~is_last[:-1]) * errors, weight)
