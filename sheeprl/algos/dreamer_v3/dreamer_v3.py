"""DreamerV3, Hafner et al. 2023 (2301.04104), as in the authors' code of 2026."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

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
from sheeprl.algos.dreamer_v3.imagination import Behavior, BehaviorLoss, Imagined, imagine
from sheeprl.algos.dreamer_v3.loss import imagined_returns, imagined_weights, mean, policy_loss, replayed_returns
from sheeprl.algos.world_model import Scene, WorldModel
from sheeprl.models.actions import action_mask
from sheeprl.models.latents import Latents, balanced_kl
from sheeprl.models.optimizers import LaProp
from sheeprl.models.ranks import all_rows
from sheeprl.models.rssm import Observed
from sheeprl.models.symlog import symexp

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


class DreamerV3(Algorithm[DreamerV3Args], WorldModel):
    """DreamerV3: one loss and one phase per gradient step."""

    latents: Latents
    head: ActorHead

    def __init__(self, args: DreamerV3Args, spaces: Spaces) -> None:
        """Choose the distributions of states and actions."""
        super().__init__(args, spaces)
        self.latents, self.head = build_latents(args), ActorHead(spaces.action, args.uniform_mix)

    def build_agent(self) -> nn.Module:
        """Build all networks."""
        return DreamerV3Agent(self.build_policy(), self.args)

    def build_policy(self) -> Any:
        """Build encoder, dynamics and actor."""
        return Policy(self.spaces, self.args)

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

    def acting(self, policy: Any, mode: Mode) -> Any:
        """Return the actor that chooses actions."""
        return policy.actor

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
        output = self.acting(policy, mode)(torch.cat([deter, stoch], -1))
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
        return self.model_noise(shape, generator) | self.imagined_noise(shape, generator)

    def model_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the noise of the posteriors, sample axis first."""
        return {"posterior": self.latents.draw((*shape, self.args.sequence_length), generator)}

    def imagined_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the noise of imagined states and actions, sample axis first."""
        args = self.args
        return {
            "state": self.latents.draw((*shape, args.starts, args.horizon), generator),
            "action": self.head.draw((*shape, args.starts, args.horizon + 1), generator),
        }

    def loss(self, agent: DreamerV3Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the losses of world model, actor and critic of a batch of sequences `[1 + L, N]`."""
        rows, weight = after_context(batch.select("obs", "reward", "terminated", "truncated")), batch["sample_weight"]
        observed = self.observe(agent.policy, batch, rows, noise)
        model, metrics = self.world_model_loss(agent, observed, rows, weight)
        learned = self.behavior_loss(agent, self.task(agent), self.last_rows(observed), noise, weight)
        replayed = self.replay_value_loss(agent, self.task_features(observed), rows, learned.returns[0], weight)
        return Loss(
            model + (learned.value + self.args.replay_value_scale * replayed),
            metrics | learned.metrics | {"Loss/replay_value_loss": replayed.detach()},
            carry=self.carried(observed),
            buffers={f"returns.{name}": value for name, value in learned.percentiles.items()},
            write=self.fresh_states(batch, observed),
        )

    def task(self, agent: DreamerV3Agent) -> Behavior:
        """Return the actor and the critic that learn from the predicted reward."""

        def reward(imagined: Imagined) -> Tensor:
            """Return the predicted rewards."""
            return agent.two_hot.mean(agent.reward(imagined.states))

        return Behavior(agent.policy.actor, agent.critic, agent.critic_target, reward, agent.returns)

    def task_features(self, observed: Observed) -> Tensor:
        """Return the joined states from which the reward is predicted; their gradients train the world model."""
        return observed.features

    def last_rows(self, states: Observed | Tensors) -> Tensors:
        """Return the states of the last `imag_last` rows of each sequence, without gradients."""
        deter, stoch = (
            (states.deter, states.stoch) if isinstance(states, Observed) else (states["deter"], states["stoch"])
        )
        last = slice(-self.args.starts, None)
        return {"deter": deter[last].detach(), "stoch": stoch[last].detach()}

    def carried(self, observed: Observed) -> Tensors:
        """Return the inferred states that later phases of the gradient step need."""
        return {}

    def fresh_states(self, batch: TensorDict, observed: Observed) -> Tensors:
        """Return the states to write back to all rows but the first, the context, which gets no new one."""
        fresh = {"deter": observed.deter.detach(), "stoch": self.latents.stored(observed.stoch.detach())}
        return {name: values.to(batch[name].dtype) for name, values in fresh.items()}

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

    def behavior_loss(
        self, agent: Any, behavior: Behavior, starts: Tensors, noise: Tensors, weight: Tensor
    ) -> BehaviorLoss:
        """Compute the losses of actor and critic in imagination from states `[K, N, *]`, without its gradients."""
        args, two_hot, head = self.args, agent.two_hot, self.head
        with torch.no_grad():
            imagined = imagine(
                agent.policy.rssm, behavior.actor, starts["deter"], starts["stoch"], noise["state"], noise["action"]
            )
        states = imagined.states  # [H + 1, K, N, *]
        critic = behavior.critic(states)
        with torch.no_grad():
            continues = self.continues(agent, states)
            slow = two_hot.mean(behavior.critic_target(states[:-1]))
            value = two_hot.mean(critic)
            returns = imagined_returns(behavior.reward(imagined), continues, value, args.lambda_)
            reached = imagined_weights(continues, args.gamma)[:-1]
            percentiles = behavior.returns.updated(all_rows(returns.movedim(-1, 0)))
            advantage = (returns - value[:-1]) / behavior.returns.scale(percentiles)
        parameters = behavior.actor(states[:-1])
        entropy = head.entropy(parameters)
        logprob = head.logprob(parameters, imagined.actions[:-1])
        actor_loss = policy_loss(logprob, advantage, entropy, reached, args.entropy_coef, weight)
        errors = two_hot.loss(critic[:-1], returns, slow, args.slow_scale)
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

    def continues(self, agent: Any, states: Tensor) -> Tensor:
        """Return the predicted discount factor on arrival at states `[*, state]`."""
        predicted: Tensor = agent.continuation(states).squeeze(-1).sigmoid()
        return predicted

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

    def dream(self, agent: Any, rows: TensorDict, context: int, generator: torch.Generator) -> tuple[Scene, Scene]:
        """Infer the states of the first `context` rows, then imagine the others with the actions of the rows."""
        rssm, encoder, batch = agent.policy.rssm, agent.policy.encoder, rows.shape
        actions = self.head.vector(rows["action"])
        noise = self.latents.draw(tuple(batch), generator)
        before = torch.cat([torch.zeros_like(actions[:1]), actions[: context - 1]])
        is_first = (torch.arange(context) == 0).unsqueeze(-1).expand(context, batch[1])
        zeros = (actions.new_zeros(batch[1], rssm.cell.size), actions.new_zeros(batch[1], rssm.latents.size))
        tokens = encoder(rows["obs"][:context], batch_dims=2)
        observed = rssm.observe(tokens, before, is_first, zeros, noise[:context])
        states, deter, stoch = [*observed.features], observed.deter[-1], observed.stoch[-1]
        for row in range(context, batch[0]):
            deter, stoch = rssm.imagine(deter, stoch, actions[row - 1], noise[row])
            states.append(torch.cat([deter, stoch], -1))
        features = torch.stack(states)
        reward = self.task(agent).reward(Imagined(features, actions))
        continues = (self.continues(agent, features) / self.args.gamma).clamp(0.0, 1.0)
        true = self.in_own_units(encoder.targets(rows["obs"], 2), batch)
        predicted = self.in_own_units(agent.decoder(features), batch)
        return Scene(*true, rows["reward"], (~rows["terminated"]).float()), Scene(*predicted, reward, continues)

    def in_own_units(
        self, decoded: tuple[Sequence[Tensor], Tensor | None], batch: torch.Size
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return reconstructed or true pictures `[N, C, H, W]` and vectors as those of a `Scene` of a shape."""
        pictures, vector = decoded
        shown = [self.own_picture(each).clamp(0.0, 1.0).view(*batch, *each.shape[1:]) for each in pictures]
        return shown, None if vector is None else self.own_vector(vector)

    def own_picture(self, target: Tensor) -> Tensor:
        """Return pictures in [0, 1] for pictures as the decoder predicts them."""
        return target

    def own_vector(self, target: Tensor) -> Tensor:
        """Return vectors in the units of the observation for vectors as the decoder predicts them."""
        return symexp(target)
