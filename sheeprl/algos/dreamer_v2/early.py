"""Base of the Dreamers before the third: two phases, of the world model and of actor and critic."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.algos.base import Loss, OptimizerSpec, Phase, Step, TargetUpdate, Tensors
from sheeprl.algos.dreamer.dreamer import MODULES, Dreamer, after_context
from sheeprl.algos.dreamer.imagination import Behavior, BehaviorLoss, imagine
from sheeprl.algos.dreamer.loss import imagined_returns, imagined_weights, mean
from sheeprl.algos.dreamer_v2.agent import EarlyDreamerAgent, PlainActor, PlainCNNs, Policy, head
from sheeprl.algos.dreamer_v2.args import EarlyDreamerArgs
from sheeprl.algos.dreamer_v2.loss import with_free_nats
from sheeprl.models.precision import full_precision
from sheeprl.models.recurrent import Recurrent
from sheeprl.models.rssm import Observed

if TYPE_CHECKING:
    from tensordict import TensorDict

BEHAVIOR = ("actor", "critic")
EarlyArgsT = TypeVar("EarlyArgsT", bound=EarlyDreamerArgs)


class EarlyDreamer(Dreamer[EarlyArgsT]):
    """Dreamer with two phases: the world model, then actor and critic in imagination from the inferred states.

    Attributes:
        cnns: CNNs of pictures.
        through_dynamics: True if the actor's gradient passes through the dynamics; False for REINFORCE.
        entropy_coef: coefficient of the policy's entropy.
        target_every: gradient steps between copies of the critic to its target.
    """

    cnns: ClassVar[PlainCNNs]
    through_dynamics: bool = True
    entropy_coef: float = 0.0
    target_every: int = 1

    @property
    def gamma(self) -> float:
        """Return the discount factor."""
        return self.args.gamma

    @abstractmethod
    def build_cell(self) -> Recurrent:
        """Build the cell of the deterministic state."""

    @abstractmethod
    def divergence(self, observed: Observed) -> Tensor:
        """Return the KL divergence of the posterior from the prior, with the gradient that trains both: `[L, N]`."""

    def build_agent(self) -> nn.Module:
        """Build all networks."""
        return EarlyDreamerAgent(self.build_policy(), self.args, self.cnns)

    def build_policy(self) -> Any:
        """Build encoder, dynamics and actor."""
        return Policy(self.spaces, self.args, self.head, self.latents, self.build_cell(), self.cnns)

    def build_actor(self, policy: Policy) -> nn.Module:
        """Build an actor."""
        return PlainActor(self.head, policy.rssm.size, self.args)

    def build_critic(self, agent: EarlyDreamerAgent) -> nn.Module:
        """Build a critic."""
        return head(agent.policy.rssm.size, self.args, 1)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one optimizer each for world model, actor and critic."""
        args = self.args
        rates = {"world_model": args.model_lr, "actor": args.actor_lr, "critic": args.critic_lr}
        return {
            name: OptimizerSpec(modules, self.optimizer(rates[name]), args.max_grad_norm)
            for name, modules in MODULES.items()
        }

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the phases world model and behavior; the target critic is copied every `target_every` steps."""
        copy = TargetUpdate("critic", "critic_target", 1.0)
        updates = () if (step.gradient_step + 1) % self.target_every else (copy,)
        return [
            Phase("world_model", self.model_loss, self.model_noise, compile=False),
            Phase(BEHAVIOR, self.actor_critic_loss, self.imagined_noise, target_updates=updates, compile=False),
        ]

    def model_loss(self, agent: EarlyDreamerAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the loss of the world model of a batch of sequences `[1 + L, N]`, and carry the last states."""
        rows = after_context(batch.select("obs", "reward", "terminated", "truncated"))
        observed = self.observe(agent.policy, batch, rows, noise)
        args, features, weight = self.args, observed.features, batch["sample_weight"]
        kl = self.divergence(observed)
        losses = {
            "Loss/reconstruction": 0.5 * self.reconstruction_loss(agent, features, rows),
            "Loss/reward": 0.5 * (agent.reward(self.task_features(observed)).squeeze(-1) - rows["reward"]).square(),
            "Loss/kl": args.kl_scale * with_free_nats(kl, args.free_nats, weight),
        }
        if args.continue_scale:
            goes_on = args.gamma * (~rows["terminated"]).to(features.dtype)
            logit = agent.continuation(features).squeeze(-1)
            error = functional.binary_cross_entropy_with_logits(logit, goes_on, reduction="none")
            losses["Loss/continue"] = args.continue_scale * error
        total, metrics = self.total_of(losses, kl, observed, weight)
        return Loss(total, metrics, carry=self.carried(observed), write=self.fresh_states(observed))

    def continues(self, agent: Any, states: Tensor) -> Tensor:
        """Return the discount factor on arrival at states `[*, state]`: predicted, or γ without a continuation."""
        if not self.args.continue_scale:
            return torch.full(states.shape[:-1], self.args.gamma, dtype=states.dtype, device=states.device)
        return super().continues(agent, states)

    def actor_critic_loss(self, agent: EarlyDreamerAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the losses of actor and critic on states imagined from the carried ones."""
        learned = self.behavior_loss(agent, self.task(agent), self.last_rows(carry), noise, batch["sample_weight"])
        return Loss(learned.value, learned.metrics)

    def predicted_reward(self, agent: Any, states: Tensor) -> Tensor:
        """Return the output of the reward's head."""
        return full_precision(agent.reward(states)).squeeze(-1)

    def behavior_loss(
        self, agent: Any, behavior: Behavior, starts: Tensors, noise: Tensors, weight: Tensor
    ) -> BehaviorLoss:
        """Compute the losses of actor and critic in imagination from states `[K, N, *]`.

        The actor's loss has no gradient to the critic, whose values are those of the target critic. The critic's loss
        has none to the actor, because its states are detached.
        """
        args, rssm = self.args, agent.policy.rssm
        with torch.set_grad_enabled(self.through_dynamics):
            imagined = imagine(rssm, behavior.actor, starts["deter"], starts["stoch"], noise["state"], noise["action"])
            continues = self.continues(agent, imagined.states)
            value = full_precision(behavior.critic_target(imagined.states)).squeeze(-1)
            returns = imagined_returns(behavior.reward(imagined), continues, value, args.lambda_)
        states = imagined.states.detach()
        reached = imagined_weights(continues.detach(), args.gamma)[:-1]
        parameters = behavior.actor(states[:-1])
        entropy = self.head.entropy(parameters)
        if self.through_dynamics:
            objective = returns
        else:
            advantage = (returns - value[:-1]).detach()
            objective = self.head.logprob(parameters, imagined.actions[:-1]) * advantage
        actor_loss = -mean(reached * (objective + self.entropy_coef * entropy), weight)
        errors = 0.5 * (behavior.critic(states[:-1]).squeeze(-1) - returns.detach()).square()
        critic_loss = mean(reached * errors, weight)
        metrics = {
            "Loss/policy_loss": actor_loss,
            "Loss/value_loss": critic_loss,
            "Policy/entropy": mean(entropy, weight),
            "Values/imagined_return": mean(returns, weight),
        }
        detached = {name: value.detach() for name, value in metrics.items()}
        return BehaviorLoss(actor_loss + critic_loss, detached, returns)

    def own_picture(self, target: Tensor) -> Tensor:
        """Return pictures in [0, 1] for pictures in ±½."""
        return target + 0.5
