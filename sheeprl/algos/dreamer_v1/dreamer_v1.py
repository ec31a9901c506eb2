"""Dreamer, Hafner et al. 2020 (1912.01603), the first one."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.optim import Adam

from sheeprl.algos.base import Algorithm, OptimizerSpec, Spaces
from sheeprl.algos.dreamer_v1.actor import TanhHead
from sheeprl.algos.dreamer_v1.args import DreamerV1Args
from sheeprl.algos.dreamer_v2.agent import EarlyDreamerAgent, Policy
from sheeprl.algos.dreamer_v2.dreamer_v2 import MODULES, DreamerV2
from sheeprl.models.latents import Gaussians
from sheeprl.models.recurrent import GRU
from sheeprl.models.rssm import Observed

CNN = "strided32"


class DreamerV1(DreamerV2, Algorithm[DreamerV1Args]):
    """DreamerV2's phases with Gaussian states, a tanh-normal actor without entropy bonus and no slow critic."""

    def __init__(self, args: DreamerV1Args, spaces: Spaces) -> None:
        """Choose the distributions of states and actions."""
        Algorithm.__init__(self, args, spaces)  # type: ignore[misc]
        self.latents = Gaussians(args.stoch)
        self.head = TanhHead(spaces.action, args.exploration_noise)
        self.through_dynamics, self.entropy_coef = True, 0.0
        self.target_every = 1  # the values of the returns are the critic's own: its copy gets no gradient

    def build_agent(self) -> nn.Module:
        """Build all networks."""
        cell = GRU(self.args.hidden, self.args.deter)
        policy = Policy(self.spaces, self.args, self.head, self.latents, cell, CNN)
        return EarlyDreamerAgent(policy, self.args, CNN)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam each for world model, actor and critic."""
        args = self.args
        rates = {"world_model": args.model_lr, "actor": args.actor_lr, "critic": args.critic_lr}
        return {
            name: OptimizerSpec(modules, partial(Adam, lr=rates[name], eps=args.adam_eps), args.max_grad_norm)
            for name, modules in MODULES.items()
        }

    def kl_loss(self, observed: Observed) -> Tensor:
        """Return max(free nats, KL), `[L, N]`, which trains prior and posterior alike."""
        return self.latents.kl(observed.posterior, observed.prior).clamp_min(self.args.free_nats)
