"""Dreamer, Hafner et al. 2020 (1912.01603), the first one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.optim import Adam, Optimizer

from sheeprl.algos.base import Algorithm, Spaces
from sheeprl.algos.dreamer_v1.actor import TanhHead
from sheeprl.algos.dreamer_v1.args import DreamerV1Args
from sheeprl.algos.dreamer_v2.dreamer_v2 import DreamerV2
from sheeprl.models.latents import Gaussians
from sheeprl.models.recurrent import GRU
from sheeprl.models.rssm import Observed


class DreamerV1(DreamerV2, Algorithm[DreamerV1Args]):
    """DreamerV2's phases with Gaussian states, a tanh-normal actor without entropy bonus and no slow critic."""

    cnn = "strided32"

    def __init__(self, args: DreamerV1Args, spaces: Spaces) -> None:
        """Choose the distributions of states and actions."""
        Algorithm.__init__(self, args, spaces)  # type: ignore[misc]
        self.latents = Gaussians(args.stoch)
        self.head = TanhHead(spaces.action, args.exploration_noise)
        self.through_dynamics, self.entropy_coef = True, 0.0
        self.target_every = 1  # the values of the returns are the critic's own: its copy gets no gradient

    def build_cell(self) -> GRU:
        """Build the cell of the deterministic state."""
        return GRU(self.args.hidden, self.args.deter)

    def optimizer(self, lr: float) -> Callable[..., Optimizer]:
        """Return Adam."""
        return partial(Adam, lr=lr, eps=self.args.adam_eps)

    def kl_loss(self, observed: Observed) -> tuple[Tensor, Tensor]:
        """Return max(free nats, KL), which trains prior and posterior alike, and the KL: `[L, N]` each."""
        kl = self.latents.kl(observed.posterior, observed.prior)
        return kl.clamp_min(self.args.free_nats), kl
