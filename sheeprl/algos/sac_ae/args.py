"""SAC-AE's arguments and their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sheeprl.algos.sac.args import SACArgs
from sheeprl.utils.settings import (
    LEARNING_RATES,
    STEP_SIZES,
    STRUCTURAL,
    Count,
    Fractional,
    Natural,
    NonNegative,
    Positive,
    Sizes,
    needs,
)

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces


class SACAEArgs(SACArgs):
    """Arguments of SAC-AE, Yarats et al. 2019 (1910.01741): SAC's, with other defaults, and the autoencoder's."""

    algorithm: ClassVar[str] = "sheeprl.algos.sac_ae.sac_ae:SACAE"
    summary: ClassVar[str] = "SAC-AE: SAC from pictures, whose encoder also learns to reconstruct them"
    observations: ClassVar[tuple[str, ...]] = ("pixels",)

    learning_starts: Natural = Field(1000, description="policy steps with random actions before training starts")
    batch_size: Count = Field(128, description="transitions per batch of the whole trainer group")
    actor_lr: Positive = Field(
        1e-3, description="learning rate of Adam for the actor", json_schema_extra=LEARNING_RATES
    )
    critic_lr: Positive = Field(
        1e-3, description="learning rate of Adam for the critics and the encoder", json_schema_extra=LEARNING_RATES
    )
    alpha_lr: Positive = Field(
        1e-4,
        description="learning rate of Adam for the temperature",
        json_schema_extra=needs("algo.learn_alpha") | LEARNING_RATES,
    )
    alpha_beta1: Fractional = Field(
        0.5, description="beta1 of Adam for the temperature", json_schema_extra=needs("algo.learn_alpha")
    )
    encoder_lr: Positive = Field(
        1e-3,
        description="learning rate of Adam for the encoder, in the autoencoder's loss",
        json_schema_extra=LEARNING_RATES,
    )
    decoder_lr: Positive = Field(
        1e-3, description="learning rate of Adam for the decoder", json_schema_extra=LEARNING_RATES
    )
    decoder_weight_decay: NonNegative = Field(1e-7, description="L2 penalty of the decoder's weights, in Adam")
    latent_penalty: NonNegative = Field(1e-6, description="coefficient of the L2 penalty of the encoded pictures")
    alpha: Positive = Field(0.1, description="initial temperature, the coefficient of the entropy")
    tau: Fractional = Field(
        0.01, description="step size of the target critics towards the critics", json_schema_extra=STEP_SIZES
    )
    encoder_tau: Fractional | None = Field(
        0.05, description="step size of the target encoder of pictures towards the encoder; null for algo.tau"
    )
    target_delay: Count = Field(2, description="gradient steps per update of the targets")
    policy_delay: Count = Field(2, description="gradient steps per step of actor and temperature")
    hidden_sizes: Sizes = Field(
        (1024, 1024), description="sizes of the hidden layers of actor and critics", json_schema_extra=STRUCTURAL
    )

    def space_mistakes(self, spaces: Spaces) -> Iterator[str]:
        """Yield SAC's mistakes, and a line if no picture is left to reconstruct."""
        from sheeprl.envs.transforms import input_keys  # imports NumPy, which would delay the help

        yield from super().space_mistakes(spaces)
        _, pictures = input_keys(spaces.observation, self.mlp_keys, self.cnn_keys)
        if not pictures:
            yield (
                f"algo.name={self.name}: no picture is left to reconstruct; use an environment with pixels, or "
                "algo.name=sac for vectors"
            )
