"""DreamerV2, Hafner et al. 2021 (2010.02193)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.optim import AdamW, Optimizer

from sheeprl.algos.base import Spaces
from sheeprl.algos.dreamer_v2.actor import TruncatedHead
from sheeprl.algos.dreamer_v2.agent import PlainCNNs
from sheeprl.algos.dreamer_v2.args import DreamerV2Args
from sheeprl.algos.dreamer_v2.early import EarlyDreamer
from sheeprl.models.latents import Categoricals, Latents
from sheeprl.models.recurrent import LayerNormGRU, Recurrent
from sheeprl.models.rssm import Observed


class DreamerV2(EarlyDreamer[DreamerV2Args]):
    """DreamerV2: categorical states, a balanced KL divergence and a slow critic.

    The actor's gradient passes through the dynamics if actions are continuous; discrete ones use REINFORCE.
    """

    cnns = PlainCNNs("strided48", "elu")

    def __init__(self, args: DreamerV2Args, spaces: Spaces) -> None:
        """Choose the actor's gradient."""
        super().__init__(args, spaces)
        self.through_dynamics = self.head.actions.is_continuous
        self.entropy_coef, self.target_every = args.entropy_coef, args.target_every

    def build_latents(self) -> Latents:
        """Return categoricals without a uniform part."""
        return Categoricals(self.args.categoricals, self.args.classes, mix=0.0)

    def build_head(self) -> TruncatedHead:
        """Return truncated normals, or categoricals."""
        return TruncatedHead(self.spaces.action)

    def build_cell(self) -> Recurrent:
        """Build the cell of the deterministic state."""
        return LayerNormGRU(self.args.hidden, self.args.deter)

    def optimizer(self, lr: float) -> Callable[..., Optimizer]:
        """Return AdamW. It multiplies the decay by the learning rate, which DreamerV2 doesn't."""
        return partial(AdamW, lr=lr, eps=self.args.adam_eps, weight_decay=self.args.weight_decay / lr)

    def divergence(self, observed: Observed) -> Tensor:
        """Return the balanced KL divergence, algorithm 2: `kl_balance` of its gradient trains the prior, `[L, N]`."""
        balance = self.args.kl_balance
        forward, backward = self.latents.divergences(observed.posterior, observed.prior)
        return balance * forward + (1.0 - balance) * backward
