"""Plan2Explore, Sekar et al. 2020 (2005.05960), on each of the three Dreamers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Algorithm, Loss, Mode, OptimizerSpec, Phase, Step, TargetUpdate, Tensors
from sheeprl.algos.dreamer.dreamer import Dreamer
from sheeprl.algos.dreamer.imagination import Behavior, Imagined
from sheeprl.algos.dreamer.loss import mean
from sheeprl.algos.dreamer_v1.dreamer_v1 import DreamerV1
from sheeprl.algos.dreamer_v2.dreamer_v2 import DreamerV2
from sheeprl.algos.dreamer_v3.dreamer_v3 import DreamerV3
from sheeprl.algos.plan2explore.args import P2EDV1Args, P2EDV2Args, P2EDV3Args
from sheeprl.models.parts import in_parts
from sheeprl.models.rssm import Observed
from sheeprl.models.stacked import Ensemble, disagreement

if TYPE_CHECKING:
    from tensordict import TensorDict

EXPLORER = ("explorer", "explorer_critic")


class Explorer(nn.Module):
    """Networks of the exploration besides its actor, which is a part of the policy.

    Args:
        critic: predicts the discounted sum of intrinsic rewards.
        returns: percentiles of the returns at the beginning, of DreamerV3; they are copied.
        ensemble: predicts the next stochastic state from state and action.
    """

    def __init__(self, critic: nn.Module, returns: nn.Module | None, ensemble: Ensemble) -> None:
        """Store the networks."""
        super().__init__()
        self.critic, self.critic_target = critic, copy.deepcopy(critic).requires_grad_(False)
        self.returns = copy.deepcopy(returns)
        self.ensemble = ensemble


class Plan2Explore(Dreamer[Any]):
    """Second actor and critic that learn from the disagreement of an ensemble; derive from it before a Dreamer.

    The first actor and critic learn the task from the predicted reward, which doesn't train the world model. They play
    evaluations only.
    """

    def build_agent(self) -> nn.Module:
        """Build the Dreamer's networks, a second critic, and the ensemble."""
        agent: Any = super().build_agent()  # type: ignore[safe-super]
        args, inputs, outputs = self.args, agent.policy.rssm.size + self.head.size, self.latents.size
        ensemble = Ensemble(args.ensemble, inputs, args.ensemble_units, args.ensemble_layers, outputs)
        agent.explorer = Explorer(self.build_critic(agent), getattr(agent, "returns", None), ensemble)
        return agent  # type: ignore[no-any-return]

    def build_policy(self) -> Any:
        """Build the Dreamer's encoder, dynamics and actor, and the explorer."""
        policy = super().build_policy()
        policy.explorer = self.build_actor(policy)
        return policy

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return the Dreamer's optimizers, and such optimizers for explorer, its critic and ensemble."""
        specs = super().optimizers()  # type: ignore[safe-super]
        return specs | {
            "explorer": replace(specs["actor"], modules=("policy.explorer",)),
            "explorer_critic": replace(specs["critic"], modules=("explorer.critic",)),
            "ensemble": replace(
                specs["world_model"], modules=("explorer.ensemble",), build=self.optimizer(self.args.ensemble_lr)
            ),
        }

    def acting(self, policy: Any, mode: Mode) -> Any:
        """Return the explorer, and for greedy actions the actor of the task."""
        return policy.actor if mode == "greedy" else policy.explorer

    def task_features(self, observed: Observed) -> Tensor:
        """Return the joined states without gradients: the reward doesn't train the world model."""
        return observed.features.detach()

    def carried(self, observed: Observed) -> Tensors:
        """Return the inferred states of all rows."""
        return observed.detached()

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the Dreamer's phases, and those of ensemble and explorer."""
        phases = super().phases(step)  # type: ignore[safe-super]
        updates = [
            TargetUpdate(f"explorer.{update.online}", f"explorer.{update.target}", update.tau)
            for update in phases[-1].target_updates
        ]
        ensemble = replace(phases[-1], optimizer="ensemble", loss=self.ensemble_loss, noise=None, target_updates=())
        explorer = replace(
            phases[-1],
            optimizer=EXPLORER,
            loss=self.explorer_loss,
            noise=self.imagined_noise,
            target_updates=tuple(updates),
        )
        return [*phases, ensemble, explorer]

    def ensemble_inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return what the ensemble predicts the next stochastic states from: states joined with actions, `[*, n]`."""
        return torch.cat([states, self.head.vector(actions)], -1)

    def ensemble_loss(self, agent: Any, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute ½ ‖ẑ_{t+1} − z_{t+1}‖² of each network, averaged over the rows that an episode continues after."""
        states = torch.cat([carry["deter"], carry["stoch"]], -1)
        predicted = agent.explorer.ensemble(self.ensemble_inputs(states[:-1], batch["action"][1:-1]))
        continues = ~batch["is_first"][2:]
        errors = 0.5 * (predicted - carry["stoch"][1:]).square().sum(-1)
        weight = batch["sample_weight"]
        loss = mean(continues * errors.sum(0), weight)
        metrics = {"Loss/ensemble_loss": loss, "Rewards/intrinsic": mean(self.intrinsic(predicted), weight)}
        return Loss(loss, {name: value.detach() for name, value in metrics.items()})

    def intrinsic(self, predicted: Tensor) -> Tensor:
        """Return the intrinsic reward of predictions `[ensemble, *, stoch]`: their disagreement, `[*]`."""
        scale: float = self.args.intrinsic_scale
        return scale * disagreement(predicted)

    def exploration(self, agent: Any) -> Behavior:
        """Return the actor and the critic that learn from the intrinsic reward."""

        def reward(imagined: Imagined) -> Tensor:
            """Return the intrinsic rewards on arrival."""
            inputs = self.ensemble_inputs(imagined.states[:-1], imagined.actions[:-1])
            rewards = in_parts(lambda part: self.intrinsic(agent.explorer.ensemble(part)), inputs)
            return torch.cat([torch.zeros_like(rewards[:1]), rewards])

        explorer = agent.explorer
        return Behavior(agent.policy.explorer, explorer.critic, explorer.critic_target, reward, explorer.returns)

    def explorer_loss(self, agent: Any, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the losses of the explorer and its critic in imagination."""
        learned = self.behavior_loss(
            agent, self.exploration(agent), self.last_rows(carry), noise, batch["sample_weight"]
        )
        return Loss(
            learned.value,
            {f"{name}_exploration": value for name, value in learned.metrics.items()},
            buffers={f"explorer.returns.{name}": value for name, value in learned.percentiles.items()},
        )


class P2EDV1(Plan2Explore, DreamerV1, Algorithm[P2EDV1Args]):
    """Plan2Explore on DreamerV1."""


class P2EDV2(Plan2Explore, DreamerV2, Algorithm[P2EDV2Args]):
    """Plan2Explore on DreamerV2."""


class P2EDV3(Plan2Explore, DreamerV3, Algorithm[P2EDV3Args]):
    """Plan2Explore on DreamerV3."""
