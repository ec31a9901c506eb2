"""SAC-AE's networks: SAC's, and a decoder of the pictures."""

from __future__ import annotations

from torch import Tensor, nn

from sheeprl.algos.base import Spaces
from sheeprl.algos.sac.agent import SACAgent
from sheeprl.algos.sac.args import SACArgs
from sheeprl.models.cnn import PixelDecoder
from sheeprl.models.mlp import orthogonal_


class SACAEAgent(SACAgent):
    """SAC's agent with one decoder for each picture, which reads the critics' bottleneck."""

    def __init__(self, spaces: Spaces, args: SACArgs) -> None:
        """Build SAC's networks and the decoders."""
        super().__init__(spaces, args)
        self.features = args.cnn_features
        shapes = self.policy.encoder.picture_shapes
        self.decoder = orthogonal_(nn.ModuleList(PixelDecoder(self.features, shape, args.cnn) for shape in shapes))

    def latent(self, features: Tensor) -> Tensor:
        """Return the bottleneck's projection of the pictures, `[N, cnn_features]`, of the encoder's features."""
        projected: Tensor = self.critic.trunk(features)
        return projected[:, : self.features]
