"""SAC with a regularized autoencoder, Yarats et al. 2019 (1910.01741)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Adam

from sheeprl.algos.base import Algorithm, Loss, OptimizerSpec, Phase, Step, Tensors
from sheeprl.algos.sac.sac import SAC
from sheeprl.algos.sac_ae.agent import SACAEAgent
from sheeprl.algos.sac_ae.args import SACAEArgs
from sheeprl.algos.sac_ae.loss import latent_penalty, quantized, reconstruction_loss
from sheeprl.models import noise as device_noise

if TYPE_CHECKING:
    from tensordict import TensorDict


class SACAE(SAC, Algorithm[SACAEArgs]):
    """SAC from pictures, with a phase that trains encoder and decoder to reconstruct them."""

    args: SACAEArgs

    def build_agent(self) -> nn.Module:
        """Build SAC's networks and the decoder."""
        return SACAEAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return SAC's groups, and one Adam each for encoder and decoder; the critics' group has the encoder, too."""
        args = self.args
        alpha = partial(Adam, lr=args.alpha_lr, betas=(args.alpha_beta1, 0.999))
        decoder = partial(Adam, lr=args.decoder_lr, weight_decay=args.decoder_weight_decay)
        return {
            **super().optimizers(),
            "alpha": OptimizerSpec(("alpha",), alpha),
            "encoder": OptimizerSpec(("policy.encoder", "critic.trunk"), partial(Adam, lr=args.encoder_lr)),
            "decoder": OptimizerSpec(("decoder",), decoder),
        }

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return SAC's phases, and then the autoencoder's, which steps encoder and decoder."""
        autoencoder = Phase(("encoder", "decoder"), self.autoencoder_loss, self.autoencoder_noise)
        return [*super().phases(step), autoencoder]

    def autoencoder_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return `seed` `[N]` of the noise on the pictures to reconstruct."""
        return {"seed": device_noise.seeds(shape, generator)}

    def autoencoder_loss(self, agent: SACAEAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J(AE), eq. 5: the error of the decoded pictures and the penalty of their encodings.

        The decoder's own penalty is the weight decay of its optimizer.
        """
        encoder, weight = agent.policy.encoder, batch["sample_weight"]
        latent = agent.latent(encoder(batch["obs"]))
        reconstruction = torch.zeros_like(weight).sum()
        for place, (decoder, picture) in enumerate(
            zip(agent.decoder, encoder.channels_first(batch["obs"]), strict=True)
        ):
            uniform = device_noise.uniform(noise["seed"], place, picture.shape[1:])
            pictures = quantized(picture, uniform) if encoder.pictures[place].scale is not None else picture
            reconstruction = reconstruction + reconstruction_loss(decoder(latent), pictures, weight)
        loss = reconstruction + self.args.latent_penalty * latent_penalty(latent, weight)
        return Loss(loss, {"Loss/reconstruction_loss": reconstruction.detach()})
