"""A toy recurrent world model, in the manner of Dreamer: what the contract must carry besides PPO and SAC.

It reads sequences with a context row, begins them with latents that earlier updates wrote back into the buffer, learns
world model and behavior in two phases of a gradient step, and plays with a recurrent state. Nothing outside this file
knows of it: `algo.name: tests.helpers.toy_world_model:ToyWorldModel`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from sheeprl.algos.args import OffPolicy, OffPolicyArgs
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
from sheeprl.buffer.sequences import Sequences
from sheeprl.models import distributions
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp
from sheeprl.utils.settings import STRUCTURAL, Count, Fractional, Positive

if TYPE_CHECKING:
    from tensordict import TensorDict


class ToyWorldModelArgs(OffPolicyArgs):
    """A toy recurrent world model."""

    summary: ClassVar[str] = "a toy recurrent world model with an actor-critic that learns in imagination"
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    algorithm: ClassVar[str] = "tests.helpers.toy_world_model:ToyWorldModel"

    learning_rate: Positive = Field(1e-2, description="Adam's learning rate, of both optimizers")
    sequence_length: Count = Field(6, description="rows of a sequence, besides its context row")
    horizon: Count = Field(3, description="steps of imagination")
    latent_size: Count = Field(24, description="size of the recurrent state", json_schema_extra=STRUCTURAL)
    gamma: Fractional = Field(0.95, description="discount factor")
    entropy_coef: Positive = Field(0.1, description="weight of the entropy bonus")

    def data(self) -> OffPolicy:
        """Sequences with the row before, into which latents are written back. Drawn uniformly."""
        sampler = Sequences(self.sequence_length, context=True)
        return replace(super().data(), sampler=sampler, writes_back=True)


class Policy(nn.Module):
    """The recurrent state and the actor upon it: what players need."""

    def __init__(self, spaces: Spaces, args: ToyWorldModelArgs) -> None:
        """Build the networks."""
        super().__init__()
        self.space, self.choices = spaces.observation, int(spaces.action.n)  # type: ignore[attr-defined]
        self.cell = nn.GRUCell(vector_size(self.space) + self.choices, args.latent_size)
        self.actor = mlp(args.latent_size, (32,), self.choices, "tanh")

    def forward(self, obs: Tensor, previous_action: Tensor, latent: Tensor, is_first: Tensor) -> Tensor:
        """The latent `[N, H]` on arriving at obs `[N, *]`; nothing before a first row counts."""
        keep = (~is_first).float().unsqueeze(-1)
        inputs = torch.cat([to_vector(self.space, obs), self.one_hot(previous_action) * keep], -1)
        return self.cell(inputs, latent * keep)

    def one_hot(self, action: Tensor) -> Tensor:
        """`[*]` to `[*, choices]`."""
        return functional.one_hot(action, self.choices).float()


class Agent(nn.Module):
    """Policy; decoder, prior and head, which predicts reward and end; critic and its slow copy."""

    def __init__(self, spaces: Spaces, args: ToyWorldModelArgs) -> None:
        """Build the networks."""
        super().__init__()
        self.policy = Policy(spaces, args)
        self.decoder = mlp(args.latent_size, (32,), vector_size(spaces.observation), "tanh")
        self.prior = mlp(args.latent_size + self.policy.choices, (32,), args.latent_size, "tanh")
        self.head = mlp(args.latent_size, (32,), 2, "tanh")
        self.critic = mlp(args.latent_size, (32,), 1, "tanh")
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)


class ToyWorldModel(Algorithm[ToyWorldModelArgs]):
    """One step of the world model, then one of actor and critic, in imagination from the latents just inferred."""

    def build_agent(self) -> nn.Module:
        """Return the agent with all networks."""
        return Agent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """The policy's recurrent cell belongs to the world model, its actor doesn't."""
        build = partial(Adam, lr=self.args.learning_rate)
        return {
            "world": OptimizerSpec(("policy.cell", "decoder", "prior", "head"), build, max_grad_norm=10.0),
            "behavior": OptimizerSpec(("policy.actor", "critic"), build, max_grad_norm=10.0),
        }

    def act(
        self, policy: Policy, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Step the recurrent state in every mode; store the latent state, and pass it and the action on."""
        num_envs = len(inputs.reward)
        latent = rnn_state.get("latent", torch.zeros(num_envs, self.args.latent_size))
        previous_action = rnn_state.get("action", torch.zeros(num_envs, dtype=torch.int64))
        latent = policy(inputs.obs, previous_action, latent, inputs.is_first)
        logits = policy.actor(latent) * (mode != "random")
        if mode == "greedy":
            action = logits.argmax(-1)
        else:
            action = distributions.categorical_sample(logits, distributions.exponential_like(logits, generator))
        extras = {"latent": latent, "visits": torch.zeros(num_envs, dtype=torch.int64)}
        return PolicyOutput(action, extras, rnn_state={"latent": latent, "action": action})

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the phases world model and behavior, with its target update."""
        target_update = TargetUpdate("critic", "critic_target", tau=0.05)
        world = Phase("world", self.world_loss)
        return [world, Phase("behavior", self.behavior_loss, self.behavior_noise, target_updates=(target_update,))]

    def observe(self, policy: Policy, batch: TensorDict) -> Tensor:
        """Latents `[L, N, H]` of all rows but the first, which is the context and says where to begin."""
        latent, latents = batch["latent"][0], []
        for t in range(1, len(batch["reward"])):
            latent = policy(batch["obs"][t], batch["action"][t - 1], latent, batch["is_first"][t])
            latents.append(latent)
        return torch.stack(latents)

    def world_loss(self, agent: Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Reconstruction, reward, end and the next latent, each the mean over rows `[L, N]`."""
        latent, weight = self.observe(agent.policy, batch), batch["sample_weight"]
        rows = batch.select("obs", "action", "reward", "terminated", "is_first").apply(lambda values: values[1:])
        reward, end = agent.head(latent).unbind(-1)
        inputs = torch.cat([latent, agent.policy.one_hot(rows["action"])], -1)[:-1]
        surprise = (agent.prior(inputs) - latent[1:].detach()).square().mean(-1) * ~rows["is_first"][1:]
        reconstruction = agent.decoder(latent) - to_vector(self.spaces.observation, rows["obs"], 2)
        errors = {
            "Loss/reconstruction_loss": reconstruction.square().mean(-1),
            "Loss/reward_loss": (reward - rows["reward"]).square(),
            "Loss/end_loss": functional.binary_cross_entropy_with_logits(
                end, rows["terminated"].float(), reduction="none"
            ),
            "Loss/prior_loss": surprise,
        }
        losses = {name: (weight * error.mean(0)).sum() for name, error in errors.items()}
        fresh = latent.detach()
        write = {  # the context row has no new latent, so its values stay
            "latent": torch.cat([batch["latent"][:1], fresh]),
            "visits": torch.cat([batch["visits"][:1], batch["visits"][1:] + 1]),
        }
        return Loss(
            torch.stack(list(losses.values())).sum(),
            metrics={name: loss.detach() for name, loss in losses.items()},
            carry={"latent": fresh},
            write=write,
            priority=errors["Loss/reward_loss"].detach().mean(0),  # unused where samples are drawn uniformly
        )

    def behavior_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return exponential noise `[N, L, horizon, choices]` for the imagined actions."""
        args, choices = self.args, int(self.spaces.action.n)  # type: ignore[attr-defined]
        size = (*shape, args.sequence_length, args.horizon, choices)
        return {"action": torch.empty(size).exponential_(generator=generator)}

    def behavior_loss(self, agent: Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """REINFORCE and value regression on imagined returns, from every row that carries a decision."""
        starts = ~(batch["terminated"] | batch["truncated"])[1:]  # [L, N]
        latents, actions, rewards, continues = self.imagine(agent, carry["latent"], noise["action"].transpose(0, 1))
        value = agent.critic(latents).squeeze(-1)  # [horizon + 1, L, N]
        following = agent.critic_target(latents[-1]).squeeze(-1).detach()
        returns = []
        for reward, keeps_on in zip(reversed(rewards.unbind(0)), reversed(continues.unbind(0)), strict=True):
            following = reward + self.args.gamma * keeps_on * following
            returns.insert(0, following)
        target, value = torch.stack(returns), value[:-1]
        logits = agent.policy.actor(latents[:-1])
        logprob = distributions.categorical_logprob(logits, actions)
        entropy = distributions.categorical_entropy(logits)
        reached = torch.cat([starts.float().unsqueeze(0), starts * continues[:-1].cumprod(0)])
        policy = -logprob * (target - value).detach() - self.args.entropy_coef * entropy
        weighted = [
            (batch["sample_weight"] * (reached * x).mean((0, 1))).sum() for x in (policy, (target - value).square())
        ]
        metrics = {"Loss/policy_loss": weighted[0].detach(), "Loss/value_loss": weighted[1].detach()}
        return Loss(weighted[0] + weighted[1], metrics)

    @torch.no_grad()
    def imagine(self, agent: Agent, latent: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents `[horizon + 1, L, N, H]`, actions, and rewards and chances to go on after them `[horizon, L, N]`."""
        latents, actions = [latent], []
        for exponential in noise.unbind(2):
            actions.append(distributions.categorical_sample(agent.policy.actor(latents[-1]), exponential))
            latents.append(agent.prior(torch.cat([latents[-1], agent.policy.one_hot(actions[-1])], -1)))
        reward, end = agent.head(torch.stack(latents[1:])).unbind(-1)
        return torch.stack(latents), torch.stack(actions), reward, torch.sigmoid(-end)
