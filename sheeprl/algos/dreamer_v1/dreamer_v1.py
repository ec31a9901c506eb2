"""Dreamer, Hafner et al. 2020 (1912.01603), the first one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.optim import Adam, Optimizer

from sheeprl.algos.dreamer_v1.actor import TanhHead
from sheeprl.algos.dreamer_v1.args import DreamerV1Args
from sheeprl.algos.dreamer_v2.agent import PlainCNNs
from sheeprl.algos.dreamer_v2.early import EarlyDreamer
from sheeprl.models.latents import Gaussians, Latents
from sheeprl.models.recurrent import GRU
from sheeprl.models.rssm import Observed


class DreamerV1(EarlyDreamer[DreamerV1Args]):
    """DreamerV1: Gaussian states, and a tanh-normal actor without entropy bonus.

    The target critic is copied after every gradient step: the returns have the critic's own values, without gradients.
    """

    cnns = PlainCNNs("strided32", "relu")

    def build_latents(self) -> Latents:
        """Return normals."""
        return Gaussians(self.args.stoch)

    def build_head(self) -> TanhHead:
        """Return normals after a hyperbolic tangent."""
        return TanhHead(self.spaces.action, self.args.exploration_noise)

    def build_cell(self) -> GRU:
        """Build the cell of the deterministic state."""
        return GRU(self.args.hidden, self.args.deter)

    def optimizer(self, lr: float) -> Callable[..., Optimizer]:
        """Return Adam."""
        return partial(Adam, lr=lr, eps=self.args.adam_eps)

    def divergence(self, observed: Observed) -> Tensor:
        """Return the KL divergence, which trains prior and posterior alike: `[L, N]`."""
        return self.latents.kl(observed.posterior, observed.prior)
