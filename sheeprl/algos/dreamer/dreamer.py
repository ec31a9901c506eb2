"""Base of the Dreamers: how they act, infer states from observations, and dream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sheeprl.algos.base import Algorithm, Mode, PolicyInput, PolicyOutput, Spaces, Tensors
from sheeprl.algos.dreamer.actor import ActorHead
from sheeprl.algos.dreamer.args import DreamerArgs
from sheeprl.algos.dreamer.imagination import Behavior, BehaviorLoss, Imagined
from sheeprl.algos.dreamer.loss import mean
from sheeprl.algos.world_model import Scene, WorldModel
from sheeprl.models.actions import action_mask
from sheeprl.models.latents import Latents
from sheeprl.models.precision import full_precision
from sheeprl.models.rssm import Observed

if TYPE_CHECKING:
    from tensordict import TensorDict

DreamerArgsT = TypeVar("DreamerArgsT", bound=DreamerArgs)

MODULES = {
    "world_model": ("policy.encoder", "policy.rssm", "decoder", "reward", "continuation"),
    "actor": ("policy.actor",),
    "critic": ("critic",),
}
"""Modules of the agent by group of parameters."""


def after_context(batch: TensorDict) -> TensorDict:
    """Return the rows `[L, N]` of a batch `[1 + L, N]` without the first row."""
    rows = batch.apply(lambda values: values[1:])
    assert rows is not None
    return rows


class Dreamer(Algorithm[DreamerArgsT], WorldModel):
    """Base of the Dreamers. They differ in distributions, networks, losses and phases.

    Attributes:
        latents: distribution of the stochastic state.
        head: distribution of the actions.
    """

    def __init__(self, args: DreamerArgsT, spaces: Spaces) -> None:
        """Choose the distributions of states and actions."""
        super().__init__(args, spaces)
        self.latents, self.head = self.build_latents(), self.build_head()

    @property
    @abstractmethod
    def gamma(self) -> float:
        """Return the discount factor."""

    @abstractmethod
    def build_latents(self) -> Latents:
        """Return the distribution of the stochastic state."""

    @abstractmethod
    def build_head(self) -> ActorHead:
        """Return the distribution of the actions."""

    @abstractmethod
    def build_actor(self, policy: Any) -> nn.Module:
        """Build an actor for the states of a policy."""

    @abstractmethod
    def build_critic(self, agent: Any) -> nn.Module:
        """Build a critic for the states of an agent."""

    @abstractmethod
    def optimizer(self, lr: float) -> Callable[..., Optimizer]:
        """Return the optimizer of a learning rate."""

    @abstractmethod
    def predicted_reward(self, agent: Any, states: Tensor) -> Tensor:
        """Return the predicted rewards `[*]` on arrival at states `[*, state]`."""

    @abstractmethod
    def behavior_loss(
        self, agent: Any, behavior: Behavior, starts: Tensors, noise: Tensors, weight: Tensor
    ) -> BehaviorLoss:
        """Compute the losses of actor and critic in imagination from states `[K, N, *]`."""

    # ------------------------------------------------------------------------------------------- acting

    def acting(self, policy: Any, mode: Mode) -> Any:
        """Return the actor that chooses actions."""
        return policy.actor

    def act(
        self, policy: Any, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
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

    # ------------------------------------------------------------------------------------ inference

    def model_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the noise of the posteriors, sample axis first."""
        return {"posterior": self.latents.draw((*shape, self.args.sequence_length), generator)}

    def observe(self, policy: Any, batch: TensorDict, rows: TensorDict, noise: Tensors) -> Observed:
        """Infer the states of all rows but the first, from whose stored state and action the sequence begins."""
        rssm = policy.rssm
        state = (batch["deter"][0], self.latents.restored(batch["stoch"][0]))
        tokens = policy.encoder(rows["obs"], batch_dims=2)
        actions = self.head.vector(batch["action"][:-1])
        drawn = noise["posterior"].transpose(0, 1)
        observed: Observed = rssm.observe(tokens, actions, batch["is_first"][1:], state, drawn)
        return observed

    def last_rows(self, states: Tensors) -> Tensors:
        """Return the states of the last `imag_last` rows of each sequence."""
        return {name: values[-self.args.starts :] for name, values in states.items()}

    def carried(self, observed: Observed) -> Tensors:
        """Return the inferred states that later phases of the gradient step need."""
        return self.last_rows(observed.detached())

    def fresh_states(self, observed: Observed) -> Tensors:
        """Return the states to write back to all rows but the first, the context, which gets no new one."""
        states = observed.detached()
        states["stoch"] = self.latents.stored(states["stoch"])
        return states

    # ---------------------------------------------------------------------------------- world model

    def task_features(self, observed: Observed) -> Tensor:
        """Return the joined states from which the reward is predicted; their gradients train the world model."""
        return observed.features

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

    # ---------------------------------------------------------------------------------- imagination

    def imagined_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the noise of imagined states and actions, sample axis first."""
        args = self.args
        return {
            "state": self.latents.draw((*shape, args.starts, args.horizon), generator),
            "action": self.head.draw((*shape, args.starts, args.horizon + 1), generator),
        }

    def task(self, agent: Any) -> Behavior:
        """Return the actor and the critic that learn from the predicted reward."""

        def reward(imagined: Imagined) -> Tensor:
            """Return the predicted rewards."""
            return self.predicted_reward(agent, imagined.states)

        returns = getattr(agent, "returns", None)
        return Behavior(agent.policy.actor, agent.critic, agent.critic_target, reward, returns)

    def continues(self, agent: Any, states: Tensor) -> Tensor:
        """Return the predicted discount factor on arrival at states `[*, state]`."""
        predicted: Tensor = full_precision(agent.continuation(states)).squeeze(-1).sigmoid()
        return predicted

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
        reward = self.predicted_reward(agent, features)
        continues = (self.continues(agent, features) / self.gamma).clamp(0.0, 1.0)
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
        return target
